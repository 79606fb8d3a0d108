"""Layers held against a plain reading of Torch7's loops or of their definition, where no recorded file shows them."""

import math

import numpy as np
import pytest
import torch

from conversion.graph import layers
from tests.conversion.graph import test_layers
from tests.conversion.nets import Layer, Net, build, pool, table

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

LOWEST = -3.4028234663852886e38


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


@pytest.mark.parametrize("size", [1, 3, 4, 5])
@pytest.mark.parametrize("kind", ["nn.SpatialCrossMapLRN", "cudnn.SpatialCrossMapLRN"])
def test_lrn(tmp_path, kind, size):
    """An even size looks one plane further ahead than back, as cuDNN and cunn do; Torch7 on a CPU has none."""
    x = Net(9).array(6, 2, 2)
    offset = {"K": 2} if kind.startswith("cudnn") else {"k": 2}
    module = build(tmp_path, Layer(kind, size=size, alpha=0.5, beta=0.75, **offset))
    expected = np.empty_like(x)
    for plane in range(6):
        near = x[max(plane - (size - 1) // 2, 0) : plane + size // 2 + 1]
        expected[plane] = x[plane] / (2 + 0.5 / size * (near**2).sum(0)) ** 0.75
    np.testing.assert_allclose(module(torch.from_numpy(x)), expected, rtol=1e-5)
    np.testing.assert_allclose(module(torch.from_numpy(x)[None])[0], expected, rtol=1e-5)


def scatter(x, weight, bias, stride, pad, adj):
    """A full convolution by its definition: each input value adds its kernel to the output."""
    dims = x.ndim - 1
    size = [(x.shape[i + 1] - 1) * stride + weight.shape[i + 2] + adj for i in range(dims)]
    out = np.zeros((weight.shape[1], *size))
    for plane in range(x.shape[0]):
        for at in np.ndindex(*x.shape[1:]):
            window = tuple(slice(at[i] * stride, at[i] * stride + weight.shape[i + 2]) for i in range(dims))
            out[(slice(None), *window)] += x[(plane, *at)] * weight[plane]
    inner = tuple(slice(pad, s - pad) for s in size)
    return out[(slice(None), *inner)] + bias.reshape(-1, *[1] * dims)


def test_full_convolutions(tmp_path):
    net = Net(10)
    flat = net.conv(3, 2, 3, 2, 1, kind="nn.SpatialFullConvolution", adjW=1, adjH=1)
    x = net.array(3, 4, 5)
    expected = scatter(x, flat.fields["weight"], flat.fields["bias"], 2, 1, 1)
    np.testing.assert_allclose(build(tmp_path, flat)(torch.from_numpy(x)).detach(), expected, rtol=1e-4, atol=1e-5)

    x, fields = net.array(3, 2, 3, 4), {"kT": 3, "dT": 2, "weight": net.array(3, 2, 3, 3, 3)}
    deep = Layer("nn.VolumetricFullConvolution", **{**flat.fields, **fields, "padT": 1, "adjT": 1})
    expected = scatter(x, fields["weight"], flat.fields["bias"], 2, 1, 1)
    np.testing.assert_allclose(build(tmp_path, deep)(torch.from_numpy(x)).detach(), expected, rtol=1e-4, atol=1e-5)

    # the class's first version: other names for the padding, output planes first, no adj
    old = {key: value for key, value in deep.fields.items() if not key.startswith(("adj", "pad"))}
    old["weight"] = np.ascontiguousarray(fields["weight"].swapaxes(0, 1))
    first = Layer("nn.VolumetricFullConvolution", **old, pT=1, pH=1, pW=1)
    expected = scatter(x, fields["weight"], flat.fields["bias"], 2, 1, 0)
    np.testing.assert_allclose(build(tmp_path, first)(torch.from_numpy(x)).detach(), expected, rtol=1e-4, atol=1e-5)


def test_height_and_width_are_not_swapped(tmp_path):
    net = Net(11)
    shape = {"nInputPlane": 2, "nOutputPlane": 3, "kW": 3, "kH": 2, "dW": 2, "dH": 1, "padW": 1, "padH": 0}
    conv = Layer("nn.SpatialDilatedConvolution", **shape, dilationW=1, dilationH=2, weight=net.array(3, 2, 2, 3))
    assert build(tmp_path, conv)(torch.zeros(1, 2, 7, 9)).shape == (1, 3, 5, 5)
    full = Layer("cudnn.SpatialFullConvolution", **shape, adjW=1, adjH=0, weight=net.array(2, 3, 2, 3))
    assert build(tmp_path, full)(torch.zeros(1, 2, 4, 5)).shape == (1, 3, 5, 10)
    sizes = {**shape, "kT": 4, "dT": 3, "padT": 2, "weight": net.array(3, 2, 4, 2, 3), "bias": net.array(3)}
    for kind in ("nn.VolumetricConvolution", "cudnn.VolumetricConvolution", "nn.VolumetricDilatedConvolution"):
        assert build(tmp_path, Layer(kind, **sizes))(torch.zeros(1, 2, 5, 7, 9)).shape == (1, 3, 2, 6, 5)
    adaptive = Layer("nn.SpatialAdaptiveMaxPooling", W=3, H=2)
    assert build(tmp_path, adaptive)(torch.zeros(1, 1, 7, 9)).shape == (1, 1, 2, 3)


def test_instance_normalization_takes_the_image_s_own_statistics(tmp_path):
    net = Net(12)
    weight, bias, x = net.array(2), net.array(2), net.array(3, 2, 4, 5)
    module = build(tmp_path, Layer("nn.InstanceNormalization", eps=1e-3, nOutput=2, weight=weight, bias=bias))
    axes = (2, 3)
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    expected = normal * weight[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach(), expected, rtol=1e-4, atol=1e-6)


def test_depth_concat_centres_smaller_outputs(tmp_path):
    small = pool("nn.SpatialMaxPooling", 2, 1)
    root = table(Layer("nn.Identity"), small, kind="nn.DepthConcat", dimension=1)
    got = build(tmp_path, root)(torch.arange(1.0, 10).reshape(1, 3, 3))
    assert got[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert got[1].tolist() == [[5, 6, 0], [8, 9, 0], [0, 0, 0]]  # 2 in 3: begins at floor((3 - 2) / 2)


@pytest.mark.parametrize("dim", [None, 2])
def test_mixture_table(tmp_path, dim):
    gate = torch.tensor([[0.25, 0.75], [1.0, -1.0]])
    experts = [torch.tensor([[4.0, 8.0], [1.0, 2.0]]), torch.tensor([[0.0, 4.0], [5.0, 7.0]])]
    module = build(tmp_path, Layer("nn.MixtureTable", dim=dim))
    expected = [[1.0, 5.0], [-4.0, -5.0]]
    assert module([gate, experts]).tolist() == expected
    assert module([gate, torch.stack(experts, 1)]).tolist() == expected
    assert build(tmp_path, Layer("nn.MixtureTable"))([gate[0], [x[0] for x in experts]]).tolist() == [1.0, 5.0]


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


SAME = {
    "cudnn.BatchNormalization": "nn.BatchNormalization",
    "cudnn.SpatialBatchNormalization": "nn.SpatialBatchNormalization",
    "cudnn.SpatialConvolution": "nn.SpatialConvolution",
    "cudnn.VolumetricAveragePooling": "nn.VolumetricAveragePooling",
    "cudnn.VolumetricBatchNormalization": "nn.VolumetricBatchNormalization",
    "cudnn.VolumetricFullConvolution": "nn.VolumetricFullConvolution",
    "cudnn.VolumetricMaxPooling": "nn.VolumetricMaxPooling",
    "fbnn.SpatialBatchNormalization": "nn.SpatialBatchNormalization",
    "nn.VolumetricDilatedMaxPooling": "nn.VolumetricMaxPooling",
}
FIELDS = {
    "kW": 1, "kH": 2, "kT": 3, "dW": 2, "dH": 1, "dT": 1, "padW": 0, "padH": 1, "padT": 1, "nInputPlane": 4,
    "eps": 1e-3, "nOutputPlane": 1, "bias": np.ones(1, "f4"),
    "running_mean": np.ones(1, "f4"), "running_var": np.ones(1, "f4"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_classes_that_are_the_same_as_another(tmp_path, name):
    fields = dict(FIELDS, weight=np.ones(4 * 6 if "Vol" in name else 4 * 2, "f4"))
    if "Norm" in name:
        fields["weight"] = fields["bias"]
    one, other = (build(tmp_path, Layer(kind, **fields)) for kind in (name, SAME[name]))
    assert repr(one) == repr(other)
    assert one.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize(("kind", "function"), [("cudnn.Tanh", torch.tanh), ("cudnn.Sigmoid", torch.sigmoid)])
def test_cudnn_activations_may_overwrite_their_input(tmp_path, kind, function):
    x = torch.tensor([0.5, -2.0])
    assert torch.equal(build(tmp_path, Layer(kind))(x), function(x))
    y = x.clone()
    assert build(tmp_path, Layer(kind, inplace=True))(y) is y
    assert torch.equal(y, function(x))


def classes_tested_here():
    roots = [case[0] for case in test_layers.CASES]
    named = {root.class_name for root in roots}
    for root in roots:
        named |= {child.class_name for child in root.fields.get("modules", [])}
    by_their_own_tests = {
        "cudnn.Sigmoid", "cudnn.SpatialCrossMapLRN", "cudnn.SpatialFullConvolution", "cudnn.Tanh",
        "cudnn.VolumetricConvolution", "nn.InstanceNormalization",
        "nn.DenseConnectLayerCustom", "nn.MixtureTable", "nn.SpatialDilatedMaxPooling",
        "nn.VolumetricAveragePooling", "nn.VolumetricDilatedConvolution", "nn.VolumetricFullConvolution",
        "nn.VolumetricMaxPooling",
    }  # fmt: skip
    return named | set(SAME) | by_their_own_tests


def test_what_is_tested_here_is_supported():
    assert classes_tested_here() <= set(layers.BUILDERS) | set(layers.CONTAINERS)
