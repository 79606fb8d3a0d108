"""The processes that `torchrun` started, which share a piece of work; a single one where it did not."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from resnext.evaluation import DataError
from resnext.weights.messages import first_line

PATIENCE = datetime.timedelta(days=1)  # for the slowest process; one that dies is noticed at once


@dataclass(frozen=True)
class Processes:
    """This process among `size`; `local_rank` among the `local_size` of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """As torchrun's environment variables tell. Raises DataError where they cannot be."""
        rank, size = _place("RANK", "WORLD_SIZE")
        return cls(rank, size, *_place("LOCAL_RANK", "LOCAL_WORLD_SIZE"))

    @property
    def device(self) -> torch.device:
        """Where this process computes: its GPU, which it shares where there are too few, or the processor."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device("cpu")

    @property
    def cores(self) -> int:
        """Processor cores for each process of this machine; 1 at least."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // self.local_size)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """The process group, for `gather`: nccl where every process has a GPU of its own, else gloo."""
        if self.size == 1:
            yield
            return
        own_gpu = torch.cuda.is_available() and self.local_size <= torch.cuda.device_count()
        if own_gpu:
            torch.cuda.set_device(self.device)
        with _one_line():
            dist.init_process_group("nccl" if own_gpu else "gloo", timeout=PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in order of rank, in every process; each must call it.

        Raises DataError where another process has ended, so that none waits for it.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _one_line():
            dist.all_gather_object(values, value)
        return values


def _place(rank_name: str, size_name: str) -> tuple[int, int]:
    """The values of two environment variables: a number, and how many there are."""
    values = []
    for name, default, least in ((rank_name, "0", 0), (size_name, "1", 1)):
        text = os.environ.get(name, default)
        if not text.isdecimal() or int(text) < least:
            raise DataError(f"{name}={text}: expected a whole number from {least} up; start processes with torchrun")
        values.append(int(text))
    rank, size = values
    if rank >= size:
        raise DataError(f"{rank_name}={rank}: expected less than {size_name}={size}; start processes with torchrun")
    return rank, size


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        detail = first_line(error)
        raise DataError(f"the processes cannot work together, perhaps because one has failed: {detail}") from error
