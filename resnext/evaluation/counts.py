"""Counting right and wrong answers; the counts of an interrupted run; the report.

Nothing in a report differs between two runs of the same, so reports can be compared byte by byte. How long a run took
goes into a file of its own.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import math
import os
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from resnext.evaluation import DataError
from resnext.weights.atomic import replacing
from resnext.weights.records import read_json, records

try:
    import fcntl
except ImportError:  # on Windows nothing keeps a second run out
    fcntl = None  # type: ignore[assignment]

TOP = 5
LEVEL = 0.95  # of the confidence intervals
NO_CLASS = -1  # the class of a sample whose label is missing or unknown


class Unreadable(NamedTuple):
    """An image that could not be read: its name, its class (`NO_CLASS` where that is not known), and why."""

    image: str
    target: int
    reason: str


class Errors(NamedTuple):
    """How many images there were, and for how many the right class was not first, or not among the first five."""

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

    @classmethod
    def sum(cls, parts: Iterable[Counts]) -> Counts:
        """What several parts gave together."""
        total = cls()
        for part in parts:
            for target, errors in part.classes.items():
                total._add(target, errors)
            total.unreadable += part.unreadable
        return total

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
    """The counts of an unfinished run, in a folder beside its report: a file for each shard, each there whole or not.

    `run` is what decides the counts, and `modified` tells when the data last changed on this machine. Each file holds a
    digest of both, so that the counts of another run are never mistaken for this one's. Without a report nothing is
    kept.
    """

    def __init__(self, report: Path | None, run: Mapping[str, str], modified: str = "") -> None:
        self.folder = report and report.with_name(report.name + ".partial")
        self.run = dict(run)
        self._decisive = {**run, "times of change": modified}
        self.digest = hashlib.sha256(json.dumps(self._decisive, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def reserved(self, name: str) -> Iterator[None]:
        """Keep other runs out of the folder until the block or this process ends, for whatever reason.

        Processes that give the same `name` are one run and share the folder. Raises OSError, and DataError where
        another run has the folder.
        """
        if self.folder is None:
            yield
            return
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "lock").open("a+", encoding="utf-8") as file:
            if not _lock(file):
                file.seek(0)
                if file.read() != name:
                    raise DataError(f"{self.folder} is in use by another run; wait until it ends, or change --output")
            else:
                file.truncate(0)
                file.write(name)
                file.flush()
            yield

    def resume(self) -> dict[int, Counts]:
        """What this run has counted so far, by shard. Raises DataError with the differences from another run."""
        if self.folder is None:
            return {}
        now = self._decisive
        before = read_json(self.folder / "run.json") or now
        differences = [
            f"{key}: {before.get(key)} then, {now.get(key)} now"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if differences:
            raise DataError(
                f"--resume: {self.folder} holds counts of another run ({'; '.join(differences)}). Use the same "
                "options and data, or leave out --resume to start afresh"
            )
        found = {}
        for path in self.folder.glob("shard-*.json"):
            content = read_json(path) or {}
            try:
                if content["run"] == self.digest:
                    found[int(path.stem.removeprefix("shard-"))] = Counts.from_json(content)
            except (KeyError, TypeError, ValueError):
                continue  # damaged, after a power cut for instance: counted again
        return found

    def begin(self) -> None:
        """Write down which run this is, for a later `resume`."""
        if self.folder:
            _write(self.folder / "run.json", json.dumps(self._decisive))

    def keep(self, shard: int, counts: Counts) -> None:
        """Put the counts of a whole shard into the folder."""
        if self.folder:
            text = json.dumps({"run": self.digest, **counts.as_json()})
            _write(self.folder / f"shard-{shard:08d}.json", text)

    def discard(self) -> int:
        """Delete all counts, including those of another run. Returns the number of shards."""
        shards = list(self.folder.glob("shard-*.json")) if self.folder else []
        for path in shards:
            path.unlink(missing_ok=True)
        return len(shards)

    def remove(self) -> None:
        """Delete the folder, at the end of the run that reserved it."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def _lock(file: TextIO) -> bool:
    """Lock a file, and return whether this process now has it to itself.

    flock would not do: workers inherit its locks, and outlive a killed process by some seconds.
    """
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    # the run that had the folder may meanwhile have ended and deleted the file
    return os.path.exists(file.name) and os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def wilson_interval(errors: int, images: int, level: float = LEVEL) -> tuple[float, float]:
    """The Wilson score interval of a proportion, in percent (Wilson, JASA 22, 1927; no continuity correction).

    It tells how much depends on the choice of the images. Unlike the normal approximation it holds for few images, and
    for no errors at all.
    """
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share, weight = errors / images, z * z / images
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / images + weight / (4 * images))
    # at 0 and 1 exactly, where rounding would leave a trace
    low, high = (0.0 if errors == 0 else middle - half), (1.0 if errors == images else middle + half)
    return 100 * low, 100 * high


def make_report(counts: Counts, *, on_error: str, setup: Mapping[str, Any]) -> dict[str, Any]:
    """The report as plain data: errors in percent, their intervals, the images that could not be read, the set-up.

    Images that could not be read count as wrong, or are left out if `on_error` is "exclude". Raises DataError where no
    image could be read.
    """
    if not counts.total.images:
        first = f"; the first, {counts.unreadable[0].image}: {counts.unreadable[0].reason}" if counts.unreadable else ""
        raise DataError(f"none of {len(counts.unreadable)} images could be read{first}")
    reported = reported_error(setup, counts)
    if on_error == "wrong":
        counts.count_unreadable_as_wrong()
    images, top1, top5 = counts.total
    return {
        "images": images,
        "top1_error": 100 * top1 / images,
        "top5_error": 100 * top5 / images,
        "top1_wrong": top1,
        "top5_wrong": top5,
        "confidence_interval": {
            "method": "Wilson score",
            "level": LEVEL,
            "top1_error": wilson_interval(top1, images),
            "top5_error": wilson_interval(top5, images),
        },
        "reported_top1_error": reported,
        "unreadable": {
            "counted_as": "wrong" if on_error == "wrong" else "excluded",
            "images": [{"image": image.image, "reason": image.reason} for image in counts.unreadable],
        },
        **setup,
    }


def reported_error(setup: Mapping[str, Any], counts: Counts) -> float | None:
    """The top-1 error that the authors report of this network, in percent.

    None for a run unlike theirs: another crop, pipeline or precision, or images that do not cover all 1,000 classes.
    """
    record = records().get(setup["network"].partition("_type")[0])
    theirs = {"pipeline": "torch7", "crop": 224, "ten_crop": False}
    same = theirs.items() <= setup["preprocessing"].items() and setup["precision"] == "fp32"
    return record.top1_error if record and same and counts.classes.keys() == set(range(1000)) else None


def per_class(counts: Counts, labels: Mapping[int, str], names: Sequence[str]) -> str:
    """A CSV table with a row for each class that has images: its label in the data, its name, images, errors in %.

    Samples without a class are in no row.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class", "name", "images", "top1_error", "top5_error"))
    for target, (images, top1, top5) in sorted(counts.classes.items()):
        if target == NO_CLASS:
            continue
        name = names[target] if names else ""
        writer.writerow((labels.get(target, target), name, images, 100 * top1 / images, 100 * top5 / images))
    return text.getvalue()


def write_report(path: Path, report: Mapping[str, Any], classes: str, timing: Mapping[str, Any]) -> None:
    """Write the report to `path`, and beside it the table per class (`.csv`) and what the run took (`.timing.json`).

    These take the place of `.json` in its name, and are appended to any other. Each appears under its name whole or not
    at all, the report last. Raises OSError.
    """
    name = path.name.removesuffix(".json")
    _write(path.with_name(f"{name}.csv"), classes)
    _write(path.with_name(f"{name}.timing.json"), _json(timing))
    _write(path, _json(report))


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
