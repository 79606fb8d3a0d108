"""What was interrupted goes on, and gives the report of a run that was not."""

import json
import os
import shutil
from pathlib import Path

import pytest

from resnext.evaluation.counts import Counts, Errors, PartialCounts, Unreadable
from resnext.weights import atomic
from tests.resnext.evaluation.labelled import evaluate, read_report
from tests.resnext.evaluation.runs import kill_in_the_middle, written


def test_a_killed_run_resumes_to_the_same_report(arguments, tmp_path, expected):
    kill_in_the_middle(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json.partial"]
    assert evaluate(*arguments, "--resume") == 0
    assert written(tmp_path) == expected
    timing = json.loads((tmp_path / "report.timing.json").read_text())
    assert timing["images"] == 6  # the last two batches of four, less two that cannot be read
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.json", "report.timing.json"]


def test_resuming_another_run_is_refused(arguments, tmp_path, capsys):
    kill_in_the_middle(arguments)
    left = sorted((tmp_path / "report.json.partial").iterdir())
    assert evaluate(*arguments, "--resume", "--batch", 8, "--precision", "bf16") == 2
    err = capsys.readouterr().err
    assert "batch was 4, is 8; precision was fp32, is bf16. " in err
    assert "leave out --resume" in err
    assert sorted((tmp_path / "report.json.partial").iterdir()) == left


def test_what_unreadable_images_count_as_may_change(arguments, tmp_path):
    kill_in_the_middle(arguments, 4)
    assert evaluate(*arguments, "--resume", "--on-error", "exclude") == 0
    report = read_report(tmp_path / "report.json")
    assert (report["images"], report["top1_wrong"], report["unreadable"]["counted_as"]) == (17, 5, "excluded")


def test_without_resume_all_is_counted_afresh(arguments, tmp_path, capsys, expected):
    kill_in_the_middle(arguments)
    assert evaluate(*arguments) == 0
    assert (
        "counts of 3 shards of an interrupted run are discarded; --resume goes on from them" in capsys.readouterr().err
    )
    assert written(tmp_path) == expected
    assert json.loads((tmp_path / "report.timing.json").read_text())["images"] == 17


def test_resuming_where_nothing_was_begun_begins(arguments, tmp_path, expected):
    assert evaluate(*arguments, "--resume") == 0
    assert written(tmp_path) == expected


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"classes": [[1]], "unreadable": []}'])
def test_a_damaged_shard_is_not_taken(tmp_path, damage):
    partial = PartialCounts(tmp_path / "report.json", {"batch": "4"})
    partial.open()
    whole = Counts({1: Errors(4, 1, 0)}, [Unreadable("a.png", 1, "an empty file")])
    for shard in range(2):
        partial.keep(shard, whole)
    (tmp_path / "report.json.partial" / "shard-00000001.json").write_text(damage)
    assert partial.resume() == {0: whole}


def test_a_folder_that_vanishes_is_made_again(tmp_path):
    """A run whose launcher was killed goes on, and clears up when it is done, in the middle of the next."""
    partial = PartialCounts(tmp_path / "report.json", {"batch": "4"})
    partial.open()
    partial.discard()
    counts = Counts({1: Errors(4, 1, 0)})
    partial.keep(7, counts)
    assert partial.resume() == {7: counts}


def test_a_folder_that_another_process_deletes_meanwhile(tmp_path, monkeypatch):
    partial = PartialCounts(tmp_path / "report.json", {"batch": "4"})
    partial.open()
    is_dir = Path.is_dir

    def gone(path):
        found = is_dir(path)
        shutil.rmtree(path, ignore_errors=True)
        return found

    monkeypatch.setattr(Path, "is_dir", gone)
    assert partial.discard() == 0


def test_counts_that_nobody_says_the_run_of_are_not_taken(arguments, tmp_path, expected):
    kill_in_the_middle(arguments)
    folder = tmp_path / "report.json.partial"
    (folder / "run.json").unlink()
    (folder / "shard-00000001.json").write_text('{"classes": [[1, 400, 400, 400]], "unreadable": []}')
    kill_in_the_middle([*arguments, "--resume"], 0)
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert evaluate(*arguments, "--resume") == 0
    assert written(tmp_path) == expected


def test_a_report_that_cannot_be_written_leaves_nothing_half_written(arguments, tmp_path, monkeypatch, capsys):
    replace = os.replace

    def full(source, target):
        if str(target).endswith("report.json"):
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", full)
    assert evaluate(*arguments) == 2
    assert "No space left on device" in capsys.readouterr().err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.csv", "report.timing.json", "report.json.partial"}
    monkeypatch.undo()
    assert evaluate(*arguments, "--resume") == 0
    assert json.loads((tmp_path / "report.timing.json").read_text())["images"] == 0
