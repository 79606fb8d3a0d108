"""The weights of a file in a network: whatever classes, channels, form and device are asked for."""

import os

import pytest
import torch
from torch import nn

import resnext
from resnext.architecture import Architecture
from resnext.weights.files import WeightsError
from tests.helpers.networks import TINY
from tests.helpers.pretrained import assert_right


def refused(weights, *parts, load=resnext.from_checkpoint):
    with pytest.raises(WeightsError) as caught:
        load(weights)
    message = str(caught.value)
    assert "\n" not in message
    for part in (os.fspath(weights), *parts):
        assert part in message


def test_the_model_can_be_trained(pth, state_dict):
    model = resnext.from_checkpoint(pth)
    assert all(torch.equal(value, state_dict[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_weight_is_initialised_before_it_is_overwritten(pth):
    pristine = torch.get_rng_state()
    resnext.from_checkpoint(pth)
    assert torch.equal(torch.get_rng_state(), pristine)


@pytest.mark.parametrize("classes", [10, None])
def test_classes_of_the_file_are_kept_without_a_warning(pth, classes, recwarn):
    assert resnext.from_checkpoint(pth, num_classes=classes).fc.out_features == 10
    assert not recwarn.list


@pytest.mark.parametrize("classes", [-1, -3])
def test_impossible_numbers_of_classes(pth, classes):
    with pytest.raises(ValueError, match=f"num_classes {classes}; expected a whole number, 0 or more"):
        resnext.from_checkpoint(pth, num_classes=classes)


def test_another_number_of_classes_gives_a_new_head(pth, state_dict):
    with pytest.warns(UserWarning, match=r"tiny.pth has 10 classes, 7 were asked for: .* classifier \(fc\) is new"):
        model = resnext.from_checkpoint(pth, num_classes=7)
    assert model.fc.weight.shape == (7, 1024)
    assert model.fc.weight.std() > 0
    assert (model.fc.bias == 0).all()
    body = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    assert all(torch.equal(v, state_dict[k]) for k, v in body.items())


@pytest.mark.parametrize("options", [{}, {"form": "A"}, {"in_channels": 1}, {"global_pool": "catavgmax"}], ids=str)
def test_a_classifier_of_average_and_maximum_is_known_by_its_inputs(tmp_path, options, recwarn):
    model = TINY.build(global_pool="catavgmax")
    torch.save(model.state_dict(), tmp_path / "both.pth")
    again = resnext.from_checkpoint(tmp_path / "both.pth", **options)
    assert (again.global_pool, again.head_hidden_size) == ("catavgmax", 2048)
    assert torch.equal(again.fc.weight, model.fc.weight)
    assert not recwarn.list
    body = resnext.from_checkpoint(tmp_path / "both.pth", features_only=True)
    assert torch.equal(body.conv1.weight, model.conv1.weight)
    with pytest.warns(UserWarning, match="classifier"):
        new = resnext.from_checkpoint(tmp_path / "both.pth", num_classes=7)
    assert new.fc.weight.shape == (7, 2048)


def test_a_classifier_that_does_not_fit_the_pooling(pth):
    with pytest.raises(
        ValueError, match=r"global_pool='catavgmax' and the classifier of .*: it takes 1024 features, not"
    ):
        resnext.from_checkpoint(pth, global_pool="catavgmax")
    with pytest.warns(UserWarning, match="classifier"):
        model = resnext.from_checkpoint(pth, global_pool="catavgmax", num_classes=7)
    assert model.fc.weight.shape == (7, 2048)


def test_warnings_point_at_the_callers_line(pth, monkeypatch):
    monkeypatch.setitem(resnext.zoo.ARCHITECTURES, "resnext11_4x8d", TINY)
    hub = os.path.join(os.path.dirname(__file__), "..", "..", "..")
    for load in (
        lambda: resnext.from_checkpoint(pth, num_classes=7),
        lambda: resnext.create("resnext11_4x8d", weights=pth, num_classes=7),
        lambda: resnext.create("resnext11_4x8d", weights=pth, num_classes=7, form="A"),
        lambda: torch.hub.load(hub, "from_checkpoint", pth, num_classes=7, source="local"),
    ):
        with pytest.warns(UserWarning, match="10 classes, 7 were asked for") as seen:
            load()
        assert [(warning.filename, warning.lineno) for warning in seen] == [
            (load.__code__.co_filename, load.__code__.co_firstlineno)
        ]


@pytest.mark.filterwarnings("ignore:.*10 classes, 3 were asked for")
@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"num_classes": 3, "norm_layer": nn.BatchNorm2d},
                                     {"form": "A"}, {"in_channels": 1}])  # fmt: skip
def test_the_model_lands_on_the_default_device_in_float32(pth, options):
    torch.set_default_dtype(torch.float64)
    try:
        on_cpu = resnext.from_checkpoint(pth, **options)
        with torch.device("meta"):
            on_meta = resnext.from_checkpoint(pth, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    for model, device in ((on_cpu, "cpu"), (on_meta, "meta")):
        values = model.state_dict().values()
        assert {value.device.type for value in values} == {device}
        assert {value.dtype for value in values if value.is_floating_point()} == {torch.float32}


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "got"),
    [({"a": torch.zeros(1)}, "not the weights of a ResNeXt: no entry 'conv1.weight'"),
     ({"conv1.weight": torch.zeros(1), "layer1.0.conv2.weight": torch.zeros(()), "fc.weight": torch.zeros(())},
      "an entry of the wrong shape")],
)  # fmt: skip
def test_weights_of_no_resnext(tmp_path, content, got):
    torch.save(content, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", got)


def test_sizes_that_torch_cannot_build(state_dict, tmp_path):
    torch.save({**state_dict, "fc.weight": torch.zeros(2**62, 0)}, tmp_path / "huge.pth")
    refused(tmp_path / "huge.pth")


def test_entries_missing_left_over_and_of_another_shape_are_all_named(state_dict, tmp_path):
    changed = {k: v for k, v in state_dict.items() if k != "bn1.bias"}
    changed |= {"extra": torch.zeros(1), "bn1.weight": torch.zeros(65)}
    torch.save(changed, tmp_path / "changed.pth")
    refused(
        tmp_path / "changed.pth",
        "not the weights of resnext11_4x8d",
        "missing: bn1.bias",
        "left over: extra",
        "wrong shape: bn1.weight is (65,), expected (64,)",
    )


def test_names_that_do_not_print_and_long_ones_are_escaped_and_cut(state_dict, tmp_path):
    hostile = {"a\x1b[31m\nb": torch.zeros(1), "c" * 100_000: torch.zeros(1)}
    torch.save({**state_dict, **hostile}, tmp_path / "hostile.pth")
    with pytest.raises(resnext.WeightsError) as caught:
        resnext.from_checkpoint(tmp_path / "hostile.pth")
    assert r"a\x1b[31m\nb" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 2000


def test_weights_of_another_network(pth):
    refused(
        pth,
        "expected the weights of resnext29_8x64d, got those of resnext11_4x8d",
        "cardinality 4, expected 8",
        load=lambda path: resnext.create("resnext29_8x64d", weights=path),
    )


def test_only_weights_for_rgb_are_adapted(tmp_path):
    torch.save(Architecture((1, 1, 1), 2, 4, "cifar", in_channels=2).build().state_dict(), tmp_path / "two.pth")
    refused(
        tmp_path / "two.pth",
        "expected weights for 3 or 5 channels, got weights for 2; give in_channels=2",
        load=lambda path: resnext.from_checkpoint(path, in_channels=5),
    )


def test_what_is_no_path(state_dict):
    with pytest.raises(TypeError, match=r"weights: expected a path or URL, got a state_dict; .* load_state_dict"):
        resnext.from_checkpoint(state_dict)
    with pytest.raises(TypeError, match="weights: expected a path or URL, got int"):
        resnext.from_checkpoint(3)


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_the_authors_weights_are_no_checkpoint(name):
    refused(name, "is not a file; for the authors' weights: create(name, pretrained=True)")


def test_the_authors_weights_by_torchvisions_names(hosted, home):
    for weights in ("DEFAULT", "IMAGENET1K_V1"):
        model = resnext.create("resnext11_4x8d", weights=weights, progress=False)
        assert_right(model)
        assert model.preprocessing == "imagenet"  # as the record says, not the shapes
    with pytest.raises(ValueError, match="cannot be combined"):
        resnext.create("resnext11_4x8d", pretrained=True, weights="x.pth")
