"""Options that cannot be combined, or what a file holds."""

import pytest
import torch

import resnext
from resnext.architecture import Architecture
from resnext.model import ResNeXt, ResNeXtFeatures
from tests.conftest import randomize

TINY = Architecture((2, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("options") / "tiny.pth"
    torch.save(randomize(TINY.build()).state_dict(), path)
    return path


NAME = "resnext29_8x64d"


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [({"pretrained": True, "weights": "x.pth"}, "pretrained=True", "weights='x.pth'"),
     ({"pretrained": True, "zero_init_residual": True}, "pretrained=True", "zero_init_residual=True"),
     ({"weights": "x.pth", "zero_init_residual": True}, "weights='x.pth'", "zero_init_residual=True"),
     ({"pretrained": True, "shortcut": "C"}, "pretrained=True", "shortcut='C'"),
     ({"features_only": True, "num_classes": 5}, "features_only=True", "num_classes=5"),
     ({"features_only": True, "drop_rate": 0.1}, "features_only=True", "drop_rate=0.1"),
     ({"features_only": True, "global_pool": "max"}, "features_only=True", "global_pool='max'"),
     ({"out_indices": (1,)}, "features_only=False", r"out_indices=\(1,\)"),
     ({"global_pool": "", "num_classes": 5}, "global_pool=''", "num_classes=5"),
     ({"global_pool": ""}, "global_pool=''", "num_classes=10"),
     ({"global_pool": "", "num_classes": 0, "drop_rate": 0.5}, "global_pool=''", "drop_rate=0.5")],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_contradictions_name_both(options, first, second):
    with pytest.raises(ValueError, match=f"{first} and {second} cannot be combined: "):
        resnext.create(NAME, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"drop_rate": 1}, "drop_rate 1; expected a probability"),
     ({"drop_path_rate": -0.1}, "drop_path_rate -0.1; expected a probability"),
     ({"global_pool": "median"}, "global_pool 'median'; expected one of avg, max, avgmax, ''"),
     ({"form": "D"}, "form 'D'; expected one of A, B, C"),
     ({"num_classes": 2.5}, "num_classes 2.5 is of type float; expected a whole number, 0 or more"),
     ({"drop_rate": "x"}, "drop_rate 'x' is of type str; expected a probability"),
     ({"replace_stride_with_dilation": True}, "replace_stride_with_dilation True is of type bool; expected 2 booleans"),
     ({"features_only": True, "out_indices": 2}, "out_indices 2 is of type int; expected a sequence"),
     ({"features_only": True, "out_indices": (1.0,)}, r"out_indices \(1.0,\); expected some of 0 to 3"),
     ({"features_only": True, "out_indices": (4,)}, r"out_indices \(4,\); expected some of 0 to 3"),
     ({"features_only": True, "out_indices": ()}, r"out_indices \(\); expected some of")],
)  # fmt: skip
def test_impossible_values(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        resnext.create(NAME, **options)


def test_a_file_tells_its_shortcuts_itself(pth):
    with pytest.raises(TypeError, match="from_checkpoint has no option shortcut; expected some of path, "):
        resnext.from_checkpoint(pth, shortcut="B")


def test_nothing_is_downloaded_for_options_that_cannot_be(monkeypatch):
    monkeypatch.setattr("resnext.zoo.resolve_pretrained", None)
    with pytest.raises(ValueError, match="drop_rate 3"):
        resnext.create("resnext50_32x4d", pretrained=True, drop_rate=3)


@pytest.mark.parametrize("kind", [ResNeXt, ResNeXtFeatures])
def test_defaults_may_be_spelt_out(pth, kind):
    options = {"features_only": kind is ResNeXtFeatures, "out_indices": None, "norm_layer": None, "drop_rate": 0.0}
    assert type(resnext.from_checkpoint(pth, **options, zero_init_residual=False, global_pool=None)) is kind
