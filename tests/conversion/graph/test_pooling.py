"""Pooling, padding and upsampling: values by hand and against plain loops."""

import math

import numpy as np
import pytest
import torch

from tests.helpers.torch7_networks import Layer, Net, build, by_hand, pool, refused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

LOWEST = -3.4028234663852886e38
ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


CASES = [
    (Layer("nn.SpatialZeroPadding", pad_l=-1, pad_r=1, pad_t=0, pad_b=-1), [ROWS], [[[2.0, 3.0, 0.0]]]),
    (Layer("nn.SpatialReflectionPadding", pad_l=2, pad_r=0, pad_t=0, pad_b=1), [ROWS],
     [[[3.0, 2.0, 1.0, 2.0, 3.0], [6.0, 5.0, 4.0, 5.0, 6.0], [3.0, 2.0, 1.0, 2.0, 3.0]]]),
    (Layer("nn.SpatialReplicationPadding", pad_l=0, pad_r=-1, pad_t=1, pad_b=0), [ROWS],
     [[[1.0, 2.0], [1.0, 2.0], [4.0, 5.0]]]),
    (Layer("nn.VolumetricReplicationPadding", pleft=1, pright=0, ptop=0, pbottom=0, pfront=1, pback=0),
     [[[[[5.0]], [[7.0]]]]], [[[[[5.0, 5.0]], [[5.0, 5.0]], [[7.0, 7.0]]]]]),
    (Layer("nn.SpatialUpSamplingNearest", scale_factor=2), [[[1.0, 2.0]]],
     [[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]),
    (Layer("nn.SpatialUpSamplingBilinear", scale_factor=2), [[[0.0, 3.0]]], [[[0.0, 1.0, 2.0, 3.0]] * 2][0:1]),
    (Layer("nn.SpatialUpSamplingBilinear", oheight=1, owidth=3), [[[[0.0, 2.0]]]], [[[[0.0, 1.0, 2.0]]]]),
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    by_hand(tmp_path, root, given, expected)


REFUSED = [
    (pool("nn.SpatialMaxPooling", 0, 1), "expected a whole number from 1 as kH, got 0"),
    (pool("nn.SpatialMaxPooling", 1, 0), "expected a whole number from 1 as dH, got 0"),
    (pool("nn.SpatialAveragePooling", 1, 1, -1), "expected a whole number from 0 as padH, got -1"),
    (Layer("nn.SpatialAveragePooling", kW=1, kH=1), "no field dH"),
    (Layer("nn.SpatialAdaptiveMaxPooling", W=math.inf, H=1), "expected a whole number from 1 as W, got inf"),
    (Layer("nn.SpatialUpSamplingNearest", scale_factor=0), "expected a whole number from 1 as scale_factor, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "cause"), REFUSED, ids=lambda x: getattr(x, "class_name", ""))
def test_fields_that_make_no_sense(tmp_path, root, cause):
    refused(tmp_path, root, cause)


def windows(size, k, d, p, ceil_mode, padded):
    """Start of each window of one dimension, as THNN counts them."""
    count = (math.ceil if ceil_mode else math.floor)((size - k + 2 * p) / d) + 1
    if padded and (count - 1) * d >= size + p:
        count -= 1
    return [i * d - p for i in range(count)]


def thnn_pooling(x, kernel, stride, pad, ceil_mode, reduce):
    """THNN's loops over an image or a volume (*sizes); `reduce` takes the values, the full size and the inner size."""
    dims = range(x.ndim)
    starts = [windows(x.shape[i], kernel[i], stride[i], pad[i], ceil_mode, any(pad)) for i in dims]
    out = np.empty([len(s) for s in starts])
    for at in np.ndindex(*out.shape):
        begin = [starts[i][at[i]] for i in dims]
        end = [min(begin[i] + kernel[i], x.shape[i] + pad[i]) for i in dims]
        full = math.prod(e - b for b, e in zip(begin, end, strict=True))
        inner = [(max(begin[i], 0), min(end[i], x.shape[i])) for i in dims]
        values = x[tuple(slice(b, max(b, e)) for b, e in inner)]
        out[at] = reduce(values, full, math.prod(e - b for b, e in inner))
    return out


def maximum(values, full, inner):
    return values.max(initial=LOWEST)


def mean(values, full, inner):
    return values.sum() / full if full else math.nan


def mean_inside(values, full, inner):
    return values.sum() / inner if inner else math.nan


POOLING = [
    ((4, 5), 1, 2, 0), ((5, 7), 1, 3, 0), ((5, 5), 2, 4, 0), ((4, 6), 3, 2, 1), ((7, 6), 3, 2, 1), ((7, 7), 2, 3, 1),
    ((6, 8), 3, 2, 0), ((9, 5), 2, 5, 0),
]  # fmt: skip


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize(("size", "k", "d", "p"), POOLING)
def test_pooling_has_torch7s_windows(tmp_path, size, k, d, p, ceil_mode):
    """Also the last ones, which ceil_mode keeps where the kernel is smaller than the stride and PyTorch drops them."""
    x = Net(7).array(*size)
    for kind, fields, reduce in [
        ("nn.SpatialMaxPooling", {}, maximum),
        ("nn.SpatialAveragePooling", {"divide": True}, mean),
        ("nn.SpatialAveragePooling", {"divide": True, "count_include_pad": False}, mean_inside),
        ("cudnn.SpatialAveragePooling", {}, mean),
    ]:
        module = build(tmp_path, pool(kind, k, d, p, **{**fields, "ceil_mode": ceil_mode}))
        expected = thnn_pooling(x, (k, k), (d, d), (p, p), ceil_mode, reduce)
        got = module(torch.from_numpy(x)[None, None])[0, 0]
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        scripted = torch.jit.script(module)(torch.from_numpy(x)[None])[0]
        np.testing.assert_array_equal(scripted, got)


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize(("k", "d", "p"), [(2, 2, 0), (1, 3, 0), (3, 2, 1)])
def test_volumetric_pooling_has_torch7s_windows(tmp_path, k, d, p, ceil_mode):
    x = Net(8).array(4, 5, 7)
    options = {"kT": k, "dT": d, "padT": p, "ceil_mode": ceil_mode}
    for kind, reduce in [("nn.VolumetricMaxPooling", maximum), ("nn.VolumetricAveragePooling", mean)]:
        module = build(tmp_path, pool(kind, k, d, p, **options))
        expected = thnn_pooling(x, (k,) * 3, (d,) * 3, (p,) * 3, ceil_mode, reduce)
        np.testing.assert_allclose(module(torch.from_numpy(x)[None, None])[0, 0], expected, rtol=1e-5)


def test_dilated_max_pooling(tmp_path):
    x = torch.tensor([[[1.0, 9.0, 2.0, 8.0, 3.0]]])
    fields = {"kW": 2, "kH": 1, "dW": 1, "dH": 1, "padW": 0, "padH": 0, "dilationW": 2, "dilationH": 1}
    module = build(tmp_path, Layer("nn.SpatialDilatedMaxPooling", **fields))
    assert module(x).tolist() == [[[2.0, 9.0, 3.0]]]
    fields.update(dW=4, ceil_mode=True)
    module = build(tmp_path, Layer("nn.SpatialDilatedMaxPooling", **fields))
    assert module(x).tolist() == [[[2.0, 3.0]]]
    assert module(x[..., :4]).tolist() == [[[2.0, torch.finfo().min]]]


def test_average_pooling_without_divide_is_the_sum(tmp_path):
    fields = {"count_include_pad": True, "padW": 1, "padH": 1}
    x = torch.ones(1, 1, 3, 3)
    module = build(tmp_path, Layer("nn.SpatialAveragePooling", kW=3, kH=3, dW=1, dH=1, **fields))
    assert module(x)[0, 0].tolist() == [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    module = build(tmp_path, Layer("cudnn.SpatialAveragePooling", kW=3, kH=3, dW=1, dH=1, **fields))
    torch.testing.assert_close(module(x)[0, 0, 0], torch.tensor([4 / 9, 6 / 9, 4 / 9]))
