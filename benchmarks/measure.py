"""Shared by the benchmarks: contenders that take turns, medians and quartiles, memory, the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from resnext.inference.processor import describe

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """One comparison: contenders that did the same work, side by side in one run."""

    benchmark: str  # "inference"
    title: str  # "fp32, batch 16"
    quantity: str  # "time per image"
    unit: str  # "s" or "bytes"
    values: Mapping[str, Sequence[float]]  # contender -> one value per run
    missing: Mapping[str, str] = field(default_factory=dict)  # contender -> why it has none
    problems: Sequence[str] = ()  # such as different results, which make the comparison worthless
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

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Result:
        """The inverse of `as_dict`."""
        rest = {name: value for name, value in stored.items() if name not in ("contenders", "problems")}
        values = {name: given["values"] for name, given in stored["contenders"].items()}
        return cls(values=values, problems=tuple(stored["problems"]), **rest)


def interleave(contenders: Mapping[str, Callable[[], T]], runs: int) -> dict[str, list[T]]:
    """The results of `runs` calls of each contender, after one call that does not count.

    They take turns, and every second round runs backwards. So a temporary slowdown of the machine affects all of them,
    and none always follows the same other.
    """
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for turn in range(-1, runs):
        names = list(contenders) if turn % 2 else list(contenders)[::-1]
        for number, name in enumerate(names, 1):
            _progress(f"run {max(turn + 1, 0)} of {runs}, {number} of {len(names)}: {name}")
            value = contenders[name]()
            if turn >= 0:
                results[name].append(value)
    _progress("")
    return results


def quartiles(values: Sequence[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3


def spread(values: Sequence[float], unit: str, scale: float = 1.0, digits: int = 2) -> str:
    """`2.05 s (2.01 to 2.12)`: the median, and the quartiles around it."""
    low, middle, high = (f"{value * scale:.{digits}f}" for value in quartiles(values))
    return f"{middle} {unit} ({low} to {high})"


def ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Median over median."""
    return statistics.median(values) / statistics.median(reference)


def target(text: str, value: float, limit: float) -> str:
    """A line that says whether a measured ratio stays within its limit."""
    return f"target  {text}: {'met' if value <= limit else 'MISSED'} ({value:.2f})"


def peak_growth(work: Callable[[], object]) -> int | None:
    """Bytes by which the peak resident set exceeds the resident set before `work`; None except on Linux.

    The peak covers the whole process, so call this in a fresh one (`afresh`).
    """
    before = _memory("VmRSS")
    work()
    after = _memory("VmHWM")
    return None if before is None or after is None else after - before


def _memory(name: str) -> int | None:
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def afresh(module: str, function: str, *arguments: str) -> Any:
    """The result of a function of `benchmarks` in a process of its own, passed as JSON."""
    code = f"import json, sys; from benchmarks.{module} import {function} as f; print(json.dumps(f(*sys.argv[1:])))"
    command = [sys.executable, "-c", code, *arguments]
    output = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def machine() -> str:
    """One line: processor, cores that this process may use, operating system, versions of the contenders."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = re.search(r"model name\s*: (.+)", describe())
    peers = re.findall(
        r"^([\w-]+)==", (ROOT / "benchmarks" / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    packages = ["torch", "torchvision", *(peer for peer in peers if peer != "matplotlib")]
    shown = ", ".join(f"{package} {_version(package)}" for package in packages)
    processor = name[1] if name else platform.processor() or platform.machine()
    return f"{processor}, {cores} cores, {platform.system()}; Python {platform.python_version()}, {shown}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
