"""What a benchmark returns, for `python -m benchmarks` to store and to draw."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """One comparison: contenders that did the same work, side by side in one run."""

    benchmark: str  # "inference"
    title: str  # "fp32, batch 16"
    quantity: str  # "time per image"
    unit: str  # "s" or "bytes"
    values: Mapping[str, Sequence[float]]  # contender -> one value for each run
    missing: Mapping[str, str] = field(default_factory=dict)  # contender -> why it has none
    problems: Sequence[str] = ()  # what makes the comparison worthless: results that differ
    batch: int | None = None  # for curves over the batch size

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the raw values, their median and quartiles."""
        contenders = {
            name: {"values": list(values), **dict(zip(("q1", "median", "q3"), quartiles(values), strict=True))}
            for name, values in self.values.items()
        }
        result = {name: getattr(self, name) for name in ("benchmark", "title", "quantity", "unit")}
        if self.batch is not None:
            result["batch"] = self.batch
        return {**result, "contenders": contenders, "missing": dict(self.missing), "problems": list(self.problems)}


def quartiles(values: Sequence[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
