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
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

import resnext
from benchmarks.measure import ROOT, interleave, machine, parser, ratio, spread, table, target
from benchmarks.ready import WAYS, import_package

LIMIT = 1 / 3  # of torchvision's time


def main() -> int:
    """Measure, print; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("file", nargs="?", type=Path, metavar="FILE.pth", help="default: made with random weights")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "resnext50_32x4d.pth"
        if options.file is None:
            torch.save(resnext.create("resnext50_32x4d_typeC").state_dict(), file)
        if not file.is_file():
            arguments.error(f"{file}: no such file")
        origin = "given" if options.file else "made here, random weights"
        print(f"{file.name} ({origin}), {file.stat().st_size:,} bytes; {options.runs} runs each, median (quartiles)")
        print(machine(), end="\n\n")
        in_one_process(str(file.resolve()), options.runs)
        in_fresh_processes(str(file.resolve()), options.runs)
    return 0


def in_one_process(file: str, runs: int) -> None:
    """The first table."""
    for name in WAYS:
        import_package(name)
    check_same(file)
    results = interleave({name: partial(load, name, file) for name in WAYS}, runs)
    ready = {name: [run[0] for run in results[name]] for name in WAYS}
    read = {name: [run[1] for run in results[name]] for name in WAYS}
    rows: list[tuple[str, ...]] = [
        ("in one process", "ready model", "of torchvision's", "every weight read", "of torchvision's")
    ]
    for name in WAYS:
        cells = [
            text
            for times in (ready, read)
            for text in (spread(times[name], "ms", 1e3, 0), f"{ratio(times[name], times['torchvision']):.2f}")
        ]
        rows.append((name, *cells))
    print(table(rows), end="\n\n")
    print(target("a ready model in a third of torchvision's time", ratio(ready["ours"], ready["torchvision"]), LIMIT))
    print()


def in_fresh_processes(file: str, runs: int) -> None:
    """The second table."""
    results = interleave({name: partial(load_afresh, name, file) for name in WAYS}, runs)
    sums = {name: [start + package + model for start, _, package, model in results[name]] for name in WAYS}
    rows: list[tuple[str, ...]] = [
        ("from process start", "start", "(torch)", "import", "model", "sum without torch", "of torchvision's")
    ]
    for name in WAYS:
        phases = [f"{statistics.median(phase) * 1e3:.0f} ms" for phase in zip(*results[name], strict=True)]
        rows.append((name, *phases, spread(sums[name], "ms", 1e3, 0), f"{ratio(sums[name], sums['torchvision']):.2f}"))
    print(table(rows), end="\n\n")
    print(target("the same from the start of a process", ratio(sums["ours"], sums["torchvision"]), LIMIT))


def check_same(file: str) -> None:
    """Both ways must give the same weights."""
    first, second = (WAYS[name](file).state_dict() for name in WAYS)
    if first.keys() != second.keys() or not all(torch.equal(value, second[key]) for key, value in first.items()):
        raise SystemExit(f"{file}: the two ways do not give the same weights")


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
