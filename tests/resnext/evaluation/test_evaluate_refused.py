"""Options and networks that do not go together, and data of which nothing can be read."""

import pytest
import torch

from resnext.model import ResNeXt
from tests.resnext.evaluation.labelled import evaluate


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--crop", "320"), ("--crop", "CIFAR10")),
        (("--ten-crop",), ("--ten-crop", "CIFAR10")),
        (("--preprocess", "torchvision"), ("--preprocess torchvision", "CIFAR10")),
        (("--resume",), ("--resume needs --output",)),
        (("--output", "report.csv"), ("--output report.csv", ".json")),
        (("--output", "nowhere/report.json"), ("--output nowhere/report.json", "folder that exists")),
        (("--batch", "0"), ("--batch", "from 1 up", "got 0")),
        (("--workers", "-1"), ("--workers", "from 0 up", "got -1")),
    ],
)
def test_options_that_are_refused(cifar, capsys, options, parts):
    try:
        status = cifar.evaluate(*options)
    except SystemExit as exit_:  # of the argument parser
        status = exit_.code
    assert status == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RANK", "x", "RANK=x: expected a whole number from 0 up"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK=-1: expected a whole number from 0 up"),
        ("WORLD_SIZE", "0", "WORLD_SIZE=0: expected a whole number from 1 up"),
        ("LOCAL_WORLD_SIZE", "", "LOCAL_WORLD_SIZE=: expected a whole number from 1 up"),
        ("RANK", "1", "RANK=1: expected less than WORLD_SIZE=1"),
    ],
)
def test_an_environment_that_torchrun_does_not_make_is_refused(cifar, monkeypatch, capsys, name, value, expected):
    monkeypatch.setenv(name, value)
    assert cifar.evaluate() == 2
    assert capsys.readouterr().err == f"resnext: {expected}; start processes with torchrun\n"


def test_a_crop_that_nobody_tested_is_refused(imagenet, capsys):
    assert imagenet.evaluate("--crop", "300") == 2
    assert capsys.readouterr().err == "resnext: --crop 300: expected 224 or 320\n"


def test_a_network_for_other_than_rgb_is_refused(tmp_path, capsys):
    model = ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10, in_channels=1)
    torch.save(model.state_dict(), tmp_path / "grey.pth")
    assert evaluate(tmp_path, "--weights", tmp_path / "grey.pth") == 2
    assert "1 channels; expected 3" in capsys.readouterr().err


def test_without_pillow(cifar, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "PIL" else name)
    assert cifar.evaluate() == 2
    assert capsys.readouterr().err == "resnext: evaluate reads images with Pillow: pip install pillow\n"


def test_no_image_that_can_be_read(changing, tmp_path, capsys):
    for path in changing.data.rglob("*.png"):
        path.write_bytes(b"")
    assert changing.evaluate("--output", tmp_path / "report.json") == 2
    assert "none of 24 images could be read; the first, class_" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()
