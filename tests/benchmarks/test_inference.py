"""The benchmark of inference, with contenders that take no time."""

import importlib.util

import pytest
import torch

from benchmarks import inference
from resnext.inference import processor


@pytest.mark.parametrize("wrong", [(), ("OpenVINO",)])
def test_table_and_problems(monkeypatch, capsys, tmp_path, wrong):
    makers = {
        name: lambda name=name: lambda: torch.ones(2, 3) * (2 if name in wrong else 1)
        for name in ("ours", "OpenVINO", "ONNX Runtime")
    }
    seconds = {"ours": 0.1, "OpenVINO": 0.2}
    monkeypatch.setattr(inference, "find_missing", lambda precision: {"ONNX Runtime": "not installed"})
    monkeypatch.setattr(inference, "make_contenders", lambda *_: makers)
    monkeypatch.setattr(inference, "interleave", lambda runs, count: {name: [seconds[name]] * count for name in runs})
    result = inference.measure(None, 2, "bf16", 3, tmp_path)
    output = capsys.readouterr().out
    assert result.values == {"ours": [0.1] * 3, "OpenVINO": [0.2] * 3}
    assert result.missing == {"ONNX Runtime": "not installed"}
    assert "target  ours takes at most the time of OpenVINO: met (0.50)" in output
    assert list(result.problems) == (["OpenVINO: its logits differ from ours by 1.0e+00"] if wrong else [])


def test_peers_that_are_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    missing = inference.find_missing("bf16")
    assert missing["ours, inductor"] == missing["ours, aoti package"] == "no C++ compiler"
    assert missing["torchvision"] == "not measured: torchvision not installed"
    assert missing["OpenVINO"] == "not measured: openvino and onnxscript not installed"
    everything = inference.make_contenders(None, torch.zeros(1), "bf16", None)
    assert everything.keys() - missing.keys() == {"ours", "ours, eager"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_is_left_out_where_amx_kills(monkeypatch, tmp_path, precision):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16\n")
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(inference, "amx_fault", lambda: "is killed by SIGILL")
    why = inference.find_missing(precision).get("OpenVINO")
    assert why == ("not measured: code that uses AMX is killed by SIGILL here" if precision == "bf16" else None)
