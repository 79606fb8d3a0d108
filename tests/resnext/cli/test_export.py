"""`python -m resnext export`: what it prints, its exit statuses, one line for each error."""

import json

import onnxruntime
import pytest
import safetensors

from resnext.__main__ import main
from resnext.export.formats import FORMATS, Format
from tests.helpers import commands
from tests.helpers.pretrained import NAME


def refused(capsys, *arguments, status=2):
    """What the command says when it refuses."""
    error = commands.refused(capsys, main, "export", *arguments, status=status)
    assert error.startswith("resnext: ")
    return error.removeprefix("resnext: ")


def test_what_is_printed_and_written(built, tmp_path, capfd):
    """With the licence and the digests of the sidecar; nothing on stderr."""
    path = tmp_path / "a.onnx"
    assert main(["export", "--weights", str(built.path), "--format", "onnx", "--precision", "fp16", "--batch-size", "2",
                 "--out", str(path)]) == 0  # fmt: skip
    captured = capfd.readouterr()
    assert captured.err == ""
    for part in (str(path), "opset 20", "images: float32, 2 x 3 x 32 x 32", "logits: float32, N x 10", "onnxruntime"):
        assert part in captured.out
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    record = built.record
    assert metadata["license"] == record["license"] == "x"
    assert metadata["source_sha256"] == record["file"]["sha256"]
    assert metadata["tensor_digest"] == record["tensor_digest"]
    assert metadata["torch7_sha256"] == record["source"]["sha256"]
    assert metadata["architecture"] == record["arch"]


def test_with_the_published_weights(home, hosted, tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    assert main(["export", "--arch", f"{NAME}_typeB", "--format", "safetensors", "--out", str(path)]) == 0
    with safetensors.safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["record"])
    assert metadata["license"] == "CC BY-NC 4.0"
    assert (metadata["form"], metadata["source_sha256"]) == ("B", hosted["sha256"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--format", "safetensors", "--dynamic"], ["format 'safetensors' does not go with dynamic"]),
        (["--format", "onnx", "--image-size", "31"], ["31 x 31", "expected 32"]),
        (["--format", "onnx", "--image-size", "64x"], ["64x", "480x640"]),
        (["--format", "tflite"], ["tflite", "onnx"]),
        (["--format", "pt2"], [".pt2", "a.file"]),
    ],
)
def test_options_that_are_refused(pth, tmp_path, capsys, arguments, parts):
    before = list(tmp_path.iterdir())
    message = refused(capsys, "--weights", pth, "--out", tmp_path / "a.file", *arguments)
    for part in parts:
        assert part in message
    assert list(tmp_path.iterdir()) == before


def test_options_are_checked_before_anything_is_downloaded(record, home, site, tmp_path, capsys):
    out = tmp_path / "a.file"
    assert "'bf16'" in refused(capsys, "--arch", NAME, "--format", "onnx", "--precision", "bf16", "--out", out)
    assert site.asked == []


def test_missing_packages(pth, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(FORMATS, "new", Format(None, None, "torch", ("no_such_package",)))
    message = refused(capsys, "--weights", pth, "--format", "new", "--out", tmp_path / "a")
    assert message == "format 'new' needs no_such_package: pip install no_such_package\n"


def test_weights_that_are_not_there(tmp_path, capsys):
    for arguments in (["--weights", tmp_path / "no.pth"], ["--arch", "resnet50"]):
        assert str(arguments[1]) in refused(capsys, *arguments, "--format", "onnx", "--out", tmp_path / "a.onnx")


def test_a_mismatch_has_status_1_and_leaves_no_file(pth, tmp_path, capsys, monkeypatch):
    load = lambda job, path: (lambda x: job.network(x) * 1.0001, job.metadata)  # noqa: E731
    monkeypatch.setitem(FORMATS, "broken", Format(lambda job, path: path.write_bytes(b"new"), load, "torch"))
    out = tmp_path / "a.file"
    message = refused(capsys, "--weights", pth, "--format", "broken", "--out", out, status=1)
    assert message.startswith(f"{out}: not written: the logits that torch computes are off by 1.0e-04")
    assert not out.exists()
