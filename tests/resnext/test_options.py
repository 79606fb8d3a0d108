"""The options that users of torchvision and timm know."""

import functools
import math

import pytest
import torch
from torch import nn

import resnext
from resnext.architecture import Architecture
from tests.conftest import randomize, relative_error

TINY = Architecture((2, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)
IMAGENET = Architecture((1, 2, 2, 2), cardinality=2, base_width=4, num_classes=10)


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("options") / "tiny.pth"
    torch.save(randomize(TINY.build()).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same_body(model, path):
    expected = torch.load(path)
    found = model.state_dict()
    return all(torch.equal(value, expected[name]) for name, value in found.items() if not name.startswith("fc."))


# --- input and output ------------------------------------------------------------------------------------------------


def test_one_channel_gives_what_a_grey_image_gives(pth, images):
    rgb, grey = resnext.from_checkpoint(pth).eval(), resnext.from_checkpoint(pth, in_channels=1).eval()
    image = images[:, :1]
    with torch.no_grad():
        assert relative_error(grey(image), rgb(image.expand(-1, 3, -1, -1))) < 1e-6
    assert grey.in_channels == 1


def test_no_preprocessing_for_other_channels_than_the_authors(pth):
    with pytest.raises(ValueError, match="takes 1 channels, and the authors' preprocessing gives 3"):
        resnext.from_checkpoint(pth, in_channels=1).preprocess(torch.zeros(1, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("channels", [2, 4, 6, 7])
def test_other_channels_repeat_the_weights_and_keep_their_scale(pth, channels):
    before = torch.load(pth)["conv1.weight"]
    model = resnext.from_checkpoint(pth, in_channels=channels)
    for channel in range(channels):
        assert torch.allclose(model.conv1.weight[:, channel], before[:, channel % 3] * 3 / channels)
    assert model.conv1.weight.requires_grad
    if channels == 6:  # every plane twice: a constant image gives the same
        assert torch.allclose(model.conv1.weight.sum(1), before.sum(1), atol=1e-5)


def test_no_classes_gives_pooled_features(pth, images):
    model, whole = resnext.from_checkpoint(pth, num_classes=0).eval(), resnext.from_checkpoint(pth).eval()
    with torch.no_grad():
        assert torch.equal(model(images), whole.forward_head(whole.forward_features(images), pre_logits=True))
        assert torch.equal(whole.get_classifier()(model(images)), whole(images))
    assert isinstance(model.get_classifier(), nn.Identity)


def test_forward_is_features_then_head(pth, images):
    model = resnext.from_checkpoint(pth).eval()
    with torch.no_grad():
        features = model.forward_features(images)
        assert features.shape == (2, model.num_features, 8, 8)
        assert torch.equal(model.forward_head(features), model(images))


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", ""])
def test_global_pool(pth, images, pool):
    model = resnext.from_checkpoint(pth, global_pool=pool, num_classes=None if pool else 0).eval()
    with torch.no_grad():
        maps = model.forward_features(images)
        mean, largest = maps.mean((2, 3)), maps.amax((2, 3))
        expected = {"avg": mean, "max": largest, "avgmax": (mean + largest) / 2, "": maps}[pool]
        assert relative_error(model.forward_head(maps, pre_logits=True), expected) < 1e-6
        assert model(images).shape == ((2, 10) if pool else maps.shape)


def test_reset_classifier(pth, images):
    model = resnext.from_checkpoint(pth).eval()
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)
    assert model.num_classes == 7
    assert (model.fc.bias == 0).all()
    assert model.fc.weight.abs().max() <= 1 / math.sqrt(1024)
    assert same_body(model, pth)
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 1024, 8, 8)
    with pytest.raises(ValueError, match="global_pool='' and num_classes=3 cannot be combined"):
        model.reset_classifier(3)
    assert model.num_classes == 0
    model.double().reset_classifier(3, "max")
    assert model(images.double()).shape == (2, 3)
    assert not model.fc.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "num_classes -1; expected a whole number, 0 or more"),
        (("5",), "num_classes '5'"),
        ((3, "median"), "global_pool 'median'"),
    ],
)
def test_reset_classifier_refuses(pth, arguments, message):
    model = resnext.from_checkpoint(pth)
    with pytest.raises((TypeError, ValueError), match=message):
        model.reset_classifier(*arguments)
    with pytest.raises(ValueError, match="features_only=True and num_classes=5 cannot be combined"):
        TINY.build(features_only=True).reset_classifier(5)
    assert model.fc.out_features == 10


# --- body ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilate", [(False, True, True), (False, False, True), (True, False, False)])
def test_dilation_is_torchvisions(torchvision, dilate):
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    theirs = ResNet(
        Bottleneck, [1, 2, 2, 2], 10, groups=2, width_per_group=4, replace_stride_with_dilation=list(dilate)
    )
    ours = IMAGENET.build(replace_stride_with_dilation=dilate)
    ours.load_state_dict(randomize(theirs).state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.eval()(image), theirs.eval()(image))
    last = ours.feature_info.reduction()[-1]
    assert last == 32 // 2 ** sum(dilate)
    assert ours.forward_features(image).shape[-1] == 64 // last


def test_dilation_of_cifar_has_two_entries():
    assert TINY.build(replace_stride_with_dilation=(True, True)).feature_info.reduction() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match=r"replace_stride_with_dilation .* expected 2 booleans"):
        TINY.build(replace_stride_with_dilation=(True, True, True))


def test_norm_layer_of_another_kind():
    model = TINY.build(norm_layer=lambda channels: nn.GroupNorm(4, channels))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_frozen_batch_norm_takes_the_weights(torchvision, pth, images):
    from torchvision.ops.misc import FrozenBatchNorm2d

    model = resnext.from_checkpoint(pth, norm_layer=FrozenBatchNorm2d)
    assert isinstance(model.bn1, FrozenBatchNorm2d)
    with torch.no_grad():
        assert relative_error(model(images), resnext.from_checkpoint(pth).eval()(images)) < 1e-5


def test_batch_norm_with_another_epsilon_takes_the_weights(pth):
    model = resnext.from_checkpoint(pth, norm_layer=functools.partial(nn.BatchNorm2d, eps=0.5))
    assert model.layer2[0].bn3.eps == 0.5
    assert same_body(model, pth)


def test_norm_layer_that_the_weights_do_not_fit(pth):
    with pytest.raises(ValueError, match=r"norm_layer=LocalResponseNorm and the weights of .*tiny.pth"):
        resnext.from_checkpoint(pth, norm_layer=nn.LocalResponseNorm)


def test_zero_init_residual_starts_with_the_shortcuts():
    model = TINY.build(zero_init_residual=True).eval()
    block = model.layer1[1]
    x = torch.rand(1, 256, 4, 4)
    assert torch.equal(block(x), x)
    with pytest.raises(ValueError, match="zero_init_residual=True and norm_layer=InstanceNorm2d cannot be combined"):
        TINY.build(zero_init_residual=True, norm_layer=nn.InstanceNorm2d)
