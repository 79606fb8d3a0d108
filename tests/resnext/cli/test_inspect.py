"""`python -m resnext inspect FILE`, and what the commands say of the files they read."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import resnext
from resnext.__main__ import main
from resnext.architecture import Architecture
from resnext.weights.layouts import write_layout

SMALL = Architecture((1, 2, 1, 1), cardinality=4, base_width=8, num_classes=5)


@pytest.fixture
def checkpoint(tmp_path):
    """Of a training script, with both kinds of weights in the names of another port."""
    torch.manual_seed(0)
    state = write_layout(SMALL.build().state_dict(), "mmpretrain")
    path = tmp_path / "epoch_3.pth"
    torch.save({"meta": {"epoch": 3}, "state_dict": state, "ema_state_dict": state}, path)
    return path


@pytest.mark.parametrize("command", [["inspect"], ["weights", "inspect"]])
def test_as_json(command, checkpoint, capsys):
    assert main([*command, str(checkpoint), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "pth"
    assert found["recognised_by"] == "the names of mmpretrain"
    assert (found["architecture"], found["layers"], found["form"]) == ("resnext17_4x8d", [1, 2, 1, 1], "C")
    assert (found["classes"], found["in_channels"], found["parameters"]) == (5, 3, SMALL.parameters)
    assert "ema=False takes ['state_dict']" in found["remarks"][0]
    assert found["record"] is None


def test_as_text(checkpoint, capsys):
    assert main(["inspect", str(checkpoint), "--no-ema"]) == 0
    seen = capsys.readouterr()
    rows = dict(line.split("  ", 1) for line in seen.out.splitlines() if not line.startswith("remark"))
    assert rows["network"].split() == ["resnext17_4x8d,", "form", "C,", "shortcut", "B,", "imagenet", "stem"]
    assert "took ['state_dict']" in seen.out
    assert seen.err == ""


def test_a_torch7_file_and_its_provenance(sample, tmp_path, capsys):
    sample = shutil.copy(sample, tmp_path / "mine.t7")
    assert main(["inspect", str(sample), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["architecture"], found["classes"]) == ("t7", "resnext11_4x8d", 10)
    (sample.with_suffix(".json")).write_text(json.dumps({"file": {"sha256": found["sha256"]}, "license": "CC0"}))
    assert main(["inspect", str(sample)]) == 0
    assert "record: license  CC0" in capsys.readouterr().out


def test_what_a_file_says_of_itself(tmp_path, capsys):
    resnext.save(SMALL.build(), tmp_path / "mine.pth", classes=["a", "b", "c", "d", "e"])
    assert main(["inspect", str(tmp_path / "mine.pth"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["record"]["classes"] == ["a", "b", "c", "d", "e"]
    assert found["remarks"] == []


def test_other_files(tmp_path, capsys):
    torch.save({"conv1.weight": torch.zeros(4, 4, 5, 5)}, tmp_path / "other.pth")
    assert main(["inspect", str(tmp_path / "other.pth")]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith(f"resnext: {tmp_path / 'other.pth'}: not the weights of a ResNeXt: ")
    assert seen.err.count("\n") == 1


def test_remarks_are_one_line_on_stderr(checkpoint, tmp_path, capsys):
    arguments = ["export", "--weights", str(checkpoint), "--format", "safetensors", "--out", str(tmp_path / "m.st")]
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert err.startswith(
        f"resnext: {checkpoint}: took the moving average of the weights, ['ema_state_dict']; ema=False"
    )
    assert err.count("\n") == 1
    assert main([*arguments, "--no-ema", "--layout", "detectron2"]) == 0
    assert "took ['state_dict']" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "m.st")]) == 0
    assert "the names of detectron2" in capsys.readouterr().out


def test_a_network_without_a_classifier(tmp_path, capsys):
    torch.save(replace(SMALL, num_classes=0).build().state_dict(), tmp_path / "body.pth")
    arguments = ["export", "--weights", str(tmp_path / "body.pth"), "--format", "safetensors"]
    assert main([*arguments, "--out", str(tmp_path / "m.st")]) == 2
    assert "has no classifier; expected a network with one" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "body.pth")]) == 0
    assert "none: there is no classifier" in capsys.readouterr().out


def test_options_that_contradict_each_other(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "--ema"]) == 2
    assert main(["export", "--format", "safetensors", "--out", str(tmp_path / "m.st"), "--ema"]) == 2
    assert "--ema chooses among the weights of a training checkpoint; give it with --weights" in capsys.readouterr().err
    assert main(["export", "--format", "pt2", "--out", str(tmp_path / "m.pt2"), "--layout", "cadene"]) == 2
    assert "format 'pt2' does not go with layout" in capsys.readouterr().err
