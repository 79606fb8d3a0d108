"""Stage maps for detectors and segmenters."""

import pytest
import torch

import resnext
from resnext.architecture import Architecture
from resnext.model import ResNeXtFeatures
from tests.conftest import randomize

IMAGENET = Architecture((1, 1, 1, 1), cardinality=2, base_width=4, num_classes=10)
CIFAR = Architecture((1, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=100)


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def test_maps_are_those_of_the_network(image):
    torch.manual_seed(0)
    whole = randomize(IMAGENET.build()).eval()
    model = ResNeXtFeatures(IMAGENET.layers, cardinality=2, base_width=4).eval()
    assert model.load_state_dict(whole.state_dict(), strict=False).unexpected_keys == ["fc.weight", "fc.bias"]
    with torch.no_grad():
        maps = model(image)
        assert torch.equal(maps[4], whole.forward_features(image))
        assert torch.equal(maps[0], whole.relu(whole.bn1(whole.conv1(image))))
        assert torch.equal(maps[1], whole.layer1(whole.maxpool(maps[0])))
    assert len(maps) == 5


@pytest.mark.parametrize("architecture", [IMAGENET, CIFAR], ids=["imagenet", "cifar"])
@pytest.mark.parametrize("dilate", [False, True])
def test_feature_info_tells_channels_and_reduction(architecture, dilate, image):
    options = {"replace_stride_with_dilation": (False,) * (len(architecture.layers) - 2) + (True,)} if dilate else {}
    model = architecture.build(features_only=True, **options)
    maps = model(image)
    info = model.feature_info
    assert [m.shape[1] for m in maps] == info.channels() == [entry["num_chs"] for entry in info]
    assert [96 // m.shape[2] for m in maps] == info.reduction() == [entry["reduction"] for entry in info]
    assert info.channels() == [64, 256, 512, 1024, 2048][: len(architecture.layers) + 1]
    assert info.module_name() == ["relu", "layer1", "layer2", "layer3", "layer4"][: len(architecture.layers) + 1]
    expected = [2, 4, 8, 16, 32] if architecture is IMAGENET else [1, 1, 2, 4]
    assert info.reduction() == (expected[:-1] + expected[-2:-1] if dilate else expected)


@pytest.mark.parametrize(
    ("indices", "found"), [((1, 3), [1, 3]), ((3, 1), [1, 3]), ((-1,), [4]), ((0,), [0]), ([2, 2, -3], [2])]
)
def test_out_indices(indices, found, image):
    model = IMAGENET.build(features_only=True, out_indices=indices)
    assert [m.shape[1] for m in model(image)] == [[64, 256, 512, 1024, 2048][index] for index in found]
    assert model.feature_info.out_indices == tuple(found)
    assert len(model.feature_info) == len(found)
    assert model.feature_info[0]["index"] == found[0]


def test_stages_that_nobody_asks_for_are_left_out():
    model = IMAGENET.build(features_only=True, out_indices=(1, 2))
    assert not any(name.startswith(("layer3", "layer4", "fc")) for name in model.state_dict())


@pytest.mark.parametrize("form", "ABC")
def test_weights_of_a_file_are_taken(form, tmp_path, image):
    torch.manual_seed(0)
    whole = randomize(CIFAR.build()).eval()
    torch.save(whole.state_dict(), tmp_path / "cifar.pth")
    model = resnext.from_checkpoint(tmp_path / "cifar.pth", form=form, features_only=True, out_indices=(2,)).eval()
    with torch.no_grad():
        (found,) = model(image)
        expected = whole.layer2(whole.layer1(whole.relu(whole.bn1(whole.conv1(image)))))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert model.preprocessing == "cifar100"
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_by_name():
    with torch.device("meta"):
        model = resnext.create("resnext101_64x4d_typeC", features_only=True, out_indices=(1, 2, 3, 4))
    assert model.feature_info.channels() == [256, 512, 1024, 2048]
