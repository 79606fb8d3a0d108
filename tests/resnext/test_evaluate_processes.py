"""Many processes give the report of one; what was interrupted goes on."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import traceback

import pytest

from resnext import evaluation_batches, evaluation_counts
from resnext.evaluation_counts import Counts, Errors, PartialCounts, Unreadable
from resnext.preprocess import get_preprocess
from tests.conftest import ROOT
from tests.resnext.evaluation_set import LabelledSet, evaluate, one_thread, read_report  # noqa: F401

fork = multiprocessing.get_context("fork")  # saves importing torch once more in each


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """17 images, of which 5 are wrong, and one that cannot be read: 5 batches of 4, the last of them of 2."""
    folder = tmp_path_factory.mktemp("labelled")
    labelled = LabelledSet(
        folder, [0] * 12 + [1, 2, 3, 6, 9], transform=get_preprocess("cifar10"), names=[f"c{n}" for n in range(10)]
    ).fill()
    (labelled.data / "c3" / "no.png").write_bytes(b"no image")
    return labelled


@pytest.fixture
def arguments(labelled, tmp_path):
    """Of the command, for a report in a folder of the test's own."""
    fixed = ["--weights", labelled.weights, "--workers", 0, "--batch", 4, "--output", tmp_path / "report.json"]
    return [labelled.data, *fixed]


@pytest.fixture(scope="module")
def expected(labelled, tmp_path_factory):
    """The report of one process that nobody interrupted, and the table per class."""
    path = tmp_path_factory.mktemp("expected") / "report.json"
    assert labelled.evaluate("--batch", 4, "--output", path) == 0
    report = read_report(path)
    assert (report["images"], report["top1_wrong"], len(report["unreadable"]["images"])) == (18, 6, 1)
    return path.read_text(), path.with_suffix(".csv").read_text()


def written(folder):
    return (folder / "report.json").read_text(), (folder / "report.csv").read_text()


def start(arguments, size, before=lambda rank: None):
    """The command in `size` processes, as torchrun would start them; `before` is called in each of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank):
        status = 3
        try:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            os.environ.update(zip(names, map(str, (rank, size, rank, size)), strict=True))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            before(rank)
            status = evaluate(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    processes = [fork.Process(target=run, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_two_processes_of_torchrun_give_the_same_report(labelled, arguments, tmp_path, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "resnext",
         "evaluate", *map(str, arguments)], env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert written(tmp_path) == expected
    assert done.stdout.count("top-1 error  33.33 %") == 1  # one process alone speaks
    assert json.loads((tmp_path / "report.timing.json").read_text())["processes"] == 2
    assert not (tmp_path / "report.json.partial").exists()


@pytest.mark.parametrize("size", [3, 7])
def test_more_processes_give_the_same_report(arguments, tmp_path, expected, size):
    """Seven are more than there are shards."""
    assert start(arguments, size) == [0] * size
    assert written(tmp_path) == expected
    assert not (tmp_path / "report.json.partial").exists()


def kill_after(monkeypatch, shards):
    """This process is killed when it has kept so many shards."""
    keep, kept = PartialCounts.keep, []

    def keep_or_die(self, shard, counts):
        if len(kept) == shards:
            os.kill(os.getpid(), signal.SIGKILL)
        keep(self, shard, counts)
        kept.append(shard)

    monkeypatch.setattr(PartialCounts, "keep", keep_or_die)


def kill_in_the_middle(arguments, shards=3):
    """One process that is killed after so many shards; what it leaves."""
    with pytest.MonkeyPatch.context() as patch:
        statuses = start(arguments, 1, lambda rank: kill_after(patch, shards))
    assert statuses == [-signal.SIGKILL]


def test_a_killed_run_resumes_to_the_same_report(arguments, tmp_path, expected):
    kill_in_the_middle(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json.partial"]
    assert evaluate(*arguments, "--resume") == 0
    assert written(tmp_path) == expected
    timing = json.loads((tmp_path / "report.timing.json").read_text())
    assert timing["images"] == 6  # the last batches of four and two
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.json", "report.timing.json"]


def test_killed_with_two_processes_and_resumed_with_three(arguments, tmp_path, expected):
    with pytest.MonkeyPatch.context() as patch:
        statuses = start(arguments, 2, lambda rank: kill_after(patch, 1) if rank == 1 else None)
    assert statuses == [2, -signal.SIGKILL]
    assert start([*arguments, "--resume"], 3) == [0] * 3
    assert written(tmp_path) == expected


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


def test_processes_that_see_different_data_are_refused(labelled, arguments, tmp_path, capfd):
    other = shutil.copytree(labelled.data, tmp_path / "other")
    (other / "c3" / "no.png").unlink()

    def before(rank):
        if rank == 1:
            arguments[0] = other

    assert start(arguments, 2, before) == [2, 2]
    assert "process 1 would count something else than process 0: data " in capfd.readouterr().err


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

    monkeypatch.setattr(evaluation_counts.os, "replace", full)
    assert evaluate(*arguments) == 2
    assert "No space left on device" in capsys.readouterr().err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.csv", "report.timing.json", "report.json.partial"}
    monkeypatch.undo()
    assert evaluate(*arguments, "--resume") == 0
    assert json.loads((tmp_path / "report.timing.json").read_text())["images"] == 0
