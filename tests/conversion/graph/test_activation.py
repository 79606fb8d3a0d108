"""Activations: values by hand, work in place, and what is refused."""

import math

import numpy as np
import pytest
import torch

from tests.helpers.torch7_networks import Layer, build, by_hand, refused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

CASES = [
    (Layer("nn.Clamp", min_val=-1, max_val=2), [-3.0, 0.5, 3.0], [-1.0, 0.5, 2.0]),
    (Layer("nn.Clip", minval=-1, maxval=2), [-3.0, 0.5, 3.0], [-1.0, 0.5, 2.0]),
    (Layer("nn.HardTanh", min_val=-1, max_val=1), [-3.0, 0.5, 3.0], [-1.0, 0.5, 1.0]),
    (Layer("nn.HardTanh"), [-3.0, 0.5], [-1.0, 0.5]),
    (Layer("cudnn.ClippedReLU", ceiling=2), [-3.0, 0.5, 3.0], [0.0, 0.5, 2.0]),
    (Layer("nn.Exp"), [0.0, 1.0], [1.0, math.e]),
    (Layer("nn.Log"), [1.0, math.e], [0.0, 1.0]),
    (Layer("nn.Sqrt", eps=0), [4.0, 9.0], [2.0, 3.0]),
    (Layer("nn.Square"), [-2.0, 3.0], [4.0, 9.0]),
    (Layer("nn.Power", pow=3), [-2.0, 3.0], [-8.0, 27.0]),
    (Layer("nn.HardShrink", **{"lambda": 0.5}), [-1.0, 0.4, 2.0], [-1.0, 0.0, 2.0]),
    (Layer("nn.SoftShrink", **{"lambda": 0.5}), [-1.0, 0.4, 2.0], [-0.5, 0.0, 1.5]),
    (Layer("nn.SoftSign"), [-1.0, 3.0], [-0.5, 0.75]),
    (Layer("nn.TanhShrink"), [0.0, 1.0], [0.0, 1 - math.tanh(1)]),
    (Layer("nn.LogSigmoid"), [0.0], [-math.log(2)]),
    (Layer("nn.RReLU", lower=0.1, upper=0.3), [-1.0, 2.0], [-0.2, 2.0]),
    (Layer("nn.ReLU", threshold=1, val=-7, inplace=False), [0.5, 2.0], [-7.0, 2.0]),
    (Layer("nn.LeakyReLU", negval=0.25, inplace=True), [-4.0, 2.0], [-1.0, 2.0]),
    (Layer("nn.ELU", alpha=2, inplace=True), [-1.0, 2.0], [2 * math.expm1(-1), 2.0]),
    (Layer("nn.PReLU", nOutputPlane=2, weight=np.float32([0.5, 0.25])), [-4.0, -4.0], [-2.0, -1.0]),
    (Layer("nn.PReLU", nOutputPlane=2, weight=np.float32([0.5, 0.25])), [[-4.0, -4.0]], [[-2.0, -1.0]]),
    (Layer("nn.PReLU", nOutputPlane=2, weight=np.float32([0.5, 0.25])), [[[-4.0], [-4.0]]], [[[-2.0], [-1.0]]]),
    (Layer("nn.SoftMax"), [0.0, math.log(3)], [0.25, 0.75]),
    (Layer("nn.SoftMax"), [[[0.0]], [[math.log(3)]]], [[[0.25]], [[0.75]]]),
    (Layer("nn.SpatialLogSoftMax"), [[[[0.0]], [[math.log(3)]]]], [[[[math.log(0.25)]], [[math.log(0.75)]]]]),
    (Layer("cudnn.SpatialSoftMax"), [[[[0.0, 0.0]], [[0.0, 0.0]]]], [[[[0.5, 0.5]], [[0.5, 0.5]]]]),
    (Layer("cudnn.SpatialLogSoftMax"), [[[[0.0]], [[0.0]]]], [[[[-math.log(2)]], [[-math.log(2)]]]]),
    (Layer("cudnn.SoftMax"), [[[[0.0, 0.0]], [[0.0, 0.0]]]], [[[[0.25, 0.25]], [[0.25, 0.25]]]]),
    (Layer("cudnn.LogSoftMax"), [[0.0, 0.0]], [[-math.log(2), -math.log(2)]]),
    (Layer("nn.Threshold", threshold=-math.inf, val=0), [-3.0, 2.0], [-3.0, 2.0]),
    (Layer("nn.Clamp", min_val=0, max_val=math.inf), [-3.0, 2.0], [0.0, 2.0]),
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    by_hand(tmp_path, root, given, expected)


REFUSED = [
    (Layer("nn.HardTanh", min_val=1, max_val=1), "expected min_val below max_val"),
    (Layer("cudnn.ClippedReLU", ceiling=0), "expected a ceiling above 0, got 0"),
    (Layer("nn.SoftShrink", **{"lambda": -1}), "expected a lambda from 0, got -1"),
    (Layer("nn.RReLU", lower=2, upper=1), "expected lower up to upper, got 2.0 and 1.0"),
    (Layer("nn.PReLU", nOutputPlane=-3, weight=np.ones(3, "f4")), "a whole number from 0 as nOutputPlane, got -3"),
    (Layer("nn.PReLU", nOutputPlane=3, weight=np.ones(2, "f4")), "weight has shape (2,); expected (3,)"),
    (Layer("nn.ReLU", inplace=1), "expected true or false as inplace, got 1"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "cause"), REFUSED, ids=lambda x: getattr(x, "class_name", ""))
def test_fields_that_make_no_sense(tmp_path, root, cause):
    refused(tmp_path, root, cause)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [("nn.MulConstant", {"constant_scalar": 2}, -2.0), ("nn.AddConstant", {"constant_scalar": 2}, 1.0),
     ("nn.ReLU6", {}, 0.0), ("nn.ELU", {"alpha": 0}, 0.0), ("nn.LeakyReLU", {"negval": 0.5}, -0.5),
     ("nn.RReLU", {"lower": 0.5, "upper": 0.5}, -0.5), ("nn.HardTanh", {"min_val": 0}, 0.0),
     ("nn.Threshold", {"threshold": 0, "val": 7}, 7.0), ("nn.Dropout", {"p": 0.5, "v2": False}, -0.5),
     ("cudnn.ReLU", {}, 0.0), ("cudnn.ClippedReLU", {"ceiling": 6}, 0.0)],
)  # fmt: skip
def test_every_layer_that_can_works_in_place(tmp_path, kind, fields, expected):
    for inplace in (True, False):
        x = torch.tensor([-1.0])
        out = build(tmp_path, Layer(kind, inplace=inplace, **fields))(x)
        assert out.item() == expected
        assert x.item() == (expected if inplace else -1.0)


@pytest.mark.parametrize(("kind", "function"), [("cudnn.Tanh", torch.tanh), ("cudnn.Sigmoid", torch.sigmoid)])
def test_cudnn_activations_may_overwrite_their_input(tmp_path, kind, function):
    x = torch.tensor([0.5, -2.0])
    assert torch.equal(build(tmp_path, Layer(kind))(x), function(x))
    y = x.clone()
    assert build(tmp_path, Layer(kind, inplace=True))(y) is y
    assert torch.equal(y, function(x))
