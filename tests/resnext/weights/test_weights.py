"""Loading: from names, from files of every kind, and every way in which a file can be the wrong one."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

import resnext
from resnext.architecture import Architecture
from resnext.zoo import ARCHITECTURES, get_architecture, parse_name
from tests.conftest import relative_error, torch7_output
from tests.resnext.conftest import TINY


def same(model, state_dict):
    loaded = model.state_dict()
    return list(loaded) == list(state_dict) and all(torch.equal(loaded[k], v) for k, v in state_dict.items())


@pytest.mark.parametrize(
    "architecture",
    [TINY, Architecture((2, 2, 2), 2, 12, "cifar", "C", 100),
     Architecture((1, 2, 1, 1), 8, 4, num_classes=3, in_channels=1),
     Architecture((1, 1, 2, 1), 8, 4, shortcut="C"),
     Architecture((3, 8, 36, 3), 1, 64), Architecture((11, 11, 11), 8, 8, "cifar"), *ARCHITECTURES.values()],
    ids=lambda a: a.name,
)  # fmt: skip
def test_architecture_is_found_from_shapes_alone(architecture):
    shapes = {name: tuple(value.shape) for name, value in architecture.build_empty().state_dict().items()}
    assert Architecture.from_shapes(shapes) == architecture


def test_names_tell_networks_of_one_depth_apart():
    assert Architecture((3, 4, 23, 3)).name == "resnext101_32x4d"
    assert Architecture((11, 11, 11), stem="cifar").name == "resnext101_32x4d_cifar"
    assert Architecture((3, 3, 3), 8, 64, stem="cifar").name == "resnext29_8x64d"


def test_list_models_is_the_family_in_three_forms():
    bases = [
        "resnext50_1x64d", "resnext50_2x40d", "resnext50_4x24d", "resnext50_8x14d", "resnext50_32x4d",
        "resnext101_1x64d", "resnext101_2x40d", "resnext101_4x24d", "resnext101_8x14d", "resnext101_32x4d",
        "resnext101_64x4d", "resnext152_32x4d", "resnext29_8x64d", "resnext29_16x64d",
    ]  # fmt: skip
    assert resnext.list_models() == [f"{base}_type{form}" for base in bases for form in "ABC"]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "32x4" not in name or "50" in name])
def test_every_network_can_be_built(name):
    form = "A" if ARCHITECTURES[name].cardinality < 8 else "B" if name.startswith("resnext29") else "C"
    with torch.device("meta"):
        model = resnext.create(f"{name}_type{form}", num_classes=3, in_channels=2, shortcut="C")
    assert model.form == form
    assert model.fc.out_features == 3
    assert model.conv1.in_channels == 2
    assert model.layer2[1].downsample is not None


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext50_32x4d_typeC"])
def test_form_in_a_name_may_be_left_out(name):
    assert get_architecture(name) is ARCHITECTURES["resnext50_32x4d"]


def test_parse_name_takes_any_depth_cardinality_and_width():
    assert parse_name("resnext11_4x8d_typeC") == ("resnext11_4x8d", "C")
    assert parse_name("resnext101_4x8d_cifar") == ("resnext101_4x8d_cifar", None)


@pytest.mark.parametrize("name", ["resnext50_32x4", "resnet50", "resnext50_32x4d_typeZ", ""])
def test_a_typo_gets_a_suggestion(name):
    with pytest.raises(ValueError, match=r"unknown architecture .*did you mean resnext"):
        resnext.create(name)


def test_a_name_that_is_not_offered_says_what_is():
    with pytest.raises(ValueError, match=r"'resnext11_4x8d'; available: resnext50_1x64d, .*resnext50_32x4d"):
        resnext.create("resnext11_4x8d")


def test_unknown_option_is_refused():
    with pytest.raises(TypeError, match="has no option cardinality; expected some of num_classes, in_channels, form, "):
        resnext.create("resnext50_32x4d", cardinality=4)


def test_pretrained_and_weights_contradict_each_other():
    with pytest.raises(ValueError, match=r"pretrained=True and weights='x.pth' contradict"):
        resnext.create("resnext50_32x4d", pretrained=True, weights="x.pth")


# --- files ---------------------------------------------------------------------------------------------------------


def test_from_checkpoint_reads_pth(pth, state_dict):
    model = resnext.from_checkpoint(pth)
    assert same(model, state_dict)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_from_checkpoint_reads_safetensors(state_dict, tmp_path):
    save_file(dict(state_dict), tmp_path / "tiny.safetensors")
    assert same(resnext.from_checkpoint(str(tmp_path / "tiny.safetensors")), state_dict)


def test_files_are_told_apart_by_content(pth, state_dict, tmp_path):
    save_file(dict(state_dict), tmp_path / "misnamed.pth")
    assert same(resnext.from_checkpoint(tmp_path / "misnamed.pth"), state_dict)
    assert same(resnext.from_checkpoint(shutil.copy(pth, tmp_path / "misnamed.t7")), state_dict)


def test_from_checkpoint_converts_t7(sample):
    model = resnext.from_checkpoint(sample).eval()
    images, expected = torch7_output("cifar10_resnext11_4x8d_C_nested")
    with torch.no_grad():
        assert relative_error(model(images), expected) < 5e-5


def test_older_pickles_are_read(state_dict, tmp_path):
    torch.save(dict(state_dict), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(resnext.from_checkpoint(tmp_path / "old.pth"), state_dict)


@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_training_checkpoints_are_unwrapped(key, prefix, state_dict, tmp_path):
    torch.save({key: {f"{prefix}{k}": v for k, v in state_dict.items()}, "epoch": 90}, tmp_path / "train.pth")
    assert same(resnext.from_checkpoint(tmp_path / "train.pth"), state_dict)


def test_half_weights_become_float32_and_missing_counters_zero(state_dict, tmp_path):
    half = {k: v.half() for k, v in state_dict.items() if v.is_floating_point()}
    torch.save(half, tmp_path / "half.pth")
    model = resnext.from_checkpoint(tmp_path / "half.pth")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.fc.weight, half["fc.weight"].float())
    assert model.bn1.num_batches_tracked == 0


def test_writing_into_a_loaded_model_does_not_change_the_file(pth):
    before = pth.read_bytes()
    model = resnext.from_checkpoint(pth)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert pth.read_bytes() == before
    assert resnext.from_checkpoint(pth).fc.weight.any()


def test_no_weight_is_initialised_before_it_is_overwritten(pth, monkeypatch):
    pristine = torch.get_rng_state()
    resnext.from_checkpoint(pth)
    assert torch.equal(torch.get_rng_state(), pristine)


@pytest.mark.parametrize("classes", [10, None])
def test_classes_of_the_file_are_kept_without_a_warning(pth, classes, recwarn):
    assert resnext.from_checkpoint(pth, num_classes=classes).fc.out_features == 10
    assert not recwarn.list


@pytest.mark.parametrize("classes", [-1, -3])
def test_impossible_numbers_of_classes(pth, classes):
    with pytest.raises(ValueError, match=f"num_classes {classes}; expected 0 or more"):
        resnext.from_checkpoint(pth, num_classes=classes)
    with pytest.raises(ValueError, match=f"num_classes {classes}; expected 0 or more"):
        resnext.create("resnext50_32x4d", num_classes=classes)


def test_other_number_of_classes_gives_a_new_head_and_says_so(pth, state_dict):
    with pytest.warns(
        UserWarning, match=r"tiny.pth has 10 classes, 7 were asked for: .* classifier \(fc\) is new"
    ) as seen:
        model = resnext.from_checkpoint(pth, num_classes=7)
    assert seen[0].filename == __file__
    assert model.fc.weight.shape == (7, 1024)
    assert model.fc.weight.std() > 0
    assert (model.fc.bias == 0).all()
    body = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    assert all(torch.equal(v, state_dict[k]) for k, v in body.items())
