"""Class activation maps: exact, in every form, and without touching the model."""

import pytest
import torch

from resnext.explain import class_activation_map
from resnext.model import ResNeXt
from tests.helpers.networks import randomize


def network(**options):
    torch.manual_seed(0)
    options = {"layers": (1, 1, 1), "stem": "cifar", "num_classes": 7, "cardinality": 2, "base_width": 8, **options}
    model = ResNeXt(options.pop("layers"), **options)
    return randomize(model).eval().double()  # double: exact but for 1e-12 or so


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def images():
    return torch.rand((3, 3, 32, 40), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


EVERY_CLASS = torch.arange(7).expand(3, 7)


@pytest.mark.parametrize(
    "options", [{}, {"form": "A"}, {"form": "B"}, {"drop_rate": 0.5}, {"layers": (1,) * 4, "stem": "imagenet"}], ids=str
)
def test_the_mean_of_a_map_and_the_bias_are_the_logit(options, images):
    model = network(**options)
    maps = class_activation_map(model, images, EVERY_CLASS)
    assert maps.shape == (3, 7, *((1, 2) if "layers" in options else (8, 10)))
    with torch.no_grad():
        assert torch.allclose(maps.mean((2, 3)) + model.fc.bias, model(images), rtol=1e-10, atol=1e-12)


def test_each_place_is_what_the_classifier_makes_of_it(model, images):
    maps = class_activation_map(model, images, EVERY_CLASS)
    with torch.no_grad():
        features = model.forward_features(images)
        place = model.forward_head(features[..., 2:3, 5:6]) - model.fc.bias  # as if the image were that place
    assert torch.allclose(maps[..., 2, 5], place, rtol=1e-10, atol=1e-12)


def test_which_classes(model, images):
    every = class_activation_map(model, images, EVERY_CLASS)
    with torch.no_grad():
        best = model(images).argmax(1)
    rows = torch.arange(3)
    for classes, expected in (
        (None, every[rows, best]),
        (4, every[:, 4]),
        ([6, 0, 2], every[rows, [6, 0, 2]]),
        (torch.tensor([6, 0, 2]), every[rows, [6, 0, 2]]),
        ([[6, 0], [1, 2], [3, 3]], every[rows[:, None], torch.tensor([[6, 0], [1, 2], [3, 3]])]),
    ):
        got = class_activation_map(model, images, classes)
        assert got.shape == expected.shape
        assert torch.allclose(got, expected)


def test_the_model_stays_as_it_is(images):
    model = network(drop_rate=0.5)
    expected = class_activation_map(model, images)
    model.train()
    model.bn1.eval()  # a frozen layer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    got = class_activation_map(model, images)
    assert torch.equal(got, expected)
    assert not got.requires_grad
    assert model.training
    assert model.dropout.training
    assert not model.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="classes from 9 to 9"):
        class_activation_map(model, images, 9)
    assert model.training


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_other_pooling_is_refused(pool, images):
    for classes in (None, 1):
        with pytest.raises(ValueError, match=f"global_pool='{pool}', expected 'avg'"):
            class_activation_map(network(global_pool=pool), images, classes)


def test_a_network_without_a_classifier_is_refused(images):
    model = network()
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="needs a classifier; this network has none"):
        class_activation_map(model, images)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (7, "classes from 7 to 7; the network has 0 to 6"),
        ([0, -1, 2], "classes from -1 to 2; the network has 0 to 6"),
        ([0, 1], r"classes of shape \(2,\) .*expected .* \(3,\)"),
        (torch.zeros(3, 1, 1, dtype=torch.long), r"classes of shape \(3, 1, 1\)"),
        (1.0, "torch.float32; expected a whole number"),
        ([True, False, True], "torch.bool; expected a whole number"),
    ],
)
def test_classes_that_are_refused(model, images, classes, message):
    with pytest.raises(ValueError, match=message):
        class_activation_map(model, images, classes)
