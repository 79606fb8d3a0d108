"""What the benchmarks share: contenders run in turn, medians and quartiles, the machine, plain-text tables."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from benchmarks.result import quartiles

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with `--runs N`; the script adds its own arguments."""
    result = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--runs", type=_positive, default=9, metavar="N", help="runs of each contender; default: 9")
    return result


def interleave(contenders: Mapping[str, Callable[[], T]], runs: int) -> dict[str, list[T]]:
    """What `runs` calls of each contender return, after one call that does not count.

    They take turns, in the other direction every second round: what slows the machine down for a while hits all of
    them, and none always comes after the same other.
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


def spread(values: Sequence[float], unit: str, scale: float = 1.0, digits: int = 2) -> str:
    """`2.05 s (2.01 to 2.12)`: the median, and the quartiles around it."""
    low, middle, high = quartiles(values)
    shown = [f"{value * scale:.{digits}f}" for value in (middle, low, high)]
    return f"{shown[0]} {unit} ({shown[1]} to {shown[2]})"


def ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """Median over median."""
    return statistics.median(values) / statistics.median(reference)


def target(text: str, value: float, limit: float) -> str:
    """A line that says whether a measured ratio keeps within its limit."""
    return f"target  {text}: {'met' if value <= limit else 'MISSED'} ({value:.2f})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the headings, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def machine(packages: Sequence[str] = ("torch", "torchvision")) -> str:
    """One line: processor, cores that this process may use, operating system, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shown = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{_processor()}, {cores} cores, {platform.system()}; Python {platform.python_version()}, {shown}"


def version(name: str) -> str:
    """That of an installed package, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def memory_status(field: str) -> int | None:
    """`VmRSS` (resident memory now) or `VmHWM` (its peak) of this process in bytes; None where Linux does not say."""
    try:
        match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


class _Parser(argparse.ArgumentParser):
    """Its errors are one line, as those of the project's commands (whose parser imports torch)."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text}")
    return int(text)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()
