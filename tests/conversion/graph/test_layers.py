"""Layers and options that no recorded file shows, with values by hand; test_layers_reference has the longer ones."""

import math

import numpy as np
import pytest
import torch

from conversion import t7
from tests.conversion.nets import Layer, Longs, build, seq, table

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

inf = math.inf


def tensors(value):
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return value
    return torch.tensor(value, dtype=torch.float32)


def layer(name, **fields):
    return Layer(name, **fields)


def image(height, width, planes=1):
    return torch.arange(1.0, planes * height * width + 1).reshape(1, planes, height, width)


A, B, C = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[-5.0, 8.0]])
ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]

# (layer, input, expected)
CASES = [
    (layer("nn.Clamp", min_val=-1, max_val=2), [-3.0, 0.5, 3.0], [-1.0, 0.5, 2.0]),
    (layer("nn.HardTanh", min_val=-1, max_val=1), [-3.0, 0.5, 3.0], [-1.0, 0.5, 1.0]),
    (layer("nn.HardTanh"), [-3.0, 0.5], [-1.0, 0.5]),
    (layer("cudnn.ClippedReLU", ceiling=2), [-3.0, 0.5, 3.0], [0.0, 0.5, 2.0]),
    (layer("nn.Exp"), [0.0, 1.0], [1.0, math.e]),
    (layer("nn.Log"), [1.0, math.e], [0.0, 1.0]),
    (layer("nn.Sqrt", eps=0), [4.0, 9.0], [2.0, 3.0]),
    (layer("nn.Square"), [-2.0, 3.0], [4.0, 9.0]),
    (layer("nn.Power", pow=3), [-2.0, 3.0], [-8.0, 27.0]),
    (layer("nn.HardShrink", **{"lambda": 0.5}), [-1.0, 0.4, 2.0], [-1.0, 0.0, 2.0]),
    (layer("nn.SoftShrink", **{"lambda": 0.5}), [-1.0, 0.4, 2.0], [-0.5, 0.0, 1.5]),
    (layer("nn.SoftSign"), [-1.0, 3.0], [-0.5, 0.75]),
    (layer("nn.TanhShrink"), [0.0, 1.0], [0.0, 1 - math.tanh(1)]),
    (layer("nn.LogSigmoid"), [0.0], [-math.log(2)]),
    (layer("nn.RReLU", lower=0.1, upper=0.3), [-1.0, 2.0], [-0.2, 2.0]),
    (layer("nn.ReLU", threshold=1, val=-7, inplace=False), [0.5, 2.0], [-7.0, 2.0]),
    (layer("nn.LeakyReLU", negval=0.25, inplace=True), [-4.0, 2.0], [-1.0, 2.0]),
    (layer("nn.ELU", alpha=2, inplace=True), [-1.0, 2.0], [2 * math.expm1(-1), 2.0]),
    (layer("nn.PReLU", nOutputPlane=2, weight=np.float32([0.5, 0.25])), [-4.0, -4.0], [-2.0, -1.0]),
    (layer("nn.PReLU", nOutputPlane=2, weight=np.float32([0.5, 0.25])), [[-4.0, -4.0]], [[-2.0, -1.0]]),
    (layer("nn.PReLU", nOutputPlane=2, weight=np.float32([0.5, 0.25])), [[[-4.0]], [[-4.0]]], [[[-2.0]], [[-1.0]]]),
    # the planes of one sample are dimension 0, those of a batch dimension 1
    (layer("nn.SoftMax"), [0.0, math.log(3)], [0.25, 0.75]),
    (layer("nn.SoftMax"), [[[0.0]], [[math.log(3)]]], [[[0.25]], [[0.75]]]),
    (layer("nn.SpatialLogSoftMax"), [[[[0.0]], [[math.log(3)]]]], [[[[math.log(0.25)]], [[math.log(0.75)]]]]),
    (layer("cudnn.SpatialSoftMax"), [[[[0.0, 0.0]], [[0.0, 0.0]]]], [[[[0.5, 0.5]], [[0.5, 0.5]]]]),
    (layer("cudnn.SpatialLogSoftMax"), [[[[0.0]], [[0.0]]]], [[[[-math.log(2)]], [[-math.log(2)]]]]),
    (layer("cudnn.SoftMax"), [[[[0.0, 0.0]], [[0.0, 0.0]]]], [[[[0.25, 0.25]], [[0.25, 0.25]]]]),
    (layer("cudnn.LogSoftMax"), [[0.0, 0.0]], [[-math.log(2), -math.log(2)]]),
    (layer("nn.Add", scalar=True, bias=np.float32([2])), ROWS, [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]),
    (layer("nn.Add", bias=np.float32([1, 0, -1])), ROWS, [[2.0, 2.0, 2.0], [5.0, 5.0, 5.0]]),
    (layer("nn.Add", bias=np.float32([1, 0, -1])), [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]),
    (layer("nn.CMul", size=Longs([3]), weight=np.float32([1, 0, 2])), ROWS, [[1.0, 0.0, 6.0], [4.0, 0.0, 12.0]]),
    (layer("nn.CMul", size=Longs([2, 3]), weight=np.full((2, 3), 2, "f4")), ROWS,
     [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]),
    (layer("nn.CAdd", size=Longs([1, 3]), bias=np.float32([[1, 0, 2]])), ROWS, [[2.0, 2.0, 5.0], [5.0, 5.0, 8.0]]),
    (layer("nn.AddConstant", constant_scalar=np.float32([1, 0, 2])), ROWS, [[2.0, 2.0, 5.0], [5.0, 5.0, 8.0]]),
    (layer("nn.Normalize", p=1, eps=0), [[1.0, -3.0]], [[0.25, -0.75]]),
    (layer("nn.Normalize", p=inf, eps=0), [1.0, -4.0], [0.25, -1.0]),
    (layer("nn.Normalize", p=3, eps=0), [[2.0, 0.0]], [[1.0, 0.0]]),
    (layer("nn.VolumetricDropout", p=0.25), [4.0], [3.0]),
    (layer("nn.Dropout", p=0.25), [4.0], [3.0]),  # a file older than the second version
    (layer("nn.GradientReversal"), [1.0], [1.0]),
    (layer("nn.L1Penalty"), [1.0], [1.0]),
    (layer("nn.TotalVariation", strength=1), [1.0], [1.0]),
    # shapes
    (layer("nn.Max", dimension=2), ROWS, [3.0, 6.0]),
    (layer("nn.Min", dimension=-1), ROWS, [1.0, 4.0]),
    (layer("nn.Max", dimension=1, nInputDims=1), ROWS, [3.0, 6.0]),
    (layer("nn.Max", dimension=1), [1.0, 2.0], [2.0]),
    (layer("nn.Sum", dimension=1, nInputDims=1), ROWS, [6.0, 15.0]),
    (layer("nn.Sum", dimension=-2), ROWS, [5.0, 7.0, 9.0]),
    (layer("nn.Sum", dimension=1, squeeze=False), ROWS, [[5.0, 7.0, 9.0]]),
    (layer("nn.Sum", dimension=1), [1.0, 2.0], [3.0]),
    (layer("nn.Sum", dimension=2, sizeAverage=True), ROWS, [2.0, 5.0]),
    (layer("nn.Mean", dimension=1), ROWS, [2.5, 3.5, 4.5]),  # without sizeAverage: written before nn.Mean was a sum
    (layer("nn.Narrow", dimension=-1, index=2, length=-1), ROWS, [[2.0, 3.0], [5.0, 6.0]]),
    (layer("nn.Narrow", dimension=2, index=1, length=-2), ROWS, [[1.0, 2.0], [4.0, 5.0]]),
    (layer("nn.Narrow", dimension=2, index=-1, length=1), ROWS, [[1.0, 2.0], [4.0, 5.0]]),
    (layer("nn.Select", dimension=-1, index=-1), ROWS, [3.0, 6.0]),
    (layer("nn.Select", dimension=1, index=2), ROWS, [4.0, 5.0, 6.0]),
    (layer("nn.Squeeze", dim=1, numInputDims=2), [[[1.0, 2.0]]], [[1.0, 2.0]]),
    (layer("nn.Squeeze", numInputDims=2), [[[1.0]]], [[1.0]]),
    (layer("nn.Squeeze"), [[1.0]], [1.0]),
    (layer("nn.Squeeze", dim=2), [[[1.0], [2.0]]], [[[1.0], [2.0]]]),
    (layer("nn.Unsqueeze", pos=1), ROWS, [ROWS]),
    (layer("nn.Unsqueeze", pos=1, numInputDims=1), ROWS, [[row] for row in ROWS]),
    (layer("nn.Replicate", nfeatures=2), [1.0, 2.0], [[1.0, 2.0], [1.0, 2.0]]),
    (layer("nn.Replicate", nfeatures=2, dim=2), [1.0, 2.0], [[1.0, 1.0], [2.0, 2.0]]),
    (layer("nn.Replicate", nfeatures=2, dim=1, ndim=1), ROWS, [[row, row] for row in ROWS]),
    (layer("nn.Transpose", permutations=[[1, 2]]), ROWS, [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]),
    (layer("nn.View", size=Longs([3])), [[1.0, 2.0, 3.0]], [1.0, 2.0, 3.0]),  # a batch of 1 is lost
    (layer("nn.View", size=Longs([3]), numInputDims=1), [[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]]),
    (layer("nn.View", size=Longs([-1])), ROWS, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    (layer("nn.View", size=Longs([-1]), numInputDims=1), ROWS, ROWS),
    (layer("nn.View", size=Longs([1, 3])), ROWS, [[row] for row in ROWS]),
    (layer("nn.View", size=Longs([1, -1]), numInputDims=2), [ROWS], [[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]]),
    (layer("nn.View", size=Longs([3]), numInputDims=2), [ROWS], ROWS),  # what is left over is the batch
    (layer("nn.Reshape", size=Longs([6])), ROWS, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    (layer("nn.Reshape", size=Longs([3, 1])), [[1.0, 2.0, 3.0]], [[[1.0], [2.0], [3.0]]]),
    (layer("nn.Reshape", size=Longs([3]), batchMode=False), [[1.0, 2.0, 3.0]], [1.0, 2.0, 3.0]),
    (layer("nn.Reshape", size=Longs([3, 1]), batchMode=True), ROWS, [[[x] for x in row] for row in ROWS]),
    (layer("nn.Copy"), [1.0], [1.0]),
    (layer("nn.Padding", dim=1, pad=2, nInputDim=1, value=9), ROWS,
     [[1.0, 2.0, 3.0, 9.0, 9.0], [4.0, 5.0, 6.0, 9.0, 9.0]]),
    (layer("nn.Padding", dim=2, pad=-1, value=9, index=1), ROWS, [[9.0, 1.0, 2.0, 3.0], [9.0, 4.0, 5.0, 6.0]]),
    (layer("nn.Padding", dim=1, pad=-1, value=9, index=3), [1.0, 2.0, 3.0], [1.0, 2.0, 9.0, 3.0]),
    (layer("nn.Padding", dim=1, pad=1, value=9, index=3), [1.0, 2.0, 3.0], [1.0, 9.0, 2.0, 3.0]),
    (layer("nn.SpatialZeroPadding", pad_l=-1, pad_r=1, pad_t=0, pad_b=-1), [ROWS], [[[2.0, 3.0, 0.0]]]),
    (layer("nn.SpatialReflectionPadding", pad_l=2, pad_r=0, pad_t=0, pad_b=1), [ROWS],
     [[[3.0, 2.0, 1.0, 2.0, 3.0], [6.0, 5.0, 4.0, 5.0, 6.0], [3.0, 2.0, 1.0, 2.0, 3.0]]]),
    (layer("nn.SpatialReplicationPadding", pad_l=0, pad_r=-1, pad_t=1, pad_b=0), [ROWS],
     [[[1.0, 2.0], [1.0, 2.0], [4.0, 5.0]]]),
    (layer("nn.VolumetricReplicationPadding", pleft=1, pright=0, ptop=0, pbottom=0, pfront=1, pback=0),
     [[[[[5.0]], [[7.0]]]]], [[[[[5.0, 5.0]], [[5.0, 5.0]], [[7.0, 7.0]]]]]),
    (layer("nn.ShaveImage", size=1), image(3, 4).tolist(), [[[[6.0, 7.0]]]]),
    (layer("nn.SpatialUpSamplingNearest", scale_factor=2), [[[1.0, 2.0]]],
     [[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]),
    (layer("nn.SpatialUpSamplingBilinear", scale_factor=2), [[[0.0, 3.0]]], [[[0.0, 1.0, 2.0, 3.0]] * 2][0:1]),
    (layer("nn.SpatialUpSamplingBilinear", oheight=1, owidth=3), [[[[0.0, 2.0]]]], [[[[0.0, 1.0, 2.0]]]]),
    # tables
    (layer("nn.CSubTable"), [A, B], (A - B).tolist()),
    (layer("nn.CDivTable"), [A, B], (A / B).tolist()),
    (layer("nn.CMaxTable"), [A, B, C], [[3.0, 8.0]]),
    (layer("nn.CMinTable"), [A, B, C], [[-5.0, -2.0]]),
    (layer("nn.CMulTable"), [A, B, C], [[-15.0, -64.0]]),
    (layer("nn.JoinTable", dimension=-1), [A, B], [[1.0, -2.0, 3.0, 4.0]]),
    (seq(layer("nn.SplitTable", dimension=-1), layer("nn.SelectTable", index=2)), ROWS, [2.0, 5.0]),
    (seq(layer("nn.SplitTable", dimension=1, nInputDims=1), layer("nn.CAddTable")), ROWS, [6.0, 15.0]),
    (seq(layer("nn.NarrowTable", offset=2, length=2), layer("nn.CSubTable")), [A, B, C], (B - C).tolist()),
    (table(layer("nn.Exp"), layer("nn.Square"), kind="nn.Parallel", inputDimension=1, outputDimension=1),
     [[0.0, 0.0], [2.0, 3.0]], [1.0, 1.0, 4.0, 9.0]),
    # decorators
    (table(layer("nn.Square"), kind="nn.DontCast"), [3.0], [9.0]),
    (table(layer("nn.Square"), kind="nn.Serial"), [3.0], [9.0]),
    (layer("nn.SpatialConvolutionMM", nInputPlane=1, nOutputPlane=1, kW=1, kH=2, weight=np.float32([[1, 10]])),
     [[[[1.0], [2.0], [3.0]]]], [[[[21.0], [32.0]]]]),  # an early file: without dW, dH, padW, padH and bias
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    module, given = build(tmp_path, root), tensors(given)
    with torch.no_grad():
        got = module([x.clone() for x in given] if isinstance(given, list) else given.clone())
    assert got.shape == torch.tensor(expected).shape
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-6, atol=1e-7)
    if not isinstance(given, list):
        assert torch.equal(torch.jit.script(module)(given.clone()), got)


@pytest.mark.parametrize(
    ("root", "cause"),
    [(layer("nn.Select", dimension=0, index=1), "expected a dimension as dimension, counted from 1"),
     (layer("nn.Select", dimension=1, index=0), "expected an index as index, counted from 1"),
     (layer("nn.SelectTable", index="name"), "expected a whole number as index, got 'name'"),
     (layer("nn.NarrowTable", offset=0), "expected an offset from 1 and a length, got 0 and 1"),
     (layer("nn.Transpose", permutations=[[1, 2, 3]]), "expected pairs of dimensions"),
     (layer("nn.Transpose", permutations=3), "expected pairs of dimensions"),
     (layer("nn.HardTanh", min_val=1, max_val=1), "expected min_val below max_val"),
     (layer("nn.Dropout", p=0.5, v2=True, stochastic_inference=True), "drops at random"),
     (layer("nn.SpatialDropout", p=0.5, stochastic_inference=True), "drops at random"),
     (layer("nn.AddConstant", constant_scalar=np.ones(2, "f4"), inplace=True), "in place is not supported"),
     (layer("nn.MulConstant", constant_scalar=True), "expected a number as constant_scalar, got True"),
     (layer("nn.CMul", size=Longs([2]), weight=np.ones(3, "f4")), "weight has shape (3,); expected (2,)"),
     (table(kind="nn.Concat", dimension=1.5), "expected a whole number as dimension, got 1.5"),
     (Layer("nn.SpatialFullConvolution", nInputPlane=0, nOutputPlane=1, kW=1, kH=1), "is no convolution")],
    ids=lambda x: getattr(x, "class_name", ""),
)  # fmt: skip
def test_fields_that_make_no_sense(tmp_path, root, cause):
    with pytest.raises(t7.T7Error) as caught:
        build(tmp_path, root)
    assert cause in str(caught.value)
