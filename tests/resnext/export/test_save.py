"""What is kept with the weights: written by `resnext.save`, read by everything that loads."""

import json
import os
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import resnext
from resnext.preprocess import Preprocessing
from resnext.weights.files import WeightsError, read_record
from tests.helpers.commands import predicted
from tests.helpers.networks import TINY, TINY_IMAGENET, build
from tests.helpers.pictures import make_photos

NAMES = ["zebra", "ünicorn $x^$", "\x1b[31mred"] + [f"animal {number}" for number in range(7)]
OWN = Preprocessing(resize=72, crop=64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
FORMATS = pytest.mark.parametrize("name", ["möre.pth", "more.safetensors"])


@FORMATS
@pytest.mark.parametrize("form", ["A", "B", "C"])
def test_everything_comes_back(tmp_path, name, form):
    model = build(TINY_IMAGENET, form=form).eval()
    path = resnext.save(model, tmp_path / name, NAMES, preprocessing=OWN, license="MIT", source="my own photographs")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    loaded = resnext.from_checkpoint(path, form=form).eval()
    assert (loaded.classes, loaded.preprocessing, loaded.license) == (NAMES, OWN, "MIT")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))
    record = read_record(path)
    assert record["source"] == "my own photographs"
    assert record["architecture"]["name"] == "resnext14_2x4d"
    again = resnext.save(loaded, tmp_path / f"again-{name}")  # what was read is the default
    assert (read_record(again)["classes"], read_record(again)["license"]) == (NAMES, "MIT")


@FORMATS
def test_saving_twice_gives_the_same_bytes(model, tmp_path, name):
    first = resnext.save(model, tmp_path / name, NAMES).read_bytes()
    (tmp_path / "other").mkdir()
    assert resnext.save(model, tmp_path / "other" / name, NAMES).read_bytes() == first


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("weights_only", [True, False])
def test_torch_load_finds_a_plain_state_dict(model, tmp_path, mmap, weights_only):
    path = resnext.save(model, tmp_path / "net.pth", NAMES)
    loaded = torch.load(path, mmap=mmap, weights_only=weights_only)
    assert list(loaded) == list(model.state_dict())
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())
    assert zipfile.ZipFile(path).testzip() is None


def test_safetensors_reads_a_plain_state_dict(model, tmp_path):
    path = resnext.save(model, tmp_path / "net.safetensors", NAMES)
    loaded = load_file(path)
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"  # which transformers asks for


def test_weights_in_another_memory_layout(model, tmp_path):
    shuffled = build(TINY).to(memory_format=torch.channels_last)
    for name in ("net.pth", "net.safetensors"):
        loaded = resnext.from_checkpoint(resnext.save(shuffled, tmp_path / name))
        assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


def test_authors_settings_keep_their_name(model, imagenet, tmp_path):
    for network, name in ((model, "cifar10"), (imagenet, "imagenet")):
        assert resnext.from_checkpoint(resnext.save(network, tmp_path / "net.pth")).preprocessing == name


def test_options_that_change_the_function_are_kept(tmp_path):
    options = {"replace_stride_with_dilation": (False, False, True), "global_pool": "max"}
    model, images = build(TINY_IMAGENET, **options).eval(), torch.randn(1, 3, 64, 64)
    path = resnext.save(model, tmp_path / "net.pth")
    assert torch.equal(resnext.from_checkpoint(path).eval()(images), model(images))
    assert resnext.from_checkpoint(path, form="A").global_pool == "max"
    assert resnext.from_checkpoint(path, global_pool="avgmax").global_pool == "avgmax"  # what is asked for comes first
    maps = resnext.from_checkpoint(path, features_only=True).eval()(images)
    assert [tuple(value.shape[2:]) for value in maps] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]


def test_a_classifier_of_mean_and_maximum(tmp_path):
    model, images = build(TINY, global_pool="catavgmax").eval(), torch.randn(1, 3, 32, 32)
    path = resnext.save(model, tmp_path / "net.pth")
    assert torch.equal(resnext.from_checkpoint(path).eval()(images), model(images))


def test_another_number_of_classes_has_no_names_and_keeps_the_preprocessing(imagenet, tmp_path):
    path = resnext.save(imagenet, tmp_path / "net.pth", NAMES, preprocessing=OWN)
    with pytest.warns(UserWarning, match="the classifier"):
        model = resnext.from_checkpoint(path, num_classes=4)
    assert (model.classes, model.preprocessing) == (None, OWN)


def test_a_new_classifier_has_no_names():
    model = build(TINY)
    model.classes = NAMES
    model.reset_classifier(10)
    assert model.classes is None


def test_predict_prints_the_names(imagenet, tmp_path, capsys):
    path = resnext.save(imagenet, tmp_path / "net.safetensors", NAMES, preprocessing=OWN)
    photos = make_photos(tmp_path / "photos")
    out, _ = predicted(capsys, photos, "--weights", path, "--json", "--top", 10)
    document = json.loads(out)
    assert [sorted(best["name"] for best in entry["predictions"]) for entry in document] == [sorted(NAMES)] * 4
    out, _ = predicted(capsys, photos, "--weights", path, "--top", 10, "--plot", tmp_path / "plot.png")
    assert "zebra" in out
    assert "\x1b" not in out  # a file must not steer the terminal


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": "net.bin"}, ValueError, "expected a name that ends in .pth or .safetensors"),
        ({"classes": ["a", "b"]}, ValueError, "classes: expected a name for each of the network's 10 outputs, got 2"),
        ({"classes": "abcdefghij"}, TypeError, "classes: expected a list of names"),
        ({"classes": [*range(10)]}, TypeError, "classes: expected a list of names"),
        ({"classes": [""] * 10}, TypeError, "each a text that is not empty"),
        ({"classes": ["x" * 2**21] * 10}, ValueError, "expected at most 16,777,216"),
        ({"preprocessing": "imagenet21k"}, ValueError, "unknown data set"),
        ({"model": nn.Linear(1, 1)}, TypeError, "expected a resnext.ResNeXt"),
        ({"model": build(TINY, norm_layer=lambda channels: nn.GroupNorm(4, channels))}, ValueError, "loaded again"),
    ],
)
def test_what_cannot_be_saved(model, tmp_path, arguments, error, message):
    path = tmp_path / arguments.get("path", "net.pth")
    with pytest.raises(error, match=message):
        resnext.save(**{"model": model, **arguments, "path": path})
    assert list(tmp_path.iterdir()) == []


# --- records of strangers ---------------------------------------------------------------------------------------------


def with_record(tmp_path, text, suffix=".pth", **entry):
    """A network whose file holds this text as what is kept with it."""
    path, model = tmp_path / f"net{suffix}", build(TINY)
    if suffix == ".safetensors":
        save_file(model.state_dict(), path, metadata={"resnext": text})
        return path
    torch.save(model.state_dict(), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/provenance.json", text, **entry)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "text", ["{", "[]", "null", "[" * 10**5, "1" * 10**4, json.dumps({"classes": ["x" * 999] * 17_000})]
)
def test_bad_records_are_passed_over_with_a_warning(tmp_path, text, suffix):
    path = with_record(tmp_path, text, suffix)
    with pytest.warns(UserWarning, match=r"net\..* what is kept with the weights cannot be read") as caught:
        model = resnext.from_checkpoint(path)
    assert len(caught) == 1
    assert (model.classes, model.preprocessing, model.license) == (None, "cifar10", None)


def test_a_record_that_is_not_text(tmp_path):
    with pytest.warns(UserWarning, match="cannot be read and is passed over"):
        assert read_record(with_record(tmp_path, b"\xff\xfe")) == {}


def test_a_compressed_record_is_refused_as_the_rest_of_the_archive_would_be(tmp_path):
    path = with_record(tmp_path, "{}" + " " * 10**6, compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed or overlapping"):
        resnext.from_checkpoint(path)


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"classes": ["a"]}, ["classes (expected a list of 10 names, got 1)"]),
        ({"classes": "abcdefghij"}, ["classes (expected a list of 10 names, got str)"]),
        ({"classes": [{}] * 10}, ["classes (expected a text"]),
        ({"classes": ["\ud800"] * 10}, ["classes ("]),
        ({"classes": ["x" * 1001] * 10}, ["expected a text of 1 to 1000 characters"]),
        ({"preprocessing": "imagenet"}, ["preprocessing (expected an object, got str)"]),
        ({"preprocessing": {"resize": 10**9, "crop": 10**9}}, ["preprocessing (", "4096"]),
        ({"preprocessing": {"mean": 5}}, ["preprocessing ("]),
        ({"preprocessing": {"mean": [10**400, 1, 1]}}, ["preprocessing ("]),
        ({"preprocessing": {"pipeline": []}}, ["preprocessing ("]),
        ({"license": 5}, ["license (expected a text"]),
        ({"architecture": {"global_pool": ["max"]}}, ["architecture (global_pool"]),
        ({"architecture": {"replace_stride_with_dilation": [1, 2]}}, ["architecture (replace"]),
        ({"architecture": []}, ["architecture (expected an object, got list)"]),
        ({"classes": 1, "license": [], "preprocessing": 1}, ["classes (", "license (", "preprocessing ("]),
    ],
)
def test_each_bad_value_is_passed_over_and_named(tmp_path, record, parts):
    path = with_record(tmp_path, json.dumps(record))
    with pytest.warns(UserWarning, match="passed over of what is kept with the weights") as caught:
        model = resnext.from_checkpoint(path)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert os.fspath(path) in message
    assert "\n" not in message
    assert all(part in message for part in parts)
    assert (model.classes, model.preprocessing, model.license) == (None, "cifar10", None)


def test_good_values_beside_a_bad_one_are_used(tmp_path):
    path = with_record(tmp_path, json.dumps({"classes": NAMES, "license": 5, "unknown": {}}))
    with pytest.warns(UserWarning, match="license"):
        assert resnext.from_checkpoint(path).classes == NAMES


def test_files_without_a_record(weights, tmp_path, sample):
    assert read_record(weights) == {}
    assert read_record(sample) == {}
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert read_record(tmp_path / "x.safetensors") == {}
    torch.save({}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_record(tmp_path / "old.pth") == {}
    with pytest.raises(WeightsError, match="cannot be read"):
        read_record(tmp_path / "absent.pth")
