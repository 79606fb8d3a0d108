import lzma
import os
import shutil
import socket
from pathlib import Path

from resnext.inference.processor import rule_out_amx

# Before torch is imported, and for the processes that the tests start. Tiny networks run faster on one thread, and many
# times so where something else takes a core. AMX is ruled out where using it would kill the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
rule_out_amx()

import numpy as np
import pytest
import torch

from tests.torchvision_shim import import_torchvision

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
SAMPLE = ROOT / "conversion" / "sample" / "cifar10_resnext11_4x8d_C_nested.t7.xz"
# What Torch7 wrote at full size. Too large for the repository; the tests that need it skip where it is absent.
SHARED = ROOT.parent / "shared" / "torch7"

MODELS = {
    "cifar10_resnext11_4x8d_C_nested": SAMPLE,
    **{path.name.removesuffix(".t7.xz"): path for path in sorted((FIXTURES / "models").glob("*.t7.xz"))},
}


@pytest.fixture(autouse=True, scope="session")
def offline():
    """No test may look beyond this machine; one that does fails at once instead of waiting for an answer."""
    resolve = socket.getaddrinfo

    def refuse(host, *arguments, **options):
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise socket.gaierror(socket.EAI_NONAME, f"tests are offline, and {host} is not this machine")
        return resolve(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The genuine checkpoints, unpacked: name to path."""
    folder = tmp_path_factory.mktemp("models")
    unpacked = {name: folder / f"{name}.t7" for name in MODELS}
    for name, path in unpacked.items():
        path.write_bytes(lzma.decompress(MODELS[name].read_bytes()))
    return unpacked


@pytest.fixture(scope="session")
def sample(models):
    return models["cifar10_resnext11_4x8d_C_nested"]


@pytest.fixture(scope="session")
def full_size(tmp_path_factory):
    """ResNeXt-50 as Torch7 wrote it, unpacked."""
    packed = SHARED / "models" / "resnext_50_32x4d.t7.xz"
    if not packed.exists():
        pytest.skip("the full-size checkpoint (191 MB) is not part of the repository")
    path = tmp_path_factory.mktemp("full") / "resnext_50_32x4d.t7"
    with lzma.open(packed) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 2**22)
    return path


@pytest.fixture(scope="session")
def torchvision():
    return import_torchvision()


def torch7_output(name):
    """Torch7's own forward pass in evaluation mode: input and output."""
    with np.load(FIXTURES / "models" / f"{name}.npz") as arrays:
        return torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["output"])


def relative_error(got, expected):
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def randomize(model, seed=0):
    """Random weights and running statistics, so that no layer is a special case of another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif value.is_floating_point() and value.dim() == 1:
                value.normal_(0.2, 0.3, generator=generator)
    return model
