"""The fold: exact, for every norm that is one, and refused by name where it cannot be."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import resnext
from resnext.inference.fold import allowed_error, check_model, fold
from resnext.inference.optimize import optimize
from tests.helpers.networks import build, images, logits, randomize, relative_error


class NoEps(nn.Module):
    """A frozen batch norm as detection code has it: buffers, and no word on eps."""

    def __init__(self, channels, eps=0.0):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)
        self.hidden = eps

    def forward(self, x):
        scale = self.weight * (self.running_var + self.hidden).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def test_exact(model):
    network, expected = fold(model, images(3))
    assert network.dtype == torch.float64
    assert expected.shape == (2, 10)
    assert (
        relative_error(network.compute(images(2).double()), copy.deepcopy(model).double()(images(2).double())) < 1e-12
    )


NORMS = {
    "no eps": NoEps,
    "hidden eps": lambda channels: NoEps(channels, eps=0.1),
    "SyncBatchNorm": nn.SyncBatchNorm,
    "not affine": lambda channels: nn.BatchNorm2d(channels, eps=0.1, affine=False),
    "InstanceNorm": lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_norms(norm):
    model = build(norm_layer=norm).eval()
    assert relative_error(optimize(model, images(2), backend="eager")(images(2)), logits(model, images(2))) < 1e-5


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_frozen_batch_norm_of_torchvision(torchvision, eps):
    model = build(norm_layer=lambda channels: torchvision.ops.FrozenBatchNorm2d(channels, eps)).eval()
    assert relative_error(optimize(model, images(2), backend="eager")(images(2)), logits(model, images(2))) < 1e-5


@pytest.mark.parametrize("norm", [lambda c: nn.GroupNorm(1, c), lambda c: nn.BatchNorm2d(c, track_running_stats=False)])
def test_norms_without_statistics_are_refused(norm):
    model = resnext.ResNeXt((1, 1, 1), stem="cifar", cardinality=2, norm_layer=norm)
    with pytest.raises(ValueError, match=r"bn1: expected a batch norm with running statistics"):
        fold(model, images(1))


@pytest.mark.parametrize(
    "compute",
    [
        lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
    ids=["pruned", "weight_norm", "spectral_norm", "new weight_norm", "new spectral_norm"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_that_are_computed_are_refused(compute):
    model = build().eval()
    compute(model.layer2[0].conv2)
    before = copy.deepcopy(list(model.buffers()))
    with pytest.raises(ValueError, match=r"^layer2\.0\.conv2 is pruned or parametrised.*make them permanent first"):
        optimize(model, images(1))
    assert all(torch.equal(one, other) for one, other in zip(before, model.buffers(), strict=True))


def test_they_run_once_they_are_permanent():
    model = build().eval()
    prune.l1_unstructured(model.layer2[0].conv2, "weight", 0.5)
    prune.random_unstructured(model.fc, "bias", 0.5)
    with pytest.raises(ValueError, match=r"^layer2\.0\.conv2 is pruned"):
        check_model(model)
    prune.remove(model.layer2[0].conv2, "weight")
    with pytest.raises(ValueError, match=r"^fc is pruned"):
        check_model(model)
    prune.remove(model.fc, "bias")
    assert relative_error(optimize(model, images(2), backend="eager")(images(2)), logits(model, images(2))) < 1e-5


def test_other_networks_are_refused():
    x = images(1, 32)
    features = resnext.create("resnext29_8x64d_typeC", features_only=True)
    with pytest.raises(TypeError, match="got ResNeXtFeatures"):
        fold(features, x)
    altered = build().eval()
    altered.layer2[0].relu = nn.LeakyReLU()
    with pytest.raises(ValueError, match="folded network differs from the given one by"):
        fold(altered, x)
    altered.layer2[0] = nn.Identity()
    with pytest.raises(ValueError, match=r"layer2\.0 is a Identity"):
        fold(altered, x)


def test_a_network_that_magnifies_rounding_is_held_against_itself(model):
    assert allowed_error(model, images(1), torch.bfloat16, 0.5) == 0.5
    assert 1e-4 < allowed_error(model, images(1), torch.bfloat16, 0.0) < 0.1
    wild = randomize(build().eval(), seed=3)
    with torch.no_grad():
        wild.fc.bias.copy_(-logits(wild, images(1))[0])  # what is left of the logits is rounding, and little else
    assert optimize(wild, images(1), "bf16", "eager").precision == "bf16"
