"""Counts, their intervals, the counts of an unfinished run, and what the report says."""

import os

import pytest

from resnext.evaluation import DataError
from resnext.evaluation.counts import Counts, Errors, PartialCounts, Unreadable, reported_error, wilson_interval
from tests.helpers.evaluation import fork


def test_the_first_five_are_all_where_there_are_no_more():
    counts = Counts()
    counts.add([0, 1, 2, 3], [0, 3, 2, 1], 4)
    assert counts.total == Errors(4, 3, 0)


def test_counts_survive_json():
    counts = Counts({3: Errors(5, 2, 1), 0: Errors(1, 0, 0)}, [Unreadable("a/b.jpg", 3, "an empty file")])
    assert Counts.from_json(counts.as_json()) == counts


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3
@pytest.mark.parametrize(
    ("errors", "images", "expected"),
    [(81, 263, (25.53, 36.62)), (15, 148, (6.24, 16.05)), (0, 20, (0.0, 16.11)), (1, 29, (0.61, 17.18))],
)
def test_wilson_interval(errors, images, expected):
    assert [round(value, 2) for value in wilson_interval(errors, images)] == list(expected)
    mirrored = wilson_interval(images - errors, images)
    assert [round(100 - value, 2) for value in reversed(mirrored)] == list(expected)


def test_reported_error_stands_beside_what_was_tested_alike():
    theirs = {"pipeline": "torch7", "resize": 256, "crop": 224, "ten_crop": False}
    setup = {"network": "resnext50_32x4d_typeC", "preprocessing": theirs, "precision": "fp32"}
    whole = Counts({target: Errors(1, 0, 0) for target in range(1000)})
    assert reported_error(setup, whole) == 22.2
    for other in ({"crop": 320}, {"ten_crop": True}, {"pipeline": "torchvision"}):
        assert reported_error({**setup, "preprocessing": {**theirs, **other}}, whole) is None
    assert reported_error({**setup, "preprocessing": {"pipeline": "cifar10"}}, whole) is None
    assert reported_error({**setup, "precision": "bf16"}, whole) is None
    assert reported_error({**setup, "network": "resnext11_2x4d_typeC"}, whole) is None
    del whole.classes[7]
    assert reported_error(setup, whole) is None


WHOLE = Counts({1: Errors(4, 1, 0)}, [Unreadable("a.png", 1, "an empty file")])


@pytest.fixture
def partial(tmp_path):
    """The counts of two shards of an unfinished run."""
    partial = PartialCounts(tmp_path / "report.json", {"batch": "4"}, "monday")
    with partial.reserved("run"):
        partial.begin()
        for shard in range(2):
            partial.keep(shard, WHOLE)
    return partial


def same(partial, **changes):
    return PartialCounts(partial.folder.with_suffix(""), {**partial.run, **changes}, "monday")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"classes": [[1]], "unreadable": []}', '{"run": 1}'])
def test_a_damaged_shard_is_not_taken(partial, damage):
    assert same(partial).resume() == {0: WHOLE, 1: WHOLE}
    (partial.folder / "shard-00000001.json").write_text(damage)
    assert same(partial).resume() == {0: WHOLE}


def test_counts_of_another_run_are_refused_with_the_differences(partial):
    for other, difference in (
        (same(partial, batch="8"), r"\(batch: 4 then, 8 now\)"),
        (same(partial, crop="1"), r"\(crop: None then, 1 now\)"),
        (
            PartialCounts(partial.folder.with_suffix(""), partial.run, "tuesday"),
            "times of change: monday then, tuesday",
        ),
    ):
        with pytest.raises(DataError, match=difference):
            other.resume()


def test_counts_of_two_runs_in_one_folder_are_told_apart(partial):
    other = same(partial, batch="8")
    other.keep(1, Counts({1: Errors(8, 8, 8)}))
    other.keep(2, Counts({1: Errors(8, 8, 8)}))
    assert same(partial).resume() == {0: WHOLE}
    (partial.folder / "run.json").unlink()
    assert sorted(other.resume()) == [1, 2]


def test_what_is_discarded_and_removed(partial):
    assert partial.discard() == 2
    assert partial.resume() == {}
    partial.remove()
    assert not partial.folder.exists()
    assert partial.discard() == 0


def test_without_a_report_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    partial = PartialCounts(None, {})
    with partial.reserved("run"):
        partial.begin()
        partial.keep(0, WHOLE)
        assert partial.resume() == {}
        assert partial.discard() == 0
    partial.remove()
    assert not list(tmp_path.iterdir())


def test_one_run_at_a_time_has_the_folder(partial):
    """In other processes: a process does not lock itself out."""

    def attempt(name):
        try:
            with same(partial).reserved(name):
                os._exit(0)
        except DataError as error:
            os._exit(1 if f"{partial.folder} is in use by another run; wait" in str(error) else 2)

    def status(name):
        process = fork.Process(target=attempt, args=(name,))
        process.start()
        process.join()
        return process.exitcode

    with partial.reserved("mine"):
        assert status("theirs") == 1
        assert status("mine") == 0  # another machine of the same run, with the same file system
        assert status("theirs") == 1
        partial.remove()  # at the end of the run, and
        assert status("theirs") == 0  # a new folder
    assert status("theirs") == 0
