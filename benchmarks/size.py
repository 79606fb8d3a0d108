"""Cost against size: time and peak memory of ResNeXt-50, -101 and -152 (32x4d) at 224 px, for batches from 1 to 64.

The networks of `resnext.create`, in float32, with random weights and without gradients. Time: per image; all networks
and batches take turns, at most 3 runs each. Memory: growth of the peak resident set (VmHWM) over that of the loaded
network, in a process of its own; only on Linux.
"""

from __future__ import annotations

import time
from argparse import Namespace
from functools import partial

import torch

import resnext
from benchmarks.measure import Result, afresh, interleave, peak_growth, spread
from resnext.cli.command_line import table

NETWORKS = ("resnext50_32x4d", "resnext101_32x4d", "resnext152_32x4d")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
RUNS = 3  # at most: a round takes a minute
TIME, MEMORY = "time per image", "growth of peak memory"


def run(options: Namespace) -> list[Result]:
    """Measure; print the table."""
    runs = min(options.runs, RUNS)
    print(f"224 px, {torch.get_num_threads()} threads; {runs} runs each, median (quartiles)\n")
    models = {name: resnext.create(name).eval() for name in NETWORKS}
    points = {f"{name}, batch {batch}": (name, batch) for name in NETWORKS for batch in BATCHES}
    contenders = {label: partial(seconds, models[name], batch) for label, (name, batch) in points.items()}
    times = interleave(contenders, runs)
    grown: dict[str, int | None] = {
        label: afresh("size", "memory", name, str(batch)) for label, (name, batch) in points.items()
    }
    rows = [("network", "batch", TIME, MEMORY)]
    for label, (name, batch) in points.items():
        growth = grown[label]
        shown = "not measured" if growth is None else f"{growth / 1e6:.0f} MB"
        rows.append((name, str(batch), spread(times[label], "ms", 1e3, 1), shown))
    print(table(rows))
    results = []
    for batch in BATCHES:
        labels = {name: f"{name}, batch {batch}" for name in NETWORKS}
        known = {name: [float(growth)] for name in NETWORKS if (growth := grown[labels[name]]) is not None}
        unknown = {name: "not measured: not Linux" for name in NETWORKS if name not in known}
        seen = {name: times[label] for name, label in labels.items()}
        results.append(Result("size", f"batch {batch}", TIME, "s", seen, batch=batch))
        results.append(Result("size", f"batch {batch}", MEMORY, "bytes", known, unknown, batch=batch))
    return results


def seconds(model: torch.nn.Module, batch: int) -> float:
    """Time per image."""
    images = torch.randn(batch, 3, 224, 224)
    started = time.perf_counter()
    with torch.no_grad():
        model(images)
    return (time.perf_counter() - started) / batch


def memory(name: str, batch: str) -> int | None:
    """Bytes by which `batch` images raise the peak over the loaded network."""
    model = resnext.create(name).eval()
    return peak_growth(lambda: seconds(model, int(batch)))
