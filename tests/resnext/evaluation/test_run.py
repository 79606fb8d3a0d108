"""The network over batches, and the processes that share the work."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from resnext.evaluation.counts import Counts, Errors, PartialCounts
from resnext.evaluation.data import Outputs, open_data
from resnext.evaluation.run import Processes, evaluate, logits_of, ranks, thread_pool
from resnext.model import ResNeXt
from resnext.preprocess import get_preprocess
from tests.helpers.evaluation import kill_after, read_report, replace_keep, start, written
from tests.helpers.networks import randomize, relative_error
from tests.helpers.recorded import ROOT


def test_rank_of_the_right_class():
    logits = torch.tensor([[1.0, 3.0, 2.0], [3.0, 1.0, 2.0], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0]])
    assert ranks(logits, torch.tensor([1, 1, 0, 2])).tolist() == [0, 2, 0, 2]  # ties: the lower class first


def test_a_logit_that_is_not_a_number_is_never_right():
    nan = float("nan")
    logits = torch.tensor([[nan, nan, nan], [nan, 1.0, 0.0], [0.0, nan, 1.0]])
    rank = ranks(logits, torch.tensor([0, 1, 1]))
    assert rank.tolist() == [3, 1, 3]
    counts = Counts()
    counts.add([0, 1, 1], rank.tolist(), 3)
    assert counts.total == Errors(3, 3, 2)


def test_bf16(cifar, tmp_path):
    assert cifar.evaluate("--precision", "bf16", "--output", tmp_path / "report.json") == 0
    assert read_report(tmp_path / "report.json")["precision"] == "bf16"
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = randomize(ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)).eval()
    with thread_pool(1) as pool:
        logits = [logits_of(model, images, precision, pool) for precision in ("fp32", "bf16")]
    assert all(value.dtype == torch.float32 for value in logits)
    assert 0 < relative_error(logits[1], logits[0]) < 0.05


def test_logits_of_ten_crops_are_their_mean():
    model = randomize(ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)).eval()
    crops = torch.randn(2, 10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with thread_pool(1) as pool:
        expected = torch.stack([logits_of(model, image, "fp32", pool).mean(0) for image in crops])
        assert relative_error(logits_of(model, crops, "fp32", pool), expected) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_do_not_depend_on_threads(precision):
    """Neither on those that the caller computes with; these are as many as before in the end."""
    model = randomize(ResNeXt((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)).eval()
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    model.register_forward_pre_hook(
        lambda model, inputs: seen.append((len(inputs[0]), torch.get_num_threads(), torch.is_inference_mode_enabled()))
    )
    logits = []
    before = torch.get_num_threads()
    try:
        for intra_op, threads in ((1, 1), (2, 1), (1, 3), (3, 2)):
            torch.set_num_threads(intra_op)
            with thread_pool(threads) as pool:
                assert torch.get_num_threads() == 1  # reading in this process as well
                logits.append(logits_of(model, images, precision, pool))
            assert torch.get_num_threads() == intra_op
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(other, logits[0]) for other in logits[1:])
    assert sorted(seen) == sorted([(8, 1, True), (8, 1, True), (4, 1, True)] * 4)


@pytest.mark.slow
def test_two_processes_of_torchrun_give_the_same_report(five_batches, arguments, tmp_path, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "resnext",
         "evaluate", *map(str, arguments)], env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert written(tmp_path) == expected
    assert done.stdout.count("top-1 error  40.00 %") == 1  # only one process speaks
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
        assert start(arguments, 2, killed, machines=True) == [-signal.SIGKILL] * 2
    kept = [len(list(tmp_path.glob(f"{rank}/report.json.partial/shard-*.json"))) for rank in range(2)]
    assert kept == [2, 1]
    arguments.insert(1, "--resume")
    assert start(arguments, 2, on_its_own_disk, machines=True) == [0, 0]
    assert written(tmp_path / "0") == expected
    assert json.loads((tmp_path / "0" / "report.timing.json").read_text())["images"] <= 8  # two batches of five
    assert not list(tmp_path.glob("*/*.partial"))


def test_machines_may_share_a_file_system(arguments, tmp_path, expected):
    assert start(arguments, 2, machines=True) == [0, 0]
    assert written(tmp_path) == expected


def test_one_that_fails_stops_the_others(arguments, tmp_path, capfd):
    (tmp_path / "1").mkdir()

    def before(rank):
        if rank == 1:
            arguments[-1] = tmp_path / "1" / "report.json"
            (tmp_path / "1" / "report.json.partial").write_text("in the way")

    assert start(arguments, 2, before, machines=True) == [2, 2]
    errors = capfd.readouterr().err
    assert "report.json.partial: File exists\n" in errors
    assert "resnext: the processes cannot work together, perhaps because one has failed: " in errors


def test_processes_that_see_different_data_are_refused(five_batches, arguments, tmp_path, capfd):
    other = shutil.copytree(five_batches.data, tmp_path / "other")
    (other / "class_3" / "no.png").unlink()

    def before(rank):
        if rank == 1:
            arguments[0] = other

    assert start(arguments, 2, before) == [2, 2]
    assert "process 1 would not count the same as process 0: data " in capfd.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
def test_nothing_is_cleared_up_before_the_report_is_written(five_batches, tmp_path, rank):
    """On machines of their own, another process must not do so while the first one writes, which may fail."""
    kept = []

    def look(*_):
        kept.append(len(list(tmp_path.rglob("shard-*.json"))))

    class OneOfTwo(Processes):
        """The other one has found the same."""

        def connected(self):
            return contextlib.nullcontext()

        def gather(self, value):
            look()
            return [value] * 2

    data = open_data(str(five_batches.data), Outputs(10), 4)
    partial = PartialCounts(tmp_path / "report.json", {})
    transform = get_preprocess("cifar10")
    evaluate(five_batches.model, data, transform, OneOfTwo(rank, 2), partial, finish=look, workers=0)
    mine = [3, 2][rank]
    assert kept[-3:] == [[mine] * 3, [0, mine, mine]][rank]  # the counts, the report if it is this one's, the end
    assert not list(tmp_path.iterdir())
