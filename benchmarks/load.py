"""Time from a .pth with the weights of resnext50_32x4d to a ready model: ours beside torchvision's usual way.

    python benchmarks/load.py [FILE.pth] [--runs N]

Ours: `resnext.create('resnext50_32x4d_typeC', weights=FILE)`. torchvision's: `resnext50_32x4d()`, then
`load_state_dict(torch.load(FILE))`. The file is in the page cache; the runs take turns. First table: in one process,
after the imports and a run that does not count. Ours maps the file into memory and leaves the reading to the first use,
so the time until every weight has been read (summed) once is shown as well. Second table: in fresh processes, from
their start; the import of torch itself, which both need, is left out of the sum.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

import resnext
from benchmarks.measure import ROOT, interleave, machine, parser, ratio, spread, table, target
from benchmarks.ready import WAYS, import_package
from benchmarks.result import Result

OURS, PEER = WAYS  # torchvision
READY_LIMIT, START_LIMIT = 1 / 3, 1 / 5  # of torchvision's time
IMPORT_LIMIT = 0.1  # seconds that the import of resnext adds to that of torch


def main() -> int:
    """Measure, print; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("file", nargs="?", type=Path, metavar="FILE.pth", help="default: made with random weights")
    options = arguments.parse_args()
    if options.file and not options.file.is_file():
        arguments.error(f"{options.file}: no such file")
    print(machine(), end="\n\n")
    run(options.runs, options.file)
    return 0


def run(runs: int, given: Path | None = None) -> list[Result]:
    """Measure with a file, or one made here; print the tables and the targets."""
    with tempfile.TemporaryDirectory() as folder:
        file = given or Path(folder) / "resnext50_32x4d.pth"
        if given is None:
            torch.save(resnext.create("resnext50_32x4d_typeC").state_dict(), file)
        origin = "given" if given else "made here, random weights"
        print(f"{file.name} ({origin}), {file.stat().st_size:,} bytes; {runs} runs each, median (quartiles)\n")
        missing = {name: "not installed" for name in WAYS if name != OURS and find_spec(name) is None}
        ways = [name for name in WAYS if name not in missing]
        results = in_one_process(str(file.resolve()), runs, ways) + in_fresh_processes(str(file.resolve()), runs, ways)
        for name, why in missing.items():
            print(f"{name}: {why}")
        return [replace(result, missing=missing) for result in results]


def in_one_process(file: str, runs: int, ways: Sequence[str]) -> list[Result]:
    """The first table."""
    for name in ways:
        import_package(name)
    check_same(file, ways)
    results = interleave({name: partial(load, name, file) for name in ways}, runs)
    ready = {name: [run[0] for run in results[name]] for name in ways}
    read = {name: [run[1] for run in results[name]] for name in ways}
    rows: list[tuple[str, ...]] = [
        ("in one process", "ready model", "of torchvision's", "every weight read", "of torchvision's")
    ]
    for name in ways:
        cells = [text for times in (ready, read) for text in (spread(times[name], "ms", 1e3, 0), share(times, name))]
        rows.append((name, *cells))
    print(table(rows), end="\n\n")
    if PEER in ways:
        print(target("a ready model in a third of torchvision's time", ratio(ready[OURS], ready[PEER]), READY_LIMIT))
        print()
    return [
        Result("load", "cached .pth to ready model, in one process", "time", "s", ready),
        Result("load", "the same, and every weight read once", "time", "s", read),
    ]


def in_fresh_processes(file: str, runs: int, ways: Sequence[str]) -> list[Result]:
    """The second table."""
    results = interleave({name: partial(load_afresh, name, file) for name in ways}, runs)
    sums = {name: [start + package + model for start, _, package, model in results[name]] for name in ways}
    rows: list[tuple[str, ...]] = [
        ("from process start", "start", "(torch)", "import", "model", "sum without torch", "of torchvision's")
    ]
    for name in ways:
        phases = [f"{statistics.median(phase) * 1e3:.0f} ms" for phase in zip(*results[name], strict=True)]
        rows.append((name, *phases, spread(sums[name], "ms", 1e3, 0), share(sums, name)))
    print(table(rows), end="\n\n")
    imports = {name: [package for _, _, package, _ in results[name]] for name in ways}
    text = f"import resnext adds at most {IMPORT_LIMIT} s to import torch"
    print(target(text, statistics.median(imports[OURS]), IMPORT_LIMIT))
    if PEER in ways:
        text = "from process start to a ready model in a fifth of torchvision's time"
        print(target(text, ratio(sums[OURS], sums[PEER]), START_LIMIT))
    return [
        Result("load", "process start to ready model, without torch's import", "time", "s", sums),
        Result("load", "import of the package, torch imported already", "time", "s", imports),
    ]


def share(times: Mapping[str, Sequence[float]], name: str) -> str:
    """Of torchvision's time."""
    return f"{ratio(times[name], times[PEER]):.2f}" if PEER in times else "-"


def check_same(file: str, ways: Sequence[str]) -> None:
    """All ways must give the same weights."""
    first, *others = (WAYS[name](file).state_dict() for name in ways)
    for other in others:
        if first.keys() != other.keys() or not all(torch.equal(value, other[key]) for key, value in first.items()):
            raise SystemExit(f"{file}: the ways do not give the same weights")


def load(name: str, file: str) -> tuple[float, float]:
    """Seconds until the model is ready, and until every weight has been read once."""
    started = time.perf_counter()
    model = WAYS[name](file)
    ready = time.perf_counter() - started
    for value in model.state_dict().values():
        value.sum()
    return ready, time.perf_counter() - started


def load_afresh(name: str, file: str) -> list[float]:
    """Seconds for the start, for torch, for the package and for the model, in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "ready.py"), file, name, repr(time.time())]
    result: list[float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


if __name__ == "__main__":
    sys.exit(main())
