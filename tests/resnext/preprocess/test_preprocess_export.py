"""The preprocessing as a part of something else: of a file, of a script, of an exported graph, of a model."""

import pickle

import pytest
import torch
from torch import nn
from torch.export import Dim

from resnext.bicubic import plan
from resnext.preprocess import TenCrop, Torch7Preprocess, get_preprocess
from tests.resnext.preprocess.test_preprocess import as_pil, random_image

MODULES = {
    "crop": lambda: Torch7Preprocess(40, 33),
    "whole": lambda: Torch7Preprocess(40, None),
    "ten crops": lambda: nn.Sequential(Torch7Preprocess(40, None), TenCrop(33)),
    "cifar10": lambda: get_preprocess("cifar10"),
    "in a model": lambda: nn.Sequential(Torch7Preprocess(40, 33), nn.Conv2d(3, 4, 3)),
}
BATCH = torch.stack([random_image(47, 61), random_image(47, 61, seed=1)])


@pytest.fixture(params=MODULES)
def module(request):
    torch.manual_seed(0)
    return MODULES[request.param]().eval()


def test_no_state(module):
    assert [key for key in module.state_dict() if "weight" not in key and "bias" not in key] == []
    assert list(module.buffers()) == []


def test_half_precision_rounds_nothing():
    module = Torch7Preprocess(40, 33)
    expected = module(BATCH)
    assert torch.equal(module.half()(BATCH), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(BATCH), expected)


@pytest.mark.parametrize("crop", [33, None])
def test_the_default_device_changes_nothing(crop):
    """As where a model is set up under `torch.device(…)`: images are on the CPU."""
    module = Torch7Preprocess(40, crop)
    expected = module(BATCH)
    with torch.device("meta"):
        assert {table.device.type for table in plan(47, 61, 40, crop)} == {"cpu"}
        assert torch.equal(module(BATCH), expected)


def test_pickled(module):
    with torch.inference_mode():
        assert torch.equal(pickle.loads(pickle.dumps(module))(BATCH), module(BATCH))


def test_a_sequence_takes_pil_images():
    module = MODULES["in a model"]()
    with torch.inference_mode():
        assert torch.equal(module(as_pil(BATCH[0])), module(BATCH[0]))


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
def test_scripted(module, tmp_path):
    torch.jit.script(module).save(tmp_path / "module.pt")
    scripted = torch.jit.load(tmp_path / "module.pt")
    with torch.inference_mode():
        for image in (BATCH, BATCH[0], random_image(80, 40), random_image(9, 30)):
            assert torch.equal(scripted(image), module(image))
    for image in (BATCH / 255, BATCH[:, :2]):
        with pytest.raises(torch.jit.Error, match=r"expected uint8|expected \(3, H, W\)"):
            scripted(image)


@pytest.mark.parametrize("name", ["ten crops", "in a model"])
def test_exported(name):
    module = MODULES[name]()
    exported = torch.export.export(module, (BATCH,)).module()
    with torch.inference_mode():
        assert torch.equal(exported(BATCH), module(BATCH))


def test_exported_for_images_of_any_size(tmp_path):
    module = MODULES["crop"]()
    dynamic = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    torch.export.save(torch.export.export(module, (BATCH,), dynamic_shapes=dynamic), tmp_path / "module.pt2")
    exported = torch.export.load(tmp_path / "module.pt2").module()
    for height, width in ((47, 61), (61, 47), (50, 50), (40, 80), (80, 40), (7, 90), (300, 200)):
        images = torch.stack([random_image(height, width, seed) for seed in range(3)])
        assert torch.equal(exported(images), module(images))


def test_the_device_is_the_images():
    for module in (MODULES["crop"](), MODULES["cifar10"]()):
        assert module(BATCH.to("meta")).device.type == "meta"
