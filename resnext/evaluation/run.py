"""The network over labelled images: the processes that share the work, and what each of them counts.

The report does not depend on the number of processes, workers or threads. How many threads share one operation changes
its rounding: on a CPU, logits differ by 1e-5 between one thread and several. So each operation runs in one thread
here, and the cores are used by running pieces of a batch at the same time. Where a batch is cut is fixed.
"""

from __future__ import annotations

import datetime
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from resnext.evaluation import DataError
from resnext.evaluation.counts import Counts, PartialCounts
from resnext.evaluation.data import Batch, Data, Transform, load
from resnext.inference.processor import check_low_precision
from resnext.model import ResNeXt
from resnext.weights.files import first_line
from resnext.weights.progress import progress_bar

PIECE = 8  # images that a thread of the CPU computes at a time
MAX_WORKERS = 8  # by default
_LONGEST_WAIT = datetime.timedelta(days=1)  # for the slowest process; one that dies is noticed at once

Finish = Callable[[Counts, Mapping[str, Any]], None]


def evaluate(
    model: ResNeXt,
    data: Data,
    transform: Transform,
    processes: Processes,
    partial: PartialCounts,
    finish: Finish,
    *,
    precision: str = "fp32",
    workers: int | None = None,
    resume: bool = False,
) -> None:
    """Count the errors on all images of a data set; every process calls this with the same arguments.

    Args:
        model: a network with logits.
        partial: keeps the counts of finished shards; all processes must be part of the same run.
        finish: called in the first process with the counts and the timing, before `partial` is deleted.
        precision: as in `count_shards`.
        workers: processes that read images; default: one for each core, at most `MAX_WORKERS`.
        resume: continue the interrupted run whose counts `partial` holds.

    Raises DataError for data that cannot be read, for processes that do not agree, and for counts of another run.
    """
    workers = min(processes.cores, MAX_WORKERS) if workers is None else workers
    threads = min(processes.cores, torch.get_num_threads())  # OMP_NUM_THREADS may ask for fewer
    pin = processes.device.type == "cuda"
    with processes.connected(), ExitStack() as stack, thread_pool(threads) as pool:
        _reserve(processes, partial, stack)
        found = _begin(processes, partial, resume)
        shards = [shard for shard in range(len(data)) if shard not in found][processes.rank :: processes.size]
        start = time.perf_counter()
        batches = _with_bar(load(data, shards, transform, workers=workers, pin=pin), data.images(shards), processes)
        mine: dict[int, Counts] = {}
        for shard, counts in count_shards(model, batches, processes.device, precision, pool):
            partial.keep(shard, counts)
            mine[shard] = counts
        new = {shard: counts for part in processes.gather(mine) for shard, counts in part.items()}
        seconds = time.perf_counter() - start
        if processes.rank == 0:
            images = sum(counts.total.images for counts in new.values())
            timing = {
                "images_per_second": images / seconds,
                "images": images,
                "seconds": seconds,
                "processes": processes.size,
                "workers": workers,
                "threads": threads,
            }
            finish(Counts.sum(counts for _, counts in sorted({**found, **new}.items())), timing)
        processes.gather(None)  # the report is written
        if processes.local_rank == 0:
            partial.remove()


def _reserve(processes: Processes, partial: PartialCounts, stack: ExitStack) -> None:
    """Keep other runs out of the folder, on every machine; the machines may share a file system, or not."""
    name = processes.gather(secrets.token_hex(16))[0]
    for turn in (processes.rank == 0, processes.rank > 0 and processes.local_rank == 0):
        if turn:
            stack.enter_context(partial.reserved(name))
        processes.gather(None)


def _begin(processes: Processes, partial: PartialCounts, resume: bool) -> dict[int, Counts]:
    """What an interrupted run has already counted."""
    found: dict[int, Counts] = {}
    if resume:
        found = partial.resume()
    elif processes.local_rank == 0 and (shards := partial.discard()):
        print(f"resnext: discarding the counts of {shards} shards of an interrupted run; --resume would keep them",
              file=sys.stderr)  # fmt: skip
    run = partial.run
    for rank, (other, counts) in enumerate(processes.gather((run, found))):
        if differences := [f"{key} {value}, and {run[key]} here" for key, value in other.items() if value != run[key]]:
            raise DataError(
                f"process {rank} would not count the same as process {processes.rank}: {'; '.join(differences)}"
            )
        found = {**found, **counts}  # the machines need not share a file system
    if processes.local_rank == 0:
        partial.begin()
    return found


def _with_bar(batches: Iterable[Batch], images: int | None, processes: Processes) -> Iterator[Batch]:
    """The batches, with a bar on the first process's terminal."""
    desc = "evaluate" if processes.size == 1 else f"evaluate, process 1 of {processes.size}"
    with progress_bar(images, show=None if processes.rank == 0 else False, desc=desc) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.targets) + len(batch.unreadable))


@dataclass(frozen=True)
class Processes:
    """This process among `size`; `local_rank` among the `local_size` of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """What torchrun's environment variables say. Raises DataError where they make no sense."""
        rank, size = _place("RANK", "WORLD_SIZE")
        return cls(rank, size, *_place("LOCAL_RANK", "LOCAL_WORLD_SIZE"))

    @property
    def device(self) -> torch.device:
        """Where this process computes: on its GPU, which processes share if there are too few, or on the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device("cpu")

    @property
    def cores(self) -> int:
        """CPU cores for each process of this machine; at least 1."""
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
            dist.init_process_group("nccl" if own_gpu else "gloo", timeout=_LONGEST_WAIT)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in order of rank, in every process; each must call it.

        Raises DataError where another process has ended, instead of waiting for it.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _one_line():
            dist.all_gather_object(values, value)
        return values


def _place(rank_name: str, size_name: str) -> tuple[int, int]:
    """The values of two environment variables: the number of a process, and how many there are."""
    rank, size = os.environ.get(rank_name, "0"), os.environ.get(size_name, "1")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        wanted = "expected a whole number and a greater one; start processes with torchrun"
        raise DataError(f"{rank_name}={rank}, {size_name}={size}: {wanted}")
    return int(rank), int(size)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        detail = first_line(error)
        raise DataError(f"the processes cannot work together, perhaps because one has failed: {detail}") from error


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for `count_shards`. Inside the block, every operation of torch runs in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # OpenMP keeps the number for each thread separately
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def count_shards(
    model: ResNeXt, batches: Iterable[Batch], device: torch.device, precision: str, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Counts]]:
    """The counts of every shard, as soon as its last batch is done. The model is moved to `device`.

    `precision` "fp32" is full float32, on a GPU too (no TF32); "bf16" is torch's autocast: convolutions and the
    classifier in bfloat16, weights and statistics as they are. Raises ProcessorError where that would kill the process.
    """
    if precision == "bf16" and device.type == "cpu":
        check_low_precision()
    model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    unfinished: dict[int, Counts] = {}
    for batch in batches:
        counts = unfinished.setdefault(batch.shard, Counts())
        counts.unreadable += batch.unreadable
        if len(batch.targets):
            logits = logits_of(model, batch.images.to(device, non_blocking=True), precision, pool)
            rank = ranks(logits, batch.targets.to(device, non_blocking=True))
            counts.add(batch.targets.tolist(), rank.tolist(), model.num_classes)
        if batch.last:
            yield batch.shard, unfinished.pop(batch.shard)


def logits_of(model: ResNeXt, images: Tensor, precision: str, pool: ThreadPoolExecutor) -> Tensor:
    """(N, classes) of images (N, C, H, W); of (N, crops, C, H, W) the mean over the crops (official code: the sum).

    On the CPU the threads of `pool` share the images.
    """

    def compute(piece: Tensor) -> Tensor:
        # both hold only for the thread that sets them
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits: Tensor = model(piece)
            return logits.float()

    count, device = len(images), images.device.type
    images = images.flatten(0, -4).contiguous(memory_format=torch.channels_last)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        logits = torch.cat(list(pool.map(compute, torch.split(images, PIECE)))) if device == "cpu" else compute(images)
    with torch.inference_mode():
        return logits.view(count, -1, logits.shape[1]).mean(1)


def ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """How many classes come before the right one, (N,): 0 where it is first. Of logits (N, classes), targets (N,).

    Of equal logits the lower class comes first, so that a tie is decided in the same way everywhere; a logit that is
    NaN comes before all others, so that it never makes an answer right.
    """
    right = logits.gather(1, targets[:, None])
    before = ~(logits <= right)
    tied = (logits == right) & (torch.arange(logits.shape[1], device=logits.device) < targets[:, None])
    return (before | tied).sum(1)
