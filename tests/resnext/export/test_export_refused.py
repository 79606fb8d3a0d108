"""What cannot be exported, and exports that fail: one line, the right exit status, every file as it was."""

import copy
import importlib.util
import os
from contextlib import nullcontext
from functools import partial

import pytest
import safetensors.torch
import torch

from resnext.__main__ import main
from resnext.architecture import Architecture
from resnext.cli.export import MismatchError, export
from resnext.export.formats import FORMATS, Format
from resnext.inference.optimize import TOLERANCE
from tests.conftest import randomize

TINY = Architecture((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return randomize(TINY.build())


@pytest.fixture
def weights(model, tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save(model.state_dict(), path)
    return path


def refused(capsys, *arguments):
    """What `python -m resnext export` says when it refuses."""
    try:
        status = main(["export", *map(str, arguments)])
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.startswith("resnext: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--format", "safetensors", "--with-preprocess"], ["--format safetensors", "--with-preprocess", "contradict"]),
        (["--format", "safetensors", "--dynamic"], ["--format safetensors", "--dynamic", "contradict"]),
        (["--format", "safetensors", "--image-size", "64"], ["--format safetensors", "--image-size", "contradict"]),
        (["--format", "safetensors", "--batch-size", "2"], ["--format safetensors", "--batch-size", "contradict"]),
        (["--format", "onnx", "--precision", "bf16"], ["--format onnx", "--precision bf16", "contradict", "fp16"]),
        (["--format", "onnx", "--image-size", "31"], ["31 x 31", "expected 32"]),
        (["--format", "onnx", "--image-size", "64x"], ["64x", "480x640"]),
        (["--format", "onnx", "--batch-size", "0"], ["batches of 0"]),
        (["--format", "tflite"], ["tflite", "onnx"]),
        (["--format", "pt2"], [".pt2", "a.file"]),
        (["--format", "aoti"], [".pt2", "a.file"]),
    ],
)
def test_what_contradicts_itself(weights, tmp_path, capsys, arguments, parts):
    message = refused(capsys, "--weights", weights, "--out", tmp_path / "a.file", *arguments)
    for part in parts:
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]


def test_where_nothing_can_be_written(weights, tmp_path, capsys):
    content = weights.read_bytes()
    for out in (tmp_path, tmp_path / "no" / "a.onnx", weights / "a.onnx", weights):
        message = refused(capsys, "--weights", weights, "--format", "onnx", "--out", out)
        assert message.startswith(f"resnext: {out} ")
    assert weights.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]


def test_weights_that_are_not_there(tmp_path, capsys):
    for arguments in (["--weights", tmp_path / "no.pth"], ["--arch", "resnet50"]):
        assert str(arguments[1]) in refused(capsys, *arguments, "--format", "onnx", "--out", tmp_path / "a.onnx")


@pytest.mark.parametrize("format", [name for name in FORMATS if FORMATS[name].packages])
def test_missing_packages(weights, tmp_path, capsys, monkeypatch, format):
    find = importlib.util.find_spec
    last = FORMATS[format].packages[-1]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == last else find(name))
    message = refused(capsys, "--weights", weights, "--format", format, "--out", tmp_path / "a.file")
    assert f"needs {last}" in message
    assert f"pip install {' '.join(FORMATS[format].packages)}" in message


def test_networks_that_cannot_be_exported(model, tmp_path):
    grey = Architecture((1, 1, 1), cardinality=2, base_width=4, stem="cifar", in_channels=1).build()
    with pytest.raises(ValueError, match=r"1 channels.*expected 3"):
        export(grey, tmp_path / "a.onnx", "onnx", with_preprocess=True)
    with pytest.raises(TypeError, match="ResNeXtFeatures"):
        export(TINY.build(features_only=True), tmp_path / "a.onnx", "onnx")
    with pytest.raises(ValueError, match="unknown format 'tflite'"):
        export(model, tmp_path / "a.tflite", "tflite")
    with pytest.raises(ValueError, match="unknown precision 'int8'"):
        export(model, tmp_path / "a.onnx", "onnx", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_the_least_size(model, tmp_path):
    imagenet = Architecture((1, 1, 1, 1), cardinality=2, base_width=4, num_classes=10).build()
    for dynamic, least in ((False, 32), (True, 33)):
        with pytest.raises(ValueError, match=rf"{least - 1} px.*expected {least} px or more"):
            export(imagenet, tmp_path / "a.pt2", "pt2", dynamic=dynamic, image_size=least - 1)
    with pytest.raises(ValueError, match="expected 32 px or more"):
        export(model, tmp_path / "a.pt2", "pt2", dynamic=True, image_size=31)
    assert list(tmp_path.iterdir()) == []


def test_all_images_are_checked(model, tmp_path, monkeypatch):
    """Not a number in the last, wrong logits in the second: each is found."""
    for wrong, reason in ((2, "off by nan"), (1, "off by 1.0e")):
        calls = []

        def run(job, x, wrong=wrong, calls=calls):
            calls.append(tuple(x.shape))
            return job.network(x) * (1 if len(calls) != wrong + 1 else float("nan") if wrong == 2 else 1.1)

        load = lambda job, path, run=run: (partial(run, job), job.metadata)  # noqa: E731
        monkeypatch.setitem(FORMATS, "broken", Format(lambda job, path: path.write_bytes(b"new"), load, "torch"))
        with pytest.raises(RuntimeError, match=reason):
            export(model, tmp_path / "a.file", "broken", dynamic=True)
        assert calls == [(2, 3, 32, 32), (1, 3, 32, 64), (3, 3, 72, 41)]


def test_a_network_that_magnifies_rounding_is_held_against_itself(model, tmp_path, monkeypatch):
    """What the same network in bfloat16 is off by is allowed, twice; more is not."""
    for factor, error in ((1.0, None), (1.1, RuntimeError)):
        load = lambda job, path, factor=factor: (  # noqa: E731
            lambda x: copy.deepcopy(job.network).bfloat16()(x.bfloat16()).float() * factor,
            job.metadata,
        )
        monkeypatch.setitem(FORMATS, "other", Format(lambda job, path: path.write_bytes(b"new"), load, "torch"))
        monkeypatch.setitem(TOLERANCE, "bf16", 1e-9)
        with nullcontext() if error is None else pytest.raises(error, match="expected at most"):
            export(model, tmp_path / "a.file", "other", precision="bf16")


def no_file_of_ours(job, path):
    raise RuntimeError("no file of ours\nat line 1")


def nothing_to_say(job, path):
    raise MemoryError


RUNTIMES = {
    "expected at most 1e-05 in fp32": lambda job, path: (lambda x: job.network(x) * 1.0001, job.metadata),
    "off by nan": lambda job, path: (lambda x: job.network(x) * float("nan"), job.metadata),
    "expected logits of shape (1, 10), got (1, 9)": lambda job, path: (lambda x: job.network(x)[:, 1:], job.metadata),
    "do not come back: license": lambda job, path: (job.network, {**job.metadata, "license": "none"}),
    "torch does not take it: no file of ours": no_file_of_ours,
    "torch does not take it: MemoryError": nothing_to_say,
}


@pytest.mark.parametrize("reason", RUNTIMES)
def test_a_mismatch_leaves_no_file(weights, tmp_path, capsys, monkeypatch, reason):
    broken = Format(lambda job, path: path.write_bytes(b"new"), RUNTIMES[reason], "torch")
    monkeypatch.setitem(FORMATS, "broken", broken)
    out = tmp_path / "a.file"
    for before in (None, b"mine"):
        if before is not None:
            out.write_bytes(before)
        assert main(["export", "--weights", str(weights), "--format", "broken", "--out", str(out)]) == 1
        message = capsys.readouterr().err
        assert message.startswith(f"resnext: {out}: not written")
        assert reason in message
        assert message.count("\n") == 1
        assert (out.read_bytes() if out.exists() else None) == before
        assert {path.name for path in tmp_path.iterdir()} <= {"tiny.pth", "a.file"}


def test_the_weights_in_the_file_are_those_that_are_checked(model, tmp_path, monkeypatch):
    save = safetensors.torch.save_file

    def save_others(tensors, path, metadata):
        save({**tensors, "fc.weight": tensors["fc.weight"] * 1.001}, path, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", save_others)
    with pytest.raises(MismatchError, match="off by"):
        export(model, tmp_path / "a.safetensors", "safetensors")
    assert list(tmp_path.iterdir()) == []


def test_in_python_a_mismatch_raises(model, tmp_path, monkeypatch):
    broken = Format(lambda job, path: path.write_bytes(b"new"), RUNTIMES["off by nan"], "torch")
    monkeypatch.setitem(FORMATS, "broken", broken)
    with pytest.raises(MismatchError, match="off by nan"):
        export(model, tmp_path / "a.pt2", "broken")


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk(weights, tmp_path, capsys, monkeypatch, fails):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    out = tmp_path / "a.safetensors"
    message = refused(capsys, "--weights", weights, "--format", "safetensors", "--out", out)
    assert "No space left" in message
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]
