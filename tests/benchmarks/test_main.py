"""The command line of the benchmarks: what is measured, stored, drawn, and refused."""

import importlib.util
import json

import pytest

from benchmarks import __main__ as command
from benchmarks.measure import ROOT, Result
from tests.benchmarks.test_measure import BARS

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib not installed")


def main(*arguments, results=(BARS,)):
    """With one benchmark, which gives these results."""
    return command.main(list(arguments), lambda subject, options: results if subject == "load" else [])


def test_all_with_json(tmp_path, capsys):
    assert main("all", "--json", str(tmp_path / "out.json"), "--runs", "3") == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["runs"] == 3
    assert content["results"] == [BARS.as_dict()]
    output = capsys.readouterr().out
    assert content["machine"] in output
    assert output.count("== ") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@needs_matplotlib
def test_charts_of_what_is_measured_and_of_what_was(tmp_path):
    (tmp_path / "again").mkdir()
    assert main("all", "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path)) == 0
    assert main("draw", str(tmp_path / "out.json"), "--plot", str(tmp_path / "again")) == 0
    first, again = tmp_path / "loading.png", tmp_path / "again" / "loading.png"
    assert first.read_bytes().startswith(b"\x89PNG")
    assert first.read_bytes() == again.read_bytes()


def test_one_that_fails_leaves_the_results_of_those_before(tmp_path, capsys):
    def measure(subject, options):
        if subject == "size":
            raise OSError("no space left")
        return [BARS]

    assert command.main(["all", "--json", str(tmp_path / "out.json")], measure) == 2
    assert capsys.readouterr().err == "benchmarks: no space left\n"
    assert json.loads((tmp_path / "out.json").read_text())["results"] == [BARS.as_dict()] * 4


def test_results_that_differ_are_exit_status_1(capsys):
    assert main("load", results=[Result("load", "one", "time", "s", {}, problems=["b differs from a"])]) == 1
    assert capsys.readouterr().err == "b differs from a\n"


def never(subject, options):
    raise AssertionError("it was measured")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["load", "--json", "absent/out.json"], "absent/out.json cannot be written; expected a file in a folder"),
        (["load", "--json", "."], "cannot be written"),
        (["load", "--json", "file/out.json"], "file/out.json cannot be written"),
        (["load", "--plot", "absent"], "argument --plot: expected a folder that exists and may be written to, got abs"),
        (["load", "--plot", "file"], "argument --plot: expected a folder"),
        (["load", "absent.pth"], "absent.pth: no such file"),
        (["draw", "file", "--plot", "."], "file: expected a file that --json wrote"),
        (["draw", "list.json", "--plot", "."], "list.json: expected a file that --json wrote"),
        (["draw", "list.json"], "draw needs --plot FOLDER"),
        (["speed"], "invalid choice: 'speed'"),
        ([], "arguments are required: subject"),
        (["load", "--runs", "0"], "argument --runs: expected a whole number from 1 up, got 0"),
        (["inference", "--batch", "0"], "argument --batch: expected a whole number from 1 up, got 0"),
        (["inference", "--precision", "fp16"], "argument --precision: invalid choice: 'fp16'"),
    ],
)
def test_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "list.json").write_text("[]")
    try:
        status = command.main(arguments, never)
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main(["load", "--plot", str(tmp_path)], never) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_the_stored_results_can_be_read():
    stored = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    results = [Result.from_dict(result) for result in stored["results"]]
    assert [result.as_dict() for result in results] == stored["results"]
    assert {result.benchmark for result in results} == {"load", "conversion", "preprocess", "inference", "size"}
    for result in results:
        assert result.values, result.title
        assert not result.problems
