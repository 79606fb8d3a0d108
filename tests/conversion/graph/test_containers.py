"""Containers: values by hand."""

import pytest
import torch

from tests.helpers.torch7_networks import Layer, build, by_hand, pool, refused, table

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

CASES = [
    (table(Layer("nn.Exp"), Layer("nn.Square"), kind="nn.Parallel", inputDimension=1, outputDimension=1),
     [[0.0, 0.0], [2.0, 3.0]], [1.0, 1.0, 4.0, 9.0]),
    (table(Layer("nn.Square"), kind="nn.DontCast"), [3.0], [9.0]),
    (table(Layer("nn.Square"), kind="nn.Decorator"), [3.0], [9.0]),
    (table(Layer("nn.Square"), kind="nn.Serial"), [3.0], [9.0]),
    (table(Layer("nn.Square"), kind="nn.NaN"), [3.0], [9.0]),
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    by_hand(tmp_path, root, given, expected)


REFUSED = [
    (table(kind="nn.Concat", dimension=1.5), "expected a whole number as dimension, got 1.5"),
    (table(kind="nn.Serial"), "without a network"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "cause"), REFUSED, ids=lambda x: getattr(x, "class_name", ""))
def test_fields_that_make_no_sense(tmp_path, root, cause):
    refused(tmp_path, root, cause)


def test_depth_concat_centres_smaller_outputs(tmp_path):
    small = pool("nn.SpatialMaxPooling", 2, 1)
    root = table(Layer("nn.Identity"), small, kind="nn.DepthConcat", dimension=1)
    got = build(tmp_path, root)(torch.arange(1.0, 10).reshape(1, 3, 3))
    assert got[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert got[1].tolist() == [[5, 6, 0], [8, 9, 0], [0, 0, 0]]  # 2 in 3: begins at floor((3 - 2) / 2)


def test_dense_connect_layer_takes_a_tensor_or_a_list(tmp_path):
    dense = table(Layer("nn.Square"), Layer("nn.Exp"), kind="nn.DenseConnectLayerCustom")
    module, x, y = build(tmp_path, dense), torch.rand(1, 2), torch.rand(1, 1)
    first, second = module(x)
    assert first is x
    assert torch.equal(second, (x * x).exp())
    got = module([x, y])
    assert got[0] is x
    assert got[1] is y
    assert torch.equal(got[2], torch.cat([x, y], 1).square().exp())
