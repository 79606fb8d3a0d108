"""The maps between the stages, of whole networks and pruned ones. test_timm.py compares them with timm's."""

import pytest
import torch

import resnext
from resnext.architecture import Architecture
from tests.helpers.networks import randomize

IMAGENET = Architecture((1, 2, 1, 1), cardinality=2, base_width=4, num_classes=5)
CIFAR = Architecture((1, 2, 1), cardinality=2, base_width=8, stem="cifar", num_classes=5)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
BOTH = pytest.mark.parametrize("architecture", [IMAGENET, CIFAR], ids=["imagenet", "cifar"])


def build(architecture, **options):
    torch.manual_seed(0)
    return randomize(architecture.build(**options)).eval()


@BOTH
@pytest.mark.parametrize("form", "ABC")
def test_intermediates_are_the_maps_of_features_only(architecture, form):
    model = build(architecture, form=form)
    body = architecture.build(features_only=True, form=form).eval()
    body.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        features, maps = model.forward_intermediates(IMAGES)
        expected = body(IMAGES)
        assert torch.equal(features, model.forward_features(IMAGES))
        assert torch.equal(features, maps[-1])
        assert len(maps) == len(expected) == len(model.feature_info)
        assert all(map(torch.equal, maps, expected))
        assert all(map(torch.equal, body.forward_intermediates(IMAGES, intermediates_only=True), expected))


@BOTH
def test_indices(architecture):
    model = build(architecture)
    every = model.forward_intermediates(IMAGES, intermediates_only=True)
    count = len(every)
    for indices, expected in ((1, every[-1:]), (count, every), ((2, 0), [every[0], every[2]]), ([-1], every[-1:])):
        found = model.forward_intermediates(IMAGES, indices, intermediates_only=True)
        assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected))


def test_stopping_early_leaves_stages_out():
    model = build(IMAGENET)
    ran = []
    for index in range(1, 5):
        getattr(model, f"layer{index}").register_forward_hook(lambda *_, index=index: ran.append(index))
    features, maps = model.forward_intermediates(IMAGES, [0, 2], stop_early=True)
    assert ran == [1, 2]
    assert torch.equal(features, maps[-1])


@BOTH
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"indices": 0},
            ValueError,
            r"indices 0; expected a number of maps, 1 to [45], or a sequence of their indices",
        ),
        ({"indices": 9}, ValueError, "indices 9; expected a number of maps"),
        ({"indices": True}, TypeError, "indices True is of type bool; expected a sequence"),
        ({"indices": [9]}, ValueError, r"indices \(9,\); expected some of 0 to [34]"),
        ({"indices": []}, ValueError, r"indices \(\); expected some of 0"),
        ({"output_fmt": "NLC"}, ValueError, "output_fmt 'NLC'; expected 'NCHW'"),
    ],
)
def test_what_cannot_be_given(architecture, options, error, message):
    model = architecture.build()
    with pytest.raises(error, match=message):
        model.forward_intermediates(IMAGES, **options)
    if "indices" in options:
        with pytest.raises(error, match=message):
            model.prune_intermediate_layers(**options)
        assert model.num_classes == 5


@BOTH
@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_pruned_network_gives_its_last_map(architecture, last):
    model = build(architecture)
    every = model.forward_intermediates(IMAGES, intermediates_only=True)
    assert model.prune_intermediate_layers([last, 0]) == sorted({last, 0})
    assert torch.equal(model(IMAGES), every[last])
    assert model.num_features == model.inplanes == model.head_hidden_size == every[last].shape[1]
    assert model.num_classes == 0
    maps = model.forward_intermediates(IMAGES, intermediates_only=True)  # of those that are left
    assert len(maps) == last + 1
    assert all(map(torch.equal, maps, every))
    with pytest.raises(ValueError, match="indices"):
        model.forward_intermediates(IMAGES, [last + 1])
    assert torch.jit.script(model)(IMAGES).shape == every[last].shape
    model.reset_classifier(3, "avg")
    assert model(IMAGES).shape == (2, 3)


def test_the_head_stays_where_it_is_asked_for():
    model = build(CIFAR, drop_rate=0.5)
    logits = model(IMAGES)
    assert model.prune_intermediate_layers(1, prune_head=False) == [3]
    assert torch.equal(model(IMAGES), logits)
    assert model.prune_intermediate_layers(1) == [3]
    assert torch.equal(model.train()(IMAGES)[0, 0], model(IMAGES)[0, 0])  # no dropout, which is for pooled features


def test_a_network_that_gives_maps_is_pruned_already():
    body = CIFAR.build(features_only=True, out_indices=(1,))
    with pytest.raises(ValueError, match="features_only=True is pruned already; build it with other out_indices"):
        body.prune_intermediate_layers([0])
    assert body(IMAGES)[0].shape == (2, 256, 32, 32)


def test_gradients_with_checkpointing():
    model = build(IMAGENET).train()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        maps = model.forward_intermediates(IMAGES, 2, intermediates_only=True)
        sum(value.square().mean() for value in maps).backward()
        gradients.append([value.grad.clone() for value in model.layer1.parameters()])
    assert all(map(torch.allclose, *gradients))


def test_every_network_has_them():
    with torch.device("meta"):
        model = resnext.create("resnext50_32x4d_typeC")
        maps = model.forward_intermediates(torch.zeros(1, 3, 224, 224), intermediates_only=True)
    assert [tuple(value.shape[1:]) for value in maps] == [
        (entry["num_chs"], 224 // entry["reduction"], 224 // entry["reduction"]) for entry in model.feature_info
    ]
