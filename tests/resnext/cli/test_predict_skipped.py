"""`python -m resnext predict` with images that cannot be used: told, skipped, and nothing else lost."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import resnext
from resnext.__main__ import main
from resnext.cli import predict
from resnext.cli.command_line import Parser
from tests.resnext.cli.prediction import SIZES, make_photos, make_weights, run


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def test_bad_images_are_named_and_skipped(capsys, photos, weights, tmp_path):
    (photos / "bad.png").write_bytes(b"not a picture")
    arguments = [photos, tmp_path / "absent.png", "--weights", weights["cifar10"], "--json"]
    out, error = run(capsys, *arguments, status=1)
    *images, bad, absent = json.loads(out)  # each in its place
    assert [entry["image"] for entry in images] == [str(photos / f"{number}.png") for number in range(len(SIZES))]
    assert set(bad) == {"image", "error"}
    assert bad["image"] == str(photos / "bad.png")
    assert bad["error"].startswith("expected an image that Pillow reads")
    assert absent == {"image": str(tmp_path / "absent.png"), "error": "no such file or folder"}
    assert f"resnext: skipped {photos / 'bad.png'}: expected an image" in error
    assert f"resnext: skipped {tmp_path / 'absent.png'}: no such file or folder\n" in error


def test_an_image_that_cannot_be_preprocessed(capsys, photos, weights):
    """Pillow reads it, and its values have no range that could be known."""
    Image.fromarray(np.full((32, 32), -7, np.int32)).save(photos / "signed.tiff")
    out, error = run(capsys, photos, "--weights", weights["cifar10"], status=1)
    assert error.startswith(f"resnext: skipped {photos / 'signed.tiff'}: ")
    assert error.count("\n") == 1
    assert "signed.tiff" not in out


def test_a_skipped_image_stays_in_its_place(capsys, photos, weights):
    (photos / "1bad.png").write_bytes(b"not a picture")  # between two that go through the network together
    out, _ = run(capsys, photos, "--weights", weights["cifar10"], "--json", status=1)
    document = json.loads(out)
    assert [os.path.basename(entry["image"]) for entry in document] == ["0.png", "1.png", "1bad.png", "2.png", "3.png"]
    assert ["error" in entry for entry in document] == [False, False, True, False, False]


def test_images_too_large_for_a_network_that_does_not_resize(capsys, photos, weights, monkeypatch):
    monkeypatch.setattr(predict, "_MAX_PIXELS", 40 * 33)  # 0.png; 3.png has more
    _, error = run(capsys, photos, "--weights", weights["cifar10"], status=1)
    assert error == (
        f"resnext: skipped {photos / '3.png'}: 64 x 48 pixels, which this network takes as they are; expected at most "
        "1,320 (it was trained on 32 x 32): resize the image first\n"
    )
    run(capsys, photos, "--weights", weights["imagenet"])


@pytest.mark.parametrize("stage", ["forward_features", "preprocess"])
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory(capsys, photos, weights, monkeypatch, stage, error):
    owner = resnext.model.ResNeXt if stage == "forward_features" else predict.CifarPreprocess
    name = stage if stage == "forward_features" else "forward"
    forward = getattr(owner, name)

    def small(self, image):
        width = image.shape[-1] if isinstance(image, torch.Tensor) else image.width
        if width == 64:
            raise error
        return forward(self, image)

    monkeypatch.setattr(owner, name, small)
    out, said = run(capsys, photos, "--weights", weights["cifar10"], "--json", status=1)
    assert [entry.get("error") for entry in json.loads(out)] == [
        *[None] * 3,
        "this machine's memory is too small for the network at 64 x 48 pixels"
        if stage == "forward_features"
        else "too large for this machine's memory",
    ]
    assert said.count("\n") == 1


def test_other_errors_are_not_taken_for_too_little_memory(capsys, photos, weights, monkeypatch):
    def broken(self, image):
        raise RuntimeError("a bug")

    for owner, name in ((resnext.model.ResNeXt, "forward_features"), (predict.CifarPreprocess, "forward")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            assert main(["predict", str(photos), "--weights", str(weights["cifar10"])]) == 2
        assert capsys.readouterr().err == "resnext: a bug\n"


def test_nothing_that_can_be_used(capsys, tmp_path, weights, monkeypatch):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    out, error = run(capsys, tmp_path / "bad.png", tmp_path / "absent.png", "--weights", weights["cifar10"], status=2)
    assert out == ""
    assert error.count("resnext: skipped ") == error.count("\n") == 2
    out, _ = run(capsys, tmp_path / "bad.png", "--weights", weights["cifar10"], "--json", status=2)
    assert [set(entry) for entry in json.loads(out)] == [{"image", "error"}]
    monkeypatch.setattr(predict, "load_model", None)  # it may be a long download
    out, _ = run(capsys, tmp_path / "absent.png", "--json", status=2)
    assert json.loads(out) == [{"image": str(tmp_path / "absent.png"), "error": "no such file or folder"}]


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_closed_streams(capsys, photos, weights, monkeypatch, closed, options):
    """Python has None for them."""
    (photos / "bad.png").write_bytes(b"not a picture")
    parser = Parser()
    predict.add_command(parser.add_subparsers())
    parsed = parser.parse_args(["predict", str(photos), "--weights", str(weights["cifar10"]), *options])
    with monkeypatch.context() as patch:
        patch.setattr(sys, closed, None)
        assert parsed.run(parsed) == 1
    out, error = capsys.readouterr()
    assert (out == "") == (closed == "stdout")
    assert (error == "") == (closed == "stderr")
    assert "skipped" not in out
