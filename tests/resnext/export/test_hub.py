"""A folder of a network, and who loads it."""

import json

import pytest
import torch

import resnext
from resnext.preprocess import Preprocessing
from tests.helpers.networks import TINY, TINY_IMAGENET, build

NAMES = [f"animal {number}" for number in range(10)]


@pytest.fixture
def folder(tmp_path):
    model = build(TINY_IMAGENET).eval()
    model.classes, model.preprocessing, model.license = NAMES, Preprocessing(resize=72, crop=64), "MIT"
    return resnext.save_pretrained(model, tmp_path / "net")


def test_everything_comes_back(folder):
    images = torch.randn(1, 3, 64, 64)
    expected = build(TINY_IMAGENET).eval()(images)
    for load in (resnext.from_pretrained, resnext.from_checkpoint):
        model = load(folder).eval()
        assert torch.equal(model(images), expected)
        assert (model.classes, model.preprocessing.crop, model.license) == (NAMES, 64, "MIT")


def test_timm_loads_the_folder(folder, torchvision):
    timm = pytest.importorskip("timm")
    images = torch.randn(1, 3, 64, 64)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert type(model).__module__.startswith("timm.")
    assert torch.equal(model(images), build(TINY_IMAGENET).eval()(images))
    assert list(model.pretrained_cfg["input_size"]) == [3, 64, 64]


def test_networks_that_timm_lacks_are_not_called_one_of_its_own(tmp_path):
    resnext.save_pretrained(build(TINY), tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["architecture"] == "resnext11_4x8d"


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="expected a new or an empty folder"):
        resnext.save_pretrained(build(TINY), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    resnext.save_pretrained(build(TINY), tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 3
