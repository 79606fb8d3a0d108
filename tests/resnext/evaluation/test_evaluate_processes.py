"""Many processes give the report of one; what was interrupted goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from resnext.cli import evaluate as evaluate_command
from resnext.evaluation import batches as evaluation_batches
from tests.conftest import ROOT
from tests.resnext.evaluation.runs import kill_after, replace_keep, start, written


def test_two_processes_of_torchrun_give_the_same_report(five_batches, arguments, tmp_path, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "resnext",
         "evaluate", *map(str, arguments)], env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert written(tmp_path) == expected
    assert done.stdout.count("top-1 error  40.00 %") == 1  # one process alone speaks
    assert json.loads((tmp_path / "report.timing.json").read_text())["processes"] == 2
    assert not (tmp_path / "report.json.partial").exists()


@pytest.mark.parametrize("size", [3, 7])
def test_more_processes_give_the_same_report_and_share_the_work(arguments, tmp_path, expected, size, monkeypatch):
    """Seven are more than there are shards."""
    log = tmp_path / "log"

    def keep(original, shard):
        with log.open("a") as file:
            file.write(f"{shard} ")
        original()

    assert start(arguments, size, lambda rank: replace_keep(monkeypatch, keep)) == [0] * size
    assert sorted(log.read_text().split()) == list("01234")
    assert written(tmp_path) == expected
    assert not (tmp_path / "report.json.partial").exists()


def test_nothing_is_cleared_up_before_the_report_is_written(arguments, tmp_path, expected, monkeypatch):
    write = evaluate_command.write_report

    def write_late(*parts):
        time.sleep(0.5)
        assert len(list((tmp_path / "report.json.partial").glob("shard-*.json"))) == 5
        write(*parts)

    assert start(arguments, 2, lambda rank: monkeypatch.setattr(evaluate_command, "write_report", write_late)) == [0, 0]
    assert written(tmp_path) == expected


def test_killed_with_two_processes_and_resumed_with_three(arguments, tmp_path, expected):
    with pytest.MonkeyPatch.context() as patch:
        statuses = start(arguments, 2, lambda rank: kill_after(patch, 1) if rank == 1 else None)
    assert statuses == [2, -signal.SIGKILL]
    assert start([*arguments, "--resume"], 3) == [0] * 3
    assert written(tmp_path) == expected


def test_machines_need_not_share_a_file_system(arguments, tmp_path, expected):
    def on_its_own_disk(rank):
        (tmp_path / str(rank)).mkdir(exist_ok=True)
        arguments[-1] = tmp_path / str(rank) / "report.json"

    def killed(rank):
        on_its_own_disk(rank)
        kill_after(patch, 2 - rank)  # the first keeps two of its three, the other one of two

    with pytest.MonkeyPatch.context() as patch:
        assert start(arguments, 2, killed) == [-signal.SIGKILL] * 2
    kept = [len(list(tmp_path.glob(f"{rank}/report.json.partial/shard-*.json"))) for rank in range(2)]
    assert kept == [2, 1]
    arguments.insert(1, "--resume")
    assert start(arguments, 2, on_its_own_disk) == [0, 0]
    assert written(tmp_path / "0") == expected
    assert json.loads((tmp_path / "0" / "report.timing.json").read_text())["images"] <= 8  # two batches of five
    assert not list(tmp_path.glob("*/*.partial"))


def test_one_that_fails_stops_the_others(arguments, capfd):
    def before(rank):
        if rank == 1:
            evaluation_batches.Batch.__new__.__defaults__ = (
                *evaluation_batches.Batch.__new__.__defaults__[:-1],
                "broken",
            )

    assert start(arguments, 2, before) == [2, 2]
    errors = capfd.readouterr().err
    assert "resnext: broken\n" in errors
    assert "resnext: the processes cannot work together, perhaps because one has failed: " in errors


def test_processes_that_see_different_data_are_refused(five_batches, arguments, tmp_path, capfd):
    other = shutil.copytree(five_batches.data, tmp_path / "other")
    (other / "class_3" / "no.png").unlink()

    def before(rank):
        if rank == 1:
            arguments[0] = other

    assert start(arguments, 2, before) == [2, 2]
    assert "process 1 would count something else than process 0: data " in capfd.readouterr().err
