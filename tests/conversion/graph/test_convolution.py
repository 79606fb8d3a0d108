"""Convolutions: against their definition, sides in the right order, and what is refused."""

import numpy as np
import pytest
import torch

from tests.helpers.torch7_networks import Layer, Net, build, by_hand, refused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

CASES = [
    (Layer("nn.SpatialConvolutionMM", nInputPlane=1, nOutputPlane=1, kW=1, kH=2, weight=np.float32([[1, 10]])),
     [[[[1.0], [2.0], [3.0]]]], [[[[21.0], [32.0]]]]),  # an early file: without dW, dH, padW, padH and bias
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    by_hand(tmp_path, root, given, expected)


def convolution(**fields):
    return Layer("nn.SpatialConvolution", **{**Net().conv(1, 1).fields, **fields})


REFUSED = [
    (Layer("nn.SpatialFullConvolution", nInputPlane=0, nOutputPlane=1, kW=1, kH=1), "is no convolution"),
    (convolution(dW=0), "expected a whole number from 1 as dW, got 0"),
    (convolution(padH=-1), "a whole number from 0 as padH, got -1"),
    (convolution(kW="3"), "expected a whole number as kW, got '3'"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "cause"), REFUSED, ids=lambda x: getattr(x, "class_name", ""))
def test_fields_that_make_no_sense(tmp_path, root, cause):
    refused(tmp_path, root, cause)


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
