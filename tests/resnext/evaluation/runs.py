"""Runs in many processes, and runs that are killed."""

import multiprocessing
import os
import signal
import socket
import sys
import traceback

import pytest

from resnext.evaluation.counts import PartialCounts
from tests.resnext.evaluation.labelled import evaluate

fork = multiprocessing.get_context("fork")  # saves importing torch once more in each


def written(folder):
    return (folder / "report.json").read_text(), (folder / "report.csv").read_text()


def start(arguments, size, before=lambda rank: None, machines=False):
    """The command in `size` processes, as torchrun would start them; `before` is called in each of them.

    With `machines`, each of them is on one of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank):
        status = 3
        try:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            local = (0, 1) if machines else (rank, size)
            os.environ.update(zip(names, map(str, (rank, size, *local)), strict=True))
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


def replace_keep(patch, keep):
    """`keep(original, shard)` instead of keeping a shard's counts, in this process."""
    original = PartialCounts.keep
    patch.setattr(PartialCounts, "keep", lambda self, shard, counts: keep(lambda: original(self, shard, counts), shard))


def kill_after(patch, shards):
    """This process is killed when it has kept so many shards."""
    kept = []

    def keep(original, shard):
        if len(kept) == shards:
            os.kill(os.getpid(), signal.SIGKILL)
        original()
        kept.append(shard)

    replace_keep(patch, keep)


def kill_in_the_middle(arguments, shards=3):
    """One process that is killed after so many shards."""
    with pytest.MonkeyPatch.context() as patch:
        assert start(arguments, 1, lambda rank: kill_after(patch, shards)) == [-signal.SIGKILL]
