"""From files with images to batches, in worker processes; an image that cannot be read is named, and never an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from resnext.evaluation import DataError
from resnext.evaluation.counts import Unreadable
from resnext.images import decode, reason

Transform = Callable[[Any], Tensor]  # of a PIL image


class Sample(NamedTuple):
    """An image that is still to be read: its name in the report, its class, and what opens its file."""

    name: str
    target: int
    open: Callable[[], BinaryIO]


class Batch(NamedTuple):
    """Images of one shard, (N, C, H, W) or (N, crops, C, H, W), with their classes (N,); and those that cannot be read.

    `last`: the shard ends with it. `problem`: why the shard cannot be read to its end.
    """

    shard: int
    images: Tensor = torch.empty(0)
    targets: Tensor = torch.empty(0, dtype=torch.int64)
    unreadable: Sequence[Unreadable] = ()
    last: bool = False
    problem: str = ""


class Source(Protocol):
    """A data set that is a sequence of shards."""

    def __len__(self) -> int:
        """How many shards there are."""

    def read(self, shard: int, transform: Transform) -> Iterator[Batch]:
        """The batches of one of them."""


class _Shards(IterableDataset[Batch]):
    """The batches of some shards; each is read by one worker."""

    def __init__(self, source: Source, shards: Sequence[int], transform: Transform) -> None:
        self.source, self.shards, self.transform = source, shards, transform

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        for shard in self.shards[worker.id :: worker.num_workers] if worker else self.shards:
            yield from self.source.read(shard, self.transform)


def load(source: Source, shards: Sequence[int], transform: Transform, *, workers: int, pin: bool) -> Iterator[Batch]:
    """The batches of some shards, read by `workers` processes (0: by this one), in pinned memory for a GPU.

    Raises DataError where a shard cannot be read to its end, or a worker dies.
    """
    loader = DataLoader(
        _Shards(source, shards, transform),
        batch_size=None,
        num_workers=min(workers, len(shards)),
        collate_fn=_as_it_is,
        pin_memory=pin,
    )
    try:
        for batch in loader:
            if batch.problem:
                raise DataError(batch.problem)
            yield batch
    except RuntimeError as error:
        raise DataError(f"reading images failed: {reason(error)}; try --workers 0, or a smaller --batch") from error


def _as_it_is(batch: Any) -> Any:
    return batch


def stack(shard: int, samples: Sequence[Sample], transform: Transform) -> Iterator[Batch]:
    """Samples read, transformed and stacked: one batch, or several where the transform leaves images of several sizes.

    Those that cannot be read come in a batch without images.
    """
    by_size: dict[torch.Size, list[tuple[Tensor, int]]] = {}
    unreadable: list[Unreadable] = []
    for name, target, open_ in samples:
        try:
            with open_() as file:
                image = transform(decode(file))
        except Exception as error:  # a transform may raise what it likes
            unreadable.append(Unreadable(name, target, reason(error)))
        else:
            by_size.setdefault(image.shape, []).append((image, target))
    for group in by_size.values():
        images, targets = zip(*group, strict=True)
        yield Batch(shard, torch.stack(images), torch.tensor(targets))
    if unreadable:
        yield Batch(shard, unreadable=unreadable)
