"""What an evaluation found: the report, the table per class, and the lines on the terminal.

The report holds nothing that differs from run to run, so that two of the same can be compared byte by byte; how long a
run took goes into a file of its own.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnext.evaluation import DataError
from resnext.evaluation.counts import NO_CLASS, Counts, write_atomically

LEVEL = 0.95


def wilson_interval(errors: int, images: int, level: float = LEVEL) -> tuple[float, float]:
    """The Wilson score interval of a proportion, in percent (Wilson, JASA 22, 1927; no continuity correction).

    It tells how much the choice of these images matters. Unlike the normal approximation it holds for few images and
    for no errors at all.
    """
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share, weight = errors / images, z * z / images
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / images + weight / (4 * images))
    # at 0 and 1 exactly, where rounding would leave a trace
    low, high = (0.0 if errors == 0 else middle - half), (1.0 if errors == images else middle + half)
    return 100 * low, 100 * high


def make_report(counts: Counts, *, on_error: str, reported: float | None, setup: Mapping[str, Any]) -> dict[str, Any]:
    """The report as plain data: errors in percent, their intervals, the images that could not be read, the set-up.

    Args:
        counts: of all images that could be read.
        on_error: what the others count as, "wrong" or "exclude".
        reported: the authors' top-1 error in percent, where it can be held against this one.
        setup: all that decides the figures.

    Raises DataError where no image could be read.
    """
    if not counts.total.images:
        first = f"; the first, {counts.unreadable[0].image}: {counts.unreadable[0].reason}" if counts.unreadable else ""
        raise DataError(f"none of {len(counts.unreadable)} images could be read{first}")
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
    """The report at `path`, and beside it the table per class (`.csv`) and what the run took (`.timing.json`).

    These take the place of `.json` in its name, and are appended to any other. Each appears under its name whole or not
    at all, the report last. Raises OSError.
    """
    name = path.name.removesuffix(".json")
    write_atomically(path.with_name(f"{name}.csv"), classes)
    write_atomically(path.with_name(f"{name}.timing.json"), _json(timing))
    write_atomically(path, _json(report))


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
