"""The network: torchvision's twin bit for bit, and whatever users do to a model."""

import json
import math

import pytest
import torch

from resnext.model import ResNeXt, block_width
from tests.conftest import FIXTURES, randomize
from tests.resnext import record_model

TINY = {"cardinality": 4, "base_width": 8, "stem": "cifar", "num_classes": 10}


def tiny(**options):
    torch.manual_seed(0)
    options = {**TINY, **options}
    layers = (1, 1, 1) if options["stem"] == "cifar" else (1, 1, 1, 1)
    return randomize(ResNeXt(layers, **options)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [False, True])
def test_bit_equal_to_torchvision_with_the_same_weights_both_ways(torchvision, training):
    theirs = randomize(torchvision.models.resnext50_32x4d())
    ours = ResNeXt()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(ours.train(training)(images), theirs.train(training)(images))
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(("planes", "base_width", "width"), [(64, 4, 4), (512, 4, 32), (64, 14, 14), (96, 3, 4)])
def test_width_is_floored(planes, base_width, width):
    assert block_width(planes, base_width) == width == math.floor(planes * base_width / 64)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40)])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_any_size_from_32_px_up(stem, size):
    layers = (1, 1, 1, 1) if stem == "imagenet" else (1, 1, 1)
    model = ResNeXt(layers, cardinality=2, base_width=4, stem=stem, num_classes=5).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, *size)).shape == (2, 5)


def test_shortcut_c_is_a_convolution_in_every_block():
    kinds = {kind: ResNeXt((2, 2, 2), **TINY, shortcut=kind) for kind in "BC"}
    for kind, in_every_block in (("B", False), ("C", True)):
        for name in ("layer1", "layer2", "layer3"):
            first, second = getattr(kinds[kind], name)
            assert first.downsample is not None
            assert (second.downsample is not None) == in_every_block


def test_input_channels_and_classes():
    assert tiny(in_channels=1, num_classes=7)(torch.zeros(1, 1, 32, 32)).shape == (1, 7)


def test_initialisation_is_the_official_one():
    torch.manual_seed(0)
    model = ResNeXt()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 10_000:
            expected = math.sqrt(2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(module.weight.mean().item()) < 0.05 * expected, name
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
    assert (model.fc.bias == 0).all()
    assert model.fc.weight.abs().max() <= 1 / math.sqrt(2048)


def test_weights_of_an_emptied_model_can_be_initialised_again():
    model = tiny()
    for value in model.state_dict().values():
        value.fill_(7)
    model.reset_parameters()
    assert not any((value == 7).all() for value in model.state_dict().values())
    assert (model.layer1[0].bn2.weight == 1).all()


def test_built_on_meta_then_assigned_is_ready(images):
    model = tiny()
    with torch.device("meta"):
        empty = ResNeXt((1, 1, 1), **TINY)
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(model.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(empty.eval()(images), model(images))
    assert all(p.requires_grad for p in empty.parameters())


def test_gradients_reach_every_parameter(images):
    model = tiny().train()
    model(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stem": "mnist"}, "stem 'mnist'; expected one of imagenet, cifar"),
     ({"shortcut": "A"}, "shortcut 'A'; expected one of B, C"),
     ({"layers": (1, 1, 1)}, r"layers \(1, 1, 1\); expected the number of bottlenecks \(1 or more\) of 4 stages"),
     ({"layers": (1, 1, 1, 1), "stem": "cifar"}, "of 3 stages"),
     ({"layers": (1, 0, 1, 1)}, r"layers \(1, 0, 1, 1\)"),
     ({"cardinality": 0}, "cardinality 0; expected a whole number, 1 or more"),
     ({"num_classes": -1}, "num_classes -1; expected a whole number, 0 or more"),
     ({"in_channels": 0}, "in_channels 0"),
     ({"base_width": 0}, "base_width 0")],
)  # fmt: skip
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResNeXt(**{"layers": (1, 1, 1, 1), **options})


@pytest.mark.parametrize("name", record_model.NETWORKS)
def test_names_initial_weights_graph_and_outputs_are_those_recorded(name):
    recorded = json.loads((FIXTURES / "model.json").read_text())[name]
    found = json.loads(json.dumps(record_model.record(*record_model.NETWORKS[name])))
    for mode in ("evaluation", "training"):
        values, expected = found.pop(mode), recorded.pop(mode)
        assert {key: pytest.approx(value, rel=1e-9) for key, value in expected.items()} == values
    assert found == recorded
