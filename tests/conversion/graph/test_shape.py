"""Layers that change shapes: values by hand, types, and what is refused."""

import math

import numpy as np
import pytest
import torch

from tests.helpers.torch7_networks import Layer, Longs, build, by_hand, refused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def image(height, width, planes=1):
    return torch.arange(1.0, planes * height * width + 1).reshape(1, planes, height, width)


CASES = [
    (Layer("nn.GradientReversal"), [1.0], [1.0]),
    (Layer("nn.L1Penalty"), [1.0], [1.0]),
    (Layer("nn.TotalVariation", strength=1), [1.0], [1.0]),
    (Layer("nn.Max", dimension=2), ROWS, [3.0, 6.0]),
    (Layer("nn.Min", dimension=-1), ROWS, [1.0, 4.0]),
    (Layer("nn.Max", dimension=1, nInputDims=1), ROWS, [3.0, 6.0]),
    (Layer("nn.Max", dimension=1), [1.0, 2.0], [2.0]),
    (Layer("nn.Sum", dimension=1, nInputDims=1), ROWS, [6.0, 15.0]),
    (Layer("nn.Sum", dimension=-2), ROWS, [5.0, 7.0, 9.0]),
    (Layer("nn.Sum", dimension=1, squeeze=False), ROWS, [[5.0, 7.0, 9.0]]),
    (Layer("nn.Sum", dimension=1), [1.0, 2.0], [3.0]),
    (Layer("nn.Sum", dimension=2, sizeAverage=True), ROWS, [2.0, 5.0]),
    (Layer("nn.Mean", dimension=1), ROWS, [2.5, 3.5, 4.5]),  # without sizeAverage: written before nn.Mean was a sum
    (Layer("nn.Narrow", dimension=-1, index=2, length=-1), ROWS, [[2.0, 3.0], [5.0, 6.0]]),
    (Layer("nn.Narrow", dimension=2, index=1, length=-2), ROWS, [[1.0, 2.0], [4.0, 5.0]]),
    (Layer("nn.Narrow", dimension=2, index=-1, length=1), ROWS, [[1.0, 2.0], [4.0, 5.0]]),
    (Layer("nn.Select", dimension=-1, index=-1), ROWS, [3.0, 6.0]),
    (Layer("nn.Select", dimension=1, index=2), ROWS, [4.0, 5.0, 6.0]),
    (Layer("nn.Squeeze", dim=1, numInputDims=2), [[[1.0, 2.0]]], [[1.0, 2.0]]),
    (Layer("nn.Squeeze", numInputDims=2), [[[1.0], [2.0]]], [[1.0, 2.0]]),
    (Layer("nn.Squeeze", dim=1), [1.0], [1.0]),
    (Layer("nn.Squeeze", dim=2), [[[1.0], [2.0]]], [[[1.0], [2.0]]]),
    (Layer("nn.Unsqueeze", pos=1), ROWS, [ROWS]),
    (Layer("nn.Unsqueeze", pos=1, numInputDims=1), ROWS, [[row] for row in ROWS]),
    (Layer("nn.Replicate", nfeatures=2), [1.0, 2.0], [[1.0, 2.0], [1.0, 2.0]]),
    (Layer("nn.Replicate", nfeatures=2, dim=2), [1.0, 2.0], [[1.0, 1.0], [2.0, 2.0]]),
    (Layer("nn.Replicate", nfeatures=2, dim=1, ndim=1), ROWS, [[row, row] for row in ROWS]),
    (Layer("nn.Transpose", permutations=[[1, 2]]), ROWS, [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]),
    (Layer("nn.View", size=Longs([3])), [[1.0, 2.0, 3.0]], [1.0, 2.0, 3.0]),  # a batch of 1 is lost
    (Layer("nn.View", size=Longs([3]), numInputDims=1), [[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]]),
    (Layer("nn.View", size=Longs([-1])), ROWS, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    (Layer("nn.View", size=Longs([-1]), numInputDims=1), ROWS, ROWS),
    (Layer("nn.View", size=Longs([1, 3])), ROWS, [[row] for row in ROWS]),
    (Layer("nn.View", size=Longs([1, -1]), numInputDims=2), [ROWS], [[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]]),
    (Layer("nn.View", size=Longs([3]), numInputDims=2), [ROWS], ROWS),  # what is left over is the batch
    (Layer("nn.Reshape", size=Longs([6])), ROWS, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    (Layer("nn.Reshape", size=Longs([3, 1])), [[1.0, 2.0, 3.0]], [[[1.0], [2.0], [3.0]]]),
    (Layer("nn.Reshape", size=Longs([3]), batchMode=False), [[1.0, 2.0, 3.0]], [1.0, 2.0, 3.0]),
    (Layer("nn.Reshape", size=Longs([3, 1]), batchMode=True), ROWS, [[[x] for x in row] for row in ROWS]),
    (Layer("nn.Copy"), [1.0], [1.0]),
    (Layer("nn.Padding", dim=1, pad=2, nInputDim=1, value=9), ROWS,
     [[1.0, 2.0, 3.0, 9.0, 9.0], [4.0, 5.0, 6.0, 9.0, 9.0]]),
    (Layer("nn.Padding", dim=2, pad=-1, value=9, index=1), ROWS, [[9.0, 1.0, 2.0, 3.0], [9.0, 4.0, 5.0, 6.0]]),
    (Layer("nn.Padding", dim=1, pad=-1, value=9, index=3), [1.0, 2.0, 3.0], [1.0, 2.0, 9.0, 3.0]),
    (Layer("nn.Padding", dim=1, pad=1, value=9, index=3), [1.0, 2.0, 3.0], [1.0, 9.0, 2.0, 3.0]),
    (Layer("nn.ShaveImage", size=1), image(3, 4).tolist(), [[[[6.0, 7.0]]]]),
    (Layer("nn.Transpose", permutations=[[1, 2]], numInputDims=2), [ROWS], [[[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]]),
    (Layer("nn.Collapse", nInputDim=2), [ROWS], [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]),
    (Layer("nn.Collapse", nInputDim=2), ROWS, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    (Layer("nn.Collapse", nInputDim=1), [ROWS], [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]),  # only the first is the batch
    (Layer("nn.Sum", dimension=1, nInputDims=-1), ROWS, [5.0, 7.0, 9.0]),
    (Layer("nn.Max", dimension=1, nInputDims=-1), ROWS, [4.0, 5.0, 6.0]),
    (Layer("nn.CopyGrad"), [1.0], [1.0]),
    (Layer("nn.NormStabilizer"), [1.0], [1.0]),
    (Layer("nn.TotalDropout"), [1.0], [1.0]),
    (Layer("nn.PrintSize"), [1.0], [1.0]),
    (Layer("nn.ZeroGrad"), [1.0], [1.0]),
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    by_hand(tmp_path, root, given, expected)


REFUSED = [
    (Layer("nn.Select", dimension=0, index=1), "expected an index counted from 1, or from -1 backwards, as dimension"),
    (Layer("nn.Select", dimension=1, index=0), "expected an index counted from 1, or from -1 backwards, as index"),
    (Layer("nn.Transpose", permutations=[[1, 2, 3]]), "expected pairs of dimensions"),
    (Layer("nn.Transpose", permutations=3), "expected pairs of dimensions"),
    (Layer("nn.View", size=Longs([0])), "expected sizes from 1"),
    (Layer("nn.View", size=Longs([-1, -1])), "expected sizes from 1"),
    (Layer("nn.View", size=Longs([2**40, 2**40])), "expected sizes from 1"),
    (Layer("nn.View", size=3), "expected a storage of whole numbers as size, got 3"),
    (Layer("nn.Reshape", size=Longs([-1])), "expected sizes from 1"),
    (Layer("nn.Narrow", dimension=1, index=0, length=1), "expected an index and a length other than 0"),
    (Layer("nn.Replicate", nfeatures=math.inf), "expected a whole number from 1 as nfeatures, got inf"),
    (Layer("nn.Copy", output="x"), "expected a tensor as output, got 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "cause"), REFUSED, ids=lambda x: getattr(x, "class_name", ""))
def test_fields_that_make_no_sense(tmp_path, root, cause):
    refused(tmp_path, root, cause)


def test_inputs_that_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="Torch7 gives an empty tensor"):
        build(tmp_path, Layer("nn.Squeeze"))(torch.ones(1, 1))
    with pytest.raises(RuntimeError, match="fewer dimensions than"):
        build(tmp_path, Layer("nn.Unsqueeze", pos=1, numInputDims=3))(torch.ones(1))


def test_copy_casts_to_the_type_of_its_output(tmp_path):
    """Until the network itself gets another type."""
    copy = build(tmp_path, Layer("nn.Copy", output=np.ones(1, "f4")))
    x = torch.ones(1, dtype=torch.float64)
    assert copy(x).dtype == torch.float32
    assert torch.jit.script(copy)(x).dtype == torch.float32
    assert copy.double()(x).dtype == torch.float64
    assert copy(x) is not x
