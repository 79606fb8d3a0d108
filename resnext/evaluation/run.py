"""The network over batches of labelled images: where among the logits the right class comes.

How many threads share one operation changes its rounding: on a processor, logits differ by 1e-5 between one thread and
several. So that the figures do not depend on the cores, each operation runs in one thread here, and the cores are used
by running pieces of a batch at the same time. Where a batch is cut is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from resnext.evaluation.batches import Batch
from resnext.evaluation.counts import Counts
from resnext.model import ResNeXt

PIECE = 8  # images that a thread of the processor computes at a time


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for `count_shards`. As long as they are there, every operation of torch runs in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # OpenMP knows the number for each thread apart
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def count_shards(
    model: ResNeXt, batches: Iterable[Batch], device: torch.device, precision: str, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Counts]]:
    """The counts of every shard, as soon as its last batch is done. The model is moved to `device`.

    `precision` "fp32" is that and no less on every GPU (no TF32); "bf16" is torch's autocast: convolutions and the
    classifier in bfloat16, weights and statistics as they are.
    """
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

    On the processor the threads of `pool` share the images.
    """

    def compute(piece: Tensor) -> Tensor:
        # both are of the thread that sets them
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
