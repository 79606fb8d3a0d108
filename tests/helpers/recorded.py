"""What is recorded in files: genuine Torch7 checkpoints, and what Torch7 and the authors' code made of them."""

from pathlib import Path

import numpy as np
import torch

from conversion import t7

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
SAMPLE = ROOT / "conversion" / "sample" / "cifar10_resnext11_4x8d_C_nested.t7.xz"
# What Torch7 wrote at full size. Too large for the repository; the tests that need it skip where it is absent.
SHARED = ROOT.parent / "shared" / "torch7"

MODELS = {
    "cifar10_resnext11_4x8d_C_nested": SAMPLE,
    **{path.name.removesuffix(".t7.xz"): path for path in sorted((FIXTURES / "models").glob("*.t7.xz"))},
}
LAYERS = sorted((FIXTURES / "layers").glob("*.t7"))


def torch_values(value):
    """The tensors of a file, one or a list of them."""
    if isinstance(value, t7.Table):
        return [torch_values(item) for item in value.as_list()]
    return torch.from_numpy(value.numpy())


def torch7_output(name):
    """Torch7's own forward pass in evaluation mode: input and output."""
    with np.load(FIXTURES / "models" / f"{name}.npz") as arrays:
        return torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["output"])
