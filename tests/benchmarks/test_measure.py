"""Turns, medians, targets, results as JSON, and processes of their own."""

import subprocess
import sys

import pytest
import torch

from benchmarks.measure import ROOT, Result, afresh, interleave, machine, ratio, spread, target

BARS = Result("load", "one", "time", "s", {"ours": [1.0, 2.0, 3.0], "other": [4.0, 5.0, 6.0]}, {"absent": "not there"})


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
    assert f"Python {sys.version.split()[0]}, torch {torch.__version__}, " in machine()


def test_result_as_json():
    stored = BARS.as_dict()
    assert stored == {
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
    assert Result.from_dict(stored) == BARS
    curve = Result("size", "batch 2", "growth", "bytes", {"a": [1.0]}, batch=2)
    assert Result.from_dict(curve.as_dict()) == curve


def test_growth_of_memory():
    """In a process of its own: what other tests did in this one would count as well."""
    code = (
        "from benchmarks.measure import peak_growth; growth = peak_growth(lambda: None); "
        "print(growth is not None and peak_growth(lambda: bytearray(b'x') * (growth + 2**26)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    if done.stdout == "False\n":
        pytest.skip("only Linux says how much memory a process has taken")
    assert int(done.stdout) > 2**25


def test_a_process_of_its_own():
    assert afresh("measure", "quartiles", "7") == ["7", "7", "7"]
