"""Counting right and wrong answers, and keeping the counts of an interrupted run."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from resnext.evaluation import DataError
from resnext.weights.atomic import replacing

TOP = 5
NO_CLASS = -1  # of a sample without a label that the network knows


class Unreadable(NamedTuple):
    """An image that could not be read: its name, its class (`NO_CLASS` where that is not known), and why."""

    image: str
    target: int
    reason: str


class Errors(NamedTuple):
    """Whole numbers: how many images, and how many of them had the right class not first, not among the first five."""

    images: int
    top1: int
    top5: int

    def plus(self, other: Errors) -> Errors:
        """The sum of both."""
        return Errors(self.images + other.images, self.top1 + other.top1, self.top5 + other.top5)


_NONE = Errors(0, 0, 0)


@dataclass
class Counts:
    """What a part of the data set gave: errors by class, and the images that could not be read."""

    classes: dict[int, Errors] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)

    def add(self, targets: Iterable[int], ranks: Iterable[int], num_classes: int) -> None:
        """Count images by their class and its rank among the logits."""
        for target, rank in zip(targets, ranks, strict=True):
            self._add(target, Errors(1, int(rank > 0), int(rank >= min(TOP, num_classes))))

    def _add(self, target: int, errors: Errors) -> None:
        self.classes[target] = self.classes.get(target, _NONE).plus(errors)

    def merge(self, other: Counts) -> None:
        """Add what another part gave."""
        for target, errors in other.classes.items():
            self._add(target, errors)
        self.unreadable += other.unreadable

    def count_unreadable_as_wrong(self) -> None:
        """Count every image that could not be read as one with a wrong answer."""
        for image in self.unreadable:
            self._add(image.target, Errors(1, 1, 1))

    @property
    def total(self) -> Errors:
        """The errors of all classes."""
        return functools.reduce(Errors.plus, self.classes.values(), _NONE)

    def as_json(self) -> dict[str, Any]:
        """Plain lists, for `from_json`."""
        return {
            "classes": [[target, *errors] for target, errors in self.classes.items()],
            "unreadable": self.unreadable,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        """The counts that `as_json` gave. Raises KeyError, TypeError or ValueError for anything else."""
        classes = {int(target): Errors(*map(int, errors)) for target, *errors in data["classes"]}
        return cls(classes, [Unreadable(*image) for image in data["unreadable"]])


class PartialCounts:
    """The counts of an unfinished run in a folder beside its report: a file for each shard, each there whole or not.

    `run` tells what decides the counts; counts of another run are not taken for this one's.
    """

    def __init__(self, report: Path, run: Mapping[str, Any]) -> None:
        self.folder = report.with_name(report.name + ".partial")
        self.run = dict(run)

    def resume(self) -> dict[int, Counts]:
        """What is there of this run, by shard. Raises DataError where it is of another run, with the differences."""
        before = _read(self.folder / "run.json")
        if before is None:
            self.discard()  # nobody knows what run that was of
            return {}
        differences = [
            f"{key} was {before.get(key)}, is {self.run.get(key)}"
            for key in sorted({*before, *self.run})
            if before.get(key) != self.run.get(key)
        ]
        if differences:
            raise DataError(
                f"--resume: {self.folder} holds counts of another run: {'; '.join(differences)}. Ask for the same as "
                "then, or leave out --resume to start afresh"
            )
        found = {}
        for path in self.folder.glob("shard-*.json"):
            try:
                found[int(path.stem.removeprefix("shard-"))] = Counts.from_json(_read(path) or {})
            except (KeyError, TypeError, ValueError):
                continue  # damaged, after a power cut for instance: counted again
        return found

    def discard(self) -> int:
        """Delete what is there; how many shards that was."""
        try:
            shards = len(list(self.folder.glob("shard-*.json")))
        except FileNotFoundError:  # another process is at it as well, and was quicker
            return 0
        shutil.rmtree(self.folder, ignore_errors=True)
        return shards

    def open(self) -> None:
        """Make the folder, for `keep`."""
        self.folder.mkdir(exist_ok=True)
        write_atomically(self.folder / "run.json", json.dumps(self.run))

    def keep(self, shard: int, counts: Counts) -> None:
        """Put the counts of a whole shard into the folder."""
        path, text = self.folder / f"shard-{shard:08d}.json", json.dumps(counts.as_json())
        try:
            write_atomically(path, text)
        except FileNotFoundError:  # another run of the same report has ended meanwhile, and cleared up
            self.open()
            write_atomically(path, text)


def write_atomically(path: Path, text: str) -> None:
    """A text file under its name, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
