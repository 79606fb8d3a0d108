"""Normalisation and dropout: values by hand, against plain loops, in training, and what is refused."""

import math

import numpy as np
import pytest
import torch

from tests.helpers.torch7_networks import Layer, Net, build, by_hand, refused

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")

inf = math.inf


CASES = [
    (Layer("nn.Normalize", p=1, eps=0), [[1.0, -3.0]], [[0.25, -0.75]]),
    (Layer("nn.Normalize", p=inf, eps=0), [1.0, -4.0], [0.25, -1.0]),
    (Layer("nn.Normalize", p=3, eps=0), [[2.0, 0.0]], [[1.0, 0.0]]),
    (Layer("nn.VolumetricDropout", p=0.25), [4.0], [3.0]),
    (Layer("nn.Dropout", p=0.25), [4.0], [3.0]),  # a file older than the second version
    (Layer("nn.SpatialBatchNormalization", eps=0, running_mean=np.float32([1]), running_var=np.float32([4])),
     [[[[3.0]]]], [[[[1.0]]]]),
    (Layer("nn.BatchNormalization", eps=0, running_mean=np.float32([1]), running_var=np.float32([4]),
           bias=np.float32([5])), [[3.0]], [[6.0]]),
]  # fmt: skip


@pytest.mark.parametrize(("root", "given", "expected"), CASES, ids=lambda x: getattr(x, "class_name", ""))
def test_by_hand(tmp_path, root, given, expected):
    by_hand(tmp_path, root, given, expected)


REFUSED = [
    (Layer("nn.Dropout", p=0.5, v2=True, stochastic_inference=True), "drops values at random"),
    (Layer("nn.SpatialDropout", p=0.5, stochastic_inference=True), "drops values at random"),
    (Layer("nn.Dropout", p=1), "expected 0 <= p < 1, got 1"),
    (Layer("nn.Normalize", p=0), "expected a norm above 0 as p, got 0"),
    (Layer("nn.SpatialCrossMapLRN", size=0), "expected a whole number from 1 as size, got 0"),
    (Layer("nn.BatchNormalization", running_mean=3), "expected a tensor of real numbers as running_mean, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("root", "cause"), REFUSED, ids=lambda x: getattr(x, "class_name", ""))
def test_fields_that_make_no_sense(tmp_path, root, cause):
    refused(tmp_path, root, cause)


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


def test_instance_normalization_takes_the_image_s_own_statistics(tmp_path):
    net = Net(12)
    weight, bias, x = net.array(2), net.array(2), net.array(3, 2, 4, 5)
    module = build(tmp_path, Layer("nn.InstanceNormalization", eps=1e-3, nOutput=2, weight=weight, bias=bias))
    axes = (2, 3)
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    expected = normal * weight[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("kind", ["nn.Dropout", "nn.SpatialDropout", "nn.VolumetricDropout"])
def test_dropout_in_training(tmp_path, kind, v2):
    """The second version of nn.Dropout scales what it keeps, the others scale in evaluation; two drop whole planes."""
    module = build(tmp_path, Layer(kind, p=0.25, v2=v2)).train()
    x = torch.ones(500, 4, 2, 2, 2)
    torch.manual_seed(0)
    out = torch.jit.script(module)(x)
    kept = 1 / 0.75 if kind == "nn.Dropout" and v2 else 1.0
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, kept]))
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    whole = {"nn.Dropout": 0, "nn.SpatialDropout": 2, "nn.VolumetricDropout": 3}[kind]
    planes = out.flatten(5 - whole) if whole else out.unsqueeze(-1)
    assert (planes == planes[..., :1]).all()
    other = out.movedim(1, 0)
    assert not torch.equal(other[0], other[1])
    assert torch.equal(x, torch.ones_like(x))
