"""The benchmarks' own machinery: turns, tables, targets, files, charts. No figure is tested."""

import importlib.util
import json
import struct
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import inference, size
from benchmarks.measure import interleave, machine, ratio, spread, table, target
from benchmarks.result import Result

BARS = Result("load", "one", "time", "s", {"ours": [1.0, 2.0, 3.0], "other": [4.0, 5.0, 6.0]}, {"absent": "not there"})
CURVES = [
    Result("size", f"batch {batch}", "growth", "bytes", {"a": [1e6 * batch], "b": [2e6 * batch]}, batch=batch)
    for batch in (1, 2, 4)
]
needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib not installed")


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls = []
    results = interleave({name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}, 2)
    assert "".join(calls) == "ab" + "ba" + "ab"
    assert results == {"a": [4, 5], "b": [3, 6]}


def test_text():
    assert spread([1, 2, 3, 4, 5], "ms", 10, 1) == "30.0 ms (20.0 to 40.0)"
    assert ratio([1, 2, 30], [4, 4]) == 0.5
    assert target("as fast", 1.0, 1) == "target  as fast: met (1.00)"
    assert target("as fast", 1.01, 1) == "target  as fast: MISSED (1.01)"
    assert table([("a", "b"), ("long", "c")]) == "a     b\n----  -\nlong  c"
    assert f"torch {torch.__version__}, absent not installed" in machine(["torch", "absent"])


def test_result_as_json():
    assert BARS.as_dict() == {
        "benchmark": "load",
        "title": "one",
        "quantity": "time",
        "unit": "s",
        "contenders": {
            "ours": {"values": [1.0, 2.0, 3.0], "q1": 1.5, "median": 2.0, "q3": 2.5},
            "other": {"values": [4.0, 5.0, 6.0], "q1": 4.5, "median": 5.0, "q3": 5.5},
        },
        "missing": {"absent": "not there"},
        "problems": [],
    }
    assert CURVES[1].as_dict()["batch"] == 2


@pytest.fixture
def one_benchmark(monkeypatch):
    """The only benchmark that there is gives what is put in here."""
    results = [BARS]
    fake = SimpleNamespace(run=lambda runs: list(results))
    monkeypatch.setitem(sys.modules, "benchmarks.load", fake)
    monkeypatch.setattr(command, "BENCHMARKS", ("load",))
    return results


def test_all_with_json(one_benchmark, tmp_path, capsys):
    assert command.main(["all", "--json", str(tmp_path / "out.json"), "--runs", "3"]) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["runs"] == 3
    assert content["results"] == [BARS.as_dict()]
    assert content["machine"] in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_one_that_fails_leaves_the_results_of_those_before(one_benchmark, tmp_path, monkeypatch):
    def fail(runs):
        raise OSError("no space left")

    monkeypatch.setitem(sys.modules, "benchmarks.size", SimpleNamespace(run=fail))
    monkeypatch.setattr(command, "BENCHMARKS", ("load", "size"))
    with pytest.raises(OSError, match="no space left"):
        command.main(["--json", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["results"] == [BARS.as_dict()]


def test_results_that_differ_are_exit_status_1(one_benchmark):
    one_benchmark[:] = [Result("load", "one", "time", "s", {}, problems=["b differs from a"])]
    assert command.main(["load"]) == 1


@needs_matplotlib
def test_plot(one_benchmark, tmp_path):
    one_benchmark += CURVES
    assert command.main(["load", "--plot", str(tmp_path / "out.png")]) == 0
    content = (tmp_path / "out.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 700
    assert height > 500  # a row of bars, and one of curves
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


@needs_matplotlib
def test_a_plot_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from benchmarks import plot

    def fail(self, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    (tmp_path / "out.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        plot.save([BARS], tmp_path / "out.png", "caption")
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "absent/out.json"], "absent/out.json cannot be written; expected a file in a folder that exists"),
        (["--json", "."], "cannot be written"),
        (["--json", "file/out.json"], "file/out.json cannot be written"),
        (["--plot", "out.jpg"], "expected a name that ends in .png, got out.jpg"),
        (["speed"], "invalid choice: 'speed'"),
        (["--runs", "0"], "argument --runs: expected a number from 1 up, got 0"),
    ],
)
def test_refused_before_anything_is_measured(one_benchmark, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    one_benchmark[:] = [None]  # would fail if it ran
    with pytest.raises(SystemExit) as exit:
        command.main(arguments)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_matplotlib(one_benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit:
        command.main(["--plot", str(tmp_path / "out.png")])
    assert exit.value.code == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def contenders(*names, wrong=(), factor=2):
    """In place of networks: each gives the same logits, but for those that are wrong."""
    return {name: lambda name=name: torch.ones(2, 3) * (factor if name in wrong else 1) for name in names}


@pytest.mark.parametrize("wrong", [(), ("OpenVINO",)])
def test_inference(monkeypatch, capsys, tmp_path, wrong):
    given = contenders("ours", "OpenVINO", wrong=wrong), {"ONNX Runtime": "not installed"}
    monkeypatch.setattr(inference, "make_contenders", lambda *_: given)
    seconds = {"ours": 0.1, "OpenVINO": 0.2}
    monkeypatch.setattr(inference, "interleave", lambda runs, count: {name: [seconds[name]] * count for name in runs})
    result = inference.measure(None, 2, "bf16", 3, tmp_path / "onnx")
    output = capsys.readouterr().out
    assert result.values == {"ours": [0.1] * 3, "OpenVINO": [0.2] * 3}
    assert "target  ours takes at most the time of OpenVINO: met (0.50)" in output
    assert "ONNX Runtime   not installed" in output
    assert list(result.problems) == (["OpenVINO: its logits differ from ours by 1.0e+00"] if wrong else [])


def test_peers_that_are_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(inference, "find_compiler", lambda: None)
    monkeypatch.setattr(inference, "optimize", lambda *_: lambda x: x)
    ours, missing = inference.make_contenders(None, torch.zeros(1), "bf16", tmp_path / "onnx")
    assert set(ours) == {"ours", "ours, eager"}
    assert missing["ours, inductor"] == missing["ours, aoti package"] == "no C++ compiler"
    assert missing["timm"] == missing["torchvision"] == "not installed"
    assert "onnxscript is not installed" in missing["OpenVINO"]


def test_size(monkeypatch, capsys):
    monkeypatch.setattr(size, "BATCHES", (1, 2))
    monkeypatch.setattr(size, "NETWORKS", ("resnext50_32x4d",))
    monkeypatch.setattr(size, "seconds", lambda model, batch: 0.1 * batch)
    monkeypatch.setattr(size, "memory", lambda name, batch: None if batch == 2 else 5_000_000)
    results = size.run(9)
    output = capsys.readouterr().out
    assert "3 runs each" in output
    assert "5 MB" in output
    assert "not measured" in output
    assert [result.batch for result in results] == [1, 1, 2, 2]
    assert results[3].missing == {"resnext50_32x4d": "not measured: not Linux"}
