"""The family: what the networks are, held against the tables of the paper."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import resnext
from resnext.__main__ import main
from resnext.architecture import Architecture
from resnext.model import EXPANSION, block_width
from resnext.zoo import ARCHITECTURES, get_architecture, parse_name
from tests.conftest import ROOT


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


def test_info_lists_every_network(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ARCHITECTURES)
    assert lines[5].split() == ["resnext50_32x4d", "50", "25.0", "M", "4.2", "G", "224", "px", "22.2", "%"]


def test_info_on_one_network(capsys):
    assert main(["info", "resnext101_64x4d_typeA"]) == 0
    text = capsys.readouterr().out
    for part in (
        "resnext101_64x4d_typeA",
        "83,455,272 (83.5 M)",
        "(15.5 G) for 224 x 224 px",
        "CC BY-NC 4.0",
        "20.4 %",
    ):
        assert part in text
    assert main(["info", "resnext29_8x64d"]) == 0
    assert "none were published" in capsys.readouterr().out


def test_info_on_a_typo(capsys):
    assert main(["info", "resnext50_32x4"]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "unknown architecture 'resnext50_32x4'; did you mean resnext50_32x4d" in seen.err
    assert len(seen.err.splitlines()) == 1


@pytest.mark.parametrize(("redirect", "status"), [(">&-", 0), ("| true", 1)])
def test_a_reader_that_has_left_is_no_traceback(redirect, status):
    command = f"set -o pipefail; {sys.executable} -m resnext info resnext50_32x4d {redirect}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == ""
    assert done.returncode in (0, status)  # 0 where all was written before the reader left


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


def test_a_name_that_is_not_offered_says_what_is():
    with pytest.raises(ValueError, match=r"'resnext11_4x8d'; available: resnext50_1x64d, .*resnext50_32x4d"):
        resnext.create("resnext11_4x8d")


def test_unknown_option_is_refused():
    with pytest.raises(
        TypeError, match="create has no option cardinality; expected some of name, pretrained, progress, weights, "
    ):
        resnext.create("resnext50_32x4d", cardinality=4)


def test_pretrained_and_weights_contradict_each_other():
    with pytest.raises(ValueError, match=r"pretrained=True and weights='x.pth' cannot be combined"):
        resnext.create("resnext50_32x4d", pretrained=True, weights="x.pth")
