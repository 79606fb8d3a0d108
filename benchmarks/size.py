"""Cost against size: time and peak memory of ResNeXt-50, -101 and -152 (32x4d) at 224 px, for batches from 1 to 64.

    python benchmarks/size.py [--runs N]

The networks as `resnext.create` builds them, in float32, with random weights and without gradients. Time: per image;
all networks and batches take turns, at most 3 runs each. Memory: the growth of the peak resident set (VmHWM) over the
resident set of the loaded network, in a process of its own; Linux alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

import resnext
from benchmarks.measure import ROOT, interleave, machine, memory_status, parser, spread, table
from benchmarks.result import Result

NETWORKS = ("resnext50_32x4d", "resnext101_32x4d", "resnext152_32x4d")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
RUNS = 3  # at most: a round takes a minute
TIME, MEMORY = "time per image", "growth of peak memory"


def main() -> int:
    """Measure, print; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("--memory-of", nargs=2, metavar=("NETWORK", "BATCH"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.memory_of:
        print(json.dumps(memory_here(options.memory_of[0], int(options.memory_of[1]))))
        return 0
    print(machine(), end="\n\n")
    run(options.runs)
    return 0


def run(runs: int) -> list[Result]:
    """Measure; print the table."""
    runs = min(runs, RUNS)
    print(f"224 px, {torch.get_num_threads()} threads; {runs} runs each, median (quartiles)\n")
    models = {name: resnext.create(name).eval() for name in NETWORKS}
    points = {f"{name}, batch {batch}": (name, batch) for name in NETWORKS for batch in BATCHES}
    contenders = {label: partial(seconds, models[name], batch) for label, (name, batch) in points.items()}
    times = interleave(contenders, runs)
    grown = {label: memory(name, batch) for label, (name, batch) in points.items()}
    rows: list[tuple[str, ...]] = [("network", "batch", TIME, MEMORY)]
    results = []
    for batch in BATCHES:
        labels = {name: f"{name}, batch {batch}" for name in NETWORKS}
        for name, label in labels.items():
            growth = grown[label]
            shown = "not measured" if growth is None else f"{growth / 1e6:.0f} MB"
            rows.append((name, str(batch), spread(times[label], "ms", 1e3, 1), shown))
        known = {name: [float(growth)] for name in NETWORKS if (growth := grown[labels[name]]) is not None}
        unknown = {name: "not measured: not Linux" for name in NETWORKS if name not in known}
        title = f"batch {batch}"
        seen = {name: times[label] for name, label in labels.items()}
        results.append(Result("size", title, TIME, "s", seen, batch=batch))
        results.append(Result("size", title, MEMORY, "bytes", known, unknown, batch=batch))
    rows[1:] = sorted(rows[1:], key=lambda row: NETWORKS.index(row[0]))
    print(table(rows))
    return results


def seconds(model: torch.nn.Module, batch: int) -> float:
    """Per image."""
    images = torch.randn(batch, 3, 224, 224)
    started = time.perf_counter()
    with torch.no_grad():
        model(images)
    return (time.perf_counter() - started) / batch


def memory(name: str, batch: int) -> int | None:
    """What `memory_here` says in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "size.py"), "--memory-of", name, str(batch)]
    result: int | None = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def memory_here(name: str, batch: int) -> int | None:
    """Bytes by which the peak grows over the loaded network when `batch` images run."""
    model = resnext.create(name).eval()
    before = memory_status("VmRSS")
    seconds(model, batch)
    after = memory_status("VmHWM")
    return None if before is None or after is None else after - before


if __name__ == "__main__":
    sys.exit(main())
