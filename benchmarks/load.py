"""Time from a .pth with the weights of resnext50_32x4d to a ready model: ours beside torchvision's usual way.

Ours: as `pretrained=True` loads a file from its cache, mapped into memory. torchvision's: `resnext50_32x4d()`, then
`load_state_dict(torch.load(FILE))`. The file is in the page cache. First table: in one process, after the imports and a
run that does not count; also the time until every weight has been read (summed) once. Second table: in fresh processes,
from their start; the sum leaves out the import of torch, which both need.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

import resnext
from benchmarks.measure import Result, afresh, interleave, ratio, spread, target
from benchmarks.ready import WAYS, import_package
from resnext.cli.command_line import table

OURS, PEER = WAYS  # torchvision
READY_LIMIT, START_LIMIT = 1 / 3, 1 / 5  # of torchvision's time
IMPORT_LIMIT = 0.1  # seconds that the import of resnext adds to that of torch


def run(options: Namespace) -> list[Result]:
    """Measure with the given file or a new one; print the tables and the targets."""
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "resnext50_32x4d.pth"
        if options.file is None:
            torch.save(resnext.create("resnext50_32x4d_typeC").state_dict(), file)
        origin = "given" if options.file else "new, random weights"
        print(f"{file.name} ({origin}), {file.stat().st_size:,} bytes; {options.runs} runs each, median (quartiles)\n")
        missing = {PEER: "not installed"} if find_spec(PEER) is None else {}
        ways, path = [name for name in WAYS if name not in missing], str(file.resolve())
        results = in_one_process(path, options.runs, ways) + in_fresh_processes(path, options.runs, ways)
        for name, why in missing.items():
            print(f"{name}: {why}")
        return [replace(result, missing=missing) for result in results]


def in_one_process(file: str, runs: int, ways: Sequence[str]) -> list[Result]:
    """The first table."""
    for name in ways:
        import_package(name)
    check_same(file, ways)
    results = interleave({name: partial(load, name, file) for name in ways}, runs)
    ready, read = ({name: [run[i] for run in results[name]] for name in ways} for i in (0, 1))
    rows = [["in one process", "ready model", "of torchvision's", "every weight read", "of torchvision's"]]
    for name in ways:
        shown = [(spread(times[name], "ms", 1e3, 0), share(times, name)) for times in (ready, read)]
        rows.append([name, *shown[0], *shown[1]])
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

    def phases(name: str) -> list[float]:
        result: list[float] = afresh("ready", "phases", file, name, repr(time.time()))
        return result

    results = interleave({name: partial(phases, name) for name in ways}, runs)
    sums = {name: [start + package + model for start, _, package, model in results[name]] for name in ways}
    rows = [["from process start", "start", "(torch)", "import", "model", "sum without torch", "of torchvision's"]]
    for name in ways:
        medians = [f"{statistics.median(phase) * 1e3:.0f} ms" for phase in zip(*results[name], strict=True)]
        rows.append([name, *medians, spread(sums[name], "ms", 1e3, 0), share(sums, name)])
    print(table(rows), end="\n\n")
    imports = {name: [package for _, _, package, _ in results[name]] for name in ways}
    text = f"the import of resnext adds at most {IMPORT_LIMIT} s to that of torch"
    print(target(text, statistics.median(imports[OURS]), IMPORT_LIMIT))
    if PEER in ways:
        text = "from process start to a ready model in a fifth of torchvision's time"
        print(target(text, ratio(sums[OURS], sums[PEER]), START_LIMIT))
    return [
        Result("load", "process start to ready model, without torch's import", "time", "s", sums),
        Result("load", "import of the package, torch imported already", "time", "s", imports),
    ]


def share(times: Mapping[str, Sequence[float]], name: str) -> str:
    """The median as a fraction of torchvision's."""
    return f"{ratio(times[name], times[PEER]):.2f}" if PEER in times else "-"


def check_same(file: str, ways: Sequence[str]) -> None:
    """Raise RuntimeError if the ways do not load the same weights."""
    first, *others = (WAYS[name](file).state_dict() for name in ways)
    for other in others:
        if first.keys() != other.keys() or not all(torch.equal(value, other[key]) for key, value in first.items()):
            raise RuntimeError(f"{file}: the ways do not load the same weights")


def load(name: str, file: str) -> tuple[float, float]:
    """Seconds until the model is ready, and until every weight has been read once."""
    started = time.perf_counter()
    model = WAYS[name](file)
    ready = time.perf_counter() - started
    for value in model.state_dict().values():
        value.sum()
    return ready, time.perf_counter() - started
