"""The networks by name, held against the tables of the paper, and the arguments that build and load them."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import resnext
from resnext.architecture import Architecture
from resnext.model import EXPANSION, ResNeXt, ResNeXtFeatures, block_width
from resnext.zoo import ARCHITECTURES, get_architecture, parse_name
from tests.helpers.networks import relative_error
from tests.helpers.pretrained import NAME


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [("resnext50_1x64d", 25.5, 4.1), ("resnext50_32x4d", 25.0, 4.2)],
)
def test_table_1(name, parameters, multiply_adds):
    architecture = ARCHITECTURES[name]
    assert architecture.parameters / 1e6 == pytest.approx(parameters, abs=0.06)  # it cuts 25.56 and rounds 25.03
    assert round(architecture.multiply_adds() / 1e9, 1) == multiply_adds


@pytest.mark.parametrize(
    ("cardinality", "width", "group_width"), [(1, 64, 64), (2, 40, 80), (4, 24, 96), (8, 14, 112), (32, 4, 128)]
)
def test_table_2_keeps_the_complexity(cardinality, width, group_width):
    """About 70 k parameters in a bottleneck of the first stage (equation 4), 4.1 G multiply-adds at depth 50."""
    for depth, giga in ((50, 4.2), (101, 8.0)):
        architecture = ARCHITECTURES[f"resnext{depth}_{cardinality}x{width}d"]
        block = architecture.build_empty().layer1[1]
        assert block.conv2.out_channels == group_width == cardinality * block_width(64, width)
        convolutions = (block.conv1, block.conv2, block.conv3)
        weights = sum(convolution.weight.numel() for convolution in convolutions)
        assert weights == cardinality * (256 * width + 9 * width * width + width * 64 * EXPANSION)
        assert weights == pytest.approx(70_000, rel=0.05)
        assert architecture.multiply_adds() / 1e9 == pytest.approx(giga, abs=0.2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnext50_32x4d", 25_028_904), ("resnext101_32x4d", 44_177_704), ("resnext101_64x4d", 83_455_272)],
)
def test_parameter_counts_of_the_published_networks(name, expected):
    assert ARCHITECTURES[name].parameters == expected


@pytest.mark.parametrize(("name", "millions"), [("resnext29_8x64d", 34.4), ("resnext29_16x64d", 68.1)])
def test_parameter_counts_of_table_7(name, millions):
    assert ARCHITECTURES[name].parameters // 100_000 / 10 == millions  # it cuts, it does not round


def test_twice_the_complexity_of_table_4():
    wide = ARCHITECTURES["resnext101_64x4d"].multiply_adds()
    assert wide / ARCHITECTURES["resnext101_32x4d"].multiply_adds() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        (Architecture((1, 2, 1, 1), 4, 8, shortcut="C"), 97),
        (Architecture((2, 1, 1), 2, 12, "cifar", in_channels=1), 33),
    ],
)
@pytest.mark.parametrize("form", "ABC")
def test_multiply_adds_are_those_that_run(architecture, size, form):
    model = architecture.build_empty(form=form).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, architecture.in_channels, size, size, device="meta"))
    assert counter.get_total_flops() == 2 * architecture.multiply_adds(size)


@pytest.mark.parametrize("depth", [50, 101, 152, 29])
def test_depth_counts_the_convolutions_on_the_path(depth):
    architecture = next(a for a in ARCHITECTURES.values() if a.depth == depth)
    modules = architecture.build_empty().named_modules()
    assert sum(isinstance(m, torch.nn.Conv2d) and "downsample" not in name for name, m in modules) + 1 == depth


def test_list_models_is_the_family_in_three_forms():
    bases = [
        "resnext50_1x64d", "resnext50_2x40d", "resnext50_4x24d", "resnext50_8x14d", "resnext50_32x4d",
        "resnext101_1x64d", "resnext101_2x40d", "resnext101_4x24d", "resnext101_8x14d", "resnext101_32x4d",
        "resnext101_64x4d", "resnext152_32x4d", "resnext29_8x64d", "resnext29_16x64d",
    ]  # fmt: skip
    assert resnext.list_models() == [f"{base}_type{form}" for base in bases for form in "ABC"]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "32x4" not in name or "50" in name])
def test_every_network_can_be_built(name):
    form = "A" if ARCHITECTURES[name].cardinality < 8 else "B" if name.startswith("resnext29") else "C"
    with torch.device("meta"):
        model = resnext.create(f"{name}_type{form}", num_classes=3, in_channels=2, shortcut="C")
    assert model.form == form
    assert model.fc.out_features == 3
    assert model.conv1.in_channels == 2
    assert model.layer2[1].downsample is not None


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext50_32x4d_typeC"])
def test_form_in_a_name_may_be_left_out(name):
    assert get_architecture(name) is ARCHITECTURES["resnext50_32x4d"]


def test_parse_name_takes_any_depth_cardinality_and_width():
    assert parse_name("resnext11_4x8d_typeC") == ("resnext11_4x8d", "C")
    assert parse_name("resnext101_4x8d_cifar") == ("resnext101_4x8d_cifar", None)


@pytest.mark.parametrize("name", ["resnext50_32x4", "resnet50", "resnext50_32x4d_typeZ", ""])
def test_a_typo_gets_a_suggestion(name):
    with pytest.raises(ValueError, match=r"unknown architecture .*did you mean resnext"):
        resnext.create(name)


@pytest.mark.parametrize("width", [8, 16, 32, 48])
def test_any_cardinality_and_width_can_be_created(width):
    with torch.device("meta"):
        model = resnext.create(f"resnext101_32x{width}d")
    assert model.layer1[0].conv2.groups == 32
    assert model.layer1[0].conv2.weight.shape == (32 * width, width, 3, 3)
    assert len(model.layer3) == 23
    assert get_architecture(f"resnext29_4x{width}d_typeB").layers == (3, 3, 3)


@pytest.mark.parametrize("name", ["resnext26_32x4d", "resnext110_32x4d", "resnext101_32x4d_cifar", "resnext50_0x4d"])
def test_other_depths_are_for_files_only(name):
    with pytest.raises(ValueError, match=r"unknown architecture .*did you mean resnext"):
        resnext.create(name)


def test_a_name_that_is_not_offered_says_what_is():
    with pytest.raises(ValueError, match=r"'resnext11_4x8d'; available: resnext50_1x64d, .*resnext50_32x4d"):
        resnext.create("resnext11_4x8d")


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "keyword", "message"),
    [(resnext.create, "drop_rat", "create has no option drop_rat; did you mean drop_rate?"),
     (resnext.create, "num_class", "did you mean num_classes?"),
     (resnext.create, "cardinality", "expected some of name, pretrained, progress, weights, "),
     (resnext.from_checkpoint, "feature_only", "did you mean features_only?"),
     (resnext.from_checkpoint, "shortcut", "from_checkpoint has no option shortcut; expected some of path, ")],
)  # fmt: skip
def test_misspelt_keywords(function, keyword, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        function("resnext29_8x64d", **{keyword: 1})


FAMILY = "resnext29_8x64d"


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [({"pretrained": True, "weights": "x.pth"}, "pretrained=True", "weights='x.pth'"),
     ({"pretrained": True, "zero_init_residual": True}, "pretrained=True", "zero_init_residual=True"),
     ({"weights": Path("x.pth"), "zero_init_residual": True}, "weights='x.pth'", "zero_init_residual=True"),
     ({"pretrained": True, "shortcut": "C"}, "pretrained=True", "shortcut='C'"),
     ({"pretrained": True, "global_pool": "catavgmax"}, "pretrained=True", "global_pool='catavgmax'"),
     ({"weights": "DEFAULT", "shortcut": "C"}, "pretrained=True", "shortcut='C'"),
     ({"features_only": True, "num_classes": 5}, "features_only=True", "num_classes=5"),
     ({"features_only": True, "drop_rate": 0.1}, "features_only=True", "drop_rate=0.1"),
     ({"features_only": True, "global_pool": "max"}, "features_only=True", "global_pool='max'"),
     ({"out_indices": (1,)}, "features_only=False", r"out_indices=\(1,\)"),
     ({"out_indices": 0}, "features_only=False", "out_indices=0"),
     ({"global_pool": "", "num_classes": 5}, "global_pool=''", "num_classes=5"),
     ({"global_pool": ""}, "global_pool=''", "num_classes=10")],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_what_cannot_be_combined_is_named(options, first, second):
    with pytest.raises(ValueError, match=f"{first} and {second} cannot be combined: "):
        resnext.create(FAMILY, **options)


@pytest.mark.parametrize("name", ["pretrained", "progress"])
@pytest.mark.parametrize("value", ["mine.pth", Path("mine.pth"), 1, None, np.True_])
def test_a_path_is_no_boolean(name, value):
    """A path would be true, and other weights would be loaded than those that were asked for."""
    with pytest.raises(TypeError, match=f"{name} .* True or False") as caught:
        resnext.create(FAMILY, **{name: value})
    assert ("weights=" in str(caught.value)) == isinstance(value, str | Path)
    assert ("of type numpy.bool" in str(caught.value)) == (value is np.True_)
    if name == "progress":
        with pytest.raises(TypeError, match=r"progress .* True or False"):
            resnext.from_checkpoint("mine.pth", progress=value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [({"form": "D"}, ValueError, "form 'D'; expected one of A, B, C"),
     ({"form": ""}, ValueError, "form ''; expected one of A, B, C"),
     ({"in_channels": 0}, ValueError, "in_channels 0; expected a whole number, 1 or more"),
     ({"in_channels": "3"}, TypeError, "in_channels '3' is of type str"),
     ({"num_classes": "10"}, TypeError, "num_classes '10' is of type str"),
     ({"num_classes": -1}, ValueError, "num_classes -1; expected"),
     ({"drop_rate": 3}, ValueError, "drop_rate 3; expected a probability"),
     ({"global_pool": "median"}, ValueError, "global_pool 'median'"),
     ({"replace_stride_with_dilation": "no"}, TypeError, "replace_stride_with_dilation 'no' is of type str"),
     ({"norm_layer": "groupnorm"}, TypeError, "norm_layer 'groupnorm' is of type str"),
     ({"norm_layer": lambda channels: torch.nn.GroupNorm(1, channels), "form": "A"}, ValueError, "use form='C'"),
     ({"features_only": "yes"}, TypeError, "features_only 'yes' is of type str; expected True or False"),
     ({"features_only": True, "out_indices": (9,)}, ValueError, r"out_indices \(9,\); expected some of 0 to 3"),
     ({"drop_rat": 0.1}, TypeError, "did you mean drop_rate")],
)  # fmt: skip
def test_nothing_is_downloaded_for_what_cannot_be_built(record, site, home, options, error, message):
    for weights in ({"pretrained": True}, {"weights": f"{site.url}/some.pth"}, {"weights": "DEFAULT"}):
        with pytest.raises(error, match=message):
            resnext.create(NAME, **weights, **options)
    assert not site.asked


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [({"form": "D"}, ValueError, "form 'D'; expected one of A, B, C"),
     ({"form": None}, TypeError, "form None is of type NoneType"),
     ({"in_channels": 0}, ValueError, "in_channels 0; expected a whole number, 1 or more"),
     ({"num_classes": "10"}, TypeError, "num_classes '10' is of type str"),
     ({"out_indices": (1,)}, ValueError, "features_only=False and out_indices=")],
)  # fmt: skip
def test_nothing_is_downloaded_for_what_no_checkpoint_can_be(site, home, options, error, message):
    with pytest.raises(error, match=message):
        resnext.from_checkpoint(f"{site.url}/some.pth", **options)
    assert not site.asked


@pytest.mark.parametrize("name", [None, 50, b"resnext50_32x4d"])
def test_a_name_that_is_no_text(name):
    with pytest.raises(TypeError, match=r"^name .* is of type \w+; expected one of list_models\(\)$"):
        resnext.create(name)


@pytest.mark.parametrize("kind", [ResNeXt, ResNeXtFeatures])
def test_defaults_may_be_spelt_out(pth, kind):
    options = {"features_only": kind is ResNeXtFeatures, "out_indices": None, "norm_layer": None, "drop_rate": 0.0}
    assert type(resnext.from_checkpoint(pth, **options, zero_init_residual=False, global_pool=None)) is kind


# --- the options of a network that is loaded -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_one_channel_gives_what_a_grey_image_gives(pth, images):
    rgb, grey = resnext.from_checkpoint(pth).eval(), resnext.from_checkpoint(pth, in_channels=1).eval()
    image = images[:, :1]
    with torch.no_grad():
        assert relative_error(grey(image), rgb(image.expand(-1, 3, -1, -1))) < 1e-6
    assert grey.in_channels == 1
    with pytest.raises(ValueError, match="takes 1 channels, and the authors' preprocessing gives 3"):
        grey.preprocess(torch.zeros(1, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("channels", [2, 4, 6, 7])
def test_other_channels_repeat_the_weights_and_keep_their_scale(pth, state_dict, channels):
    before = state_dict["conv1.weight"]
    model = resnext.from_checkpoint(pth, in_channels=channels)
    for channel in range(channels):
        assert torch.allclose(model.conv1.weight[:, channel], before[:, channel % 3] * 3 / channels)
    assert model.conv1.weight.requires_grad


def test_no_classes_gives_pooled_features(pth, images):
    model, whole = resnext.from_checkpoint(pth, num_classes=0).eval(), resnext.from_checkpoint(pth).eval()
    maps = resnext.from_checkpoint(pth, num_classes=0, global_pool="").eval()
    with torch.no_grad():
        assert torch.equal(model(images), whole.forward_head(whole.forward_features(images), pre_logits=True))
        assert torch.equal(maps(images), whole.forward_features(images))
    assert isinstance(model.get_classifier(), torch.nn.Identity)


@pytest.mark.parametrize("form", "ABC")
def test_maps_of_a_file(pth, images, form):
    whole = resnext.from_checkpoint(pth).eval()
    model = resnext.from_checkpoint(pth, form=form, features_only=True, out_indices=(2,)).eval()
    with torch.no_grad():
        (found,) = model(images)
        expected = whole.layer2(whole.layer1(whole.relu(whole.bn1(whole.conv1(images)))))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert model.preprocessing == "cifar10"
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_maps_by_name():
    with torch.device("meta"):
        model = resnext.create("resnext101_64x4d_typeC", features_only=True, out_indices=(1, 2, 3, 4))
    assert model.feature_info.channels() == [256, 512, 1024, 2048]


def test_frozen_batch_norm_takes_the_weights(torchvision, pth, images):
    from torchvision.ops.misc import FrozenBatchNorm2d

    for form in "AC":
        model = resnext.from_checkpoint(pth, norm_layer=FrozenBatchNorm2d, form=form)
        assert isinstance(model.bn1, FrozenBatchNorm2d)
        with torch.no_grad():
            assert relative_error(model(images), resnext.from_checkpoint(pth).eval()(images)) < 1e-5


def test_batch_norm_with_another_epsilon_takes_the_weights(pth, state_dict):
    model = resnext.from_checkpoint(pth, norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=0.5))
    assert model.layer2[0].bn3.eps == 0.5
    assert all(torch.equal(value, state_dict[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm_layer", [torch.nn.LocalResponseNorm, functools.partial(torch.nn.GroupNorm, 4)])
def test_norm_layer_that_the_weights_do_not_fit(pth, norm_layer):
    with pytest.raises(ValueError, match=r"norm_layer=\w+ and .*tiny.pth cannot be combined: its weights"):
        resnext.from_checkpoint(pth, norm_layer=norm_layer)
