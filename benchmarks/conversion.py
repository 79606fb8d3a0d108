"""Speed and memory of converting a Torch7 checkpoint, beside the plain route (`plain_route.py`: torchfile, torch.save).

Time: a whole process from start to end, with interpreter and imports, measured from outside. Ours also checks every
value, computes three SHA-256 sums (of the .t7, the tensors and the .pth), writes the sidecar and waits until everything
is on the disk; the plain route does none of that. Memory: growth of the peak resident set (VmHWM) over the resident set
after the imports, in a process of its own, median of three; only on Linux.

When the times in results.json were measured, ours switched Python's garbage collector off while it imported torch.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

from benchmarks.measure import ROOT, Result, afresh, interleave, peak_growth, ratio, spread, target
from resnext.cli.command_line import table

SAMPLE = ROOT / "conversion" / "sample" / "cifar10_resnext11_4x8d_C_nested.t7.xz"
OURS, PLAIN, PROVED = "ours", "plain route", "ours, with the proof"
MEMORY_LIMIT = 1.3  # of the size of the .pth
TELLING_SIZE = 20e6  # bytes of a .pth; below, Python's own memory outweighs the weights


def run(options: Namespace) -> list[Result]:
    """Measure with a file, or the sample of the repository; print the table and the targets."""
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / SAMPLE.stem
        if options.file is None:
            file.write_bytes(lzma.decompress(SAMPLE.read_bytes()))
        origin = "given" if options.file else "the sample of the repository"
        print(f"{file.name} ({origin}), {file.stat().st_size:,} bytes; {options.runs} runs each, median (quartiles)\n")
        return report(file.resolve(), Path(folder), options.runs)


def report(file: Path, folder: Path, runs: int) -> list[Result]:
    """The table and the targets for one file."""
    names = (OURS, PLAIN, PROVED)
    times = interleave({name: partial(seconds, name, file, folder) for name in names}, runs)
    memory = interleave({name: partial(peak, name, file, folder) for name in names}, min(runs, 3))
    grown = {name: [float(growth) for growth, _ in memory[name] if growth is not None] for name in names}
    grown = {name: values for name, values in grown.items() if values}
    sizes = {name: memory[name][0][1] for name in names}
    rows = [("", "time of the process", "of the plain route", "growth of peak memory", "of the .pth")]
    for name in names:
        shown, multiple = "not measured", "-"
        if name in grown:
            shown, multiple = spread(grown[name], "MB", 1e-6, 1), f"{ratio(grown[name], [sizes[name]]):.2f}"
        rows.append((name, spread(times[name], "s"), f"{ratio(times[name], times[PLAIN]):.2f}", shown, multiple))
    print(table(rows), end="\n\n")

    print(target("ours takes at most the time of the plain route", ratio(times[OURS], times[PLAIN]), 1))
    text = f"ours grows by at most {MEMORY_LIMIT} times the size of the .pth ({sizes[OURS]:,} bytes)"
    if OURS not in grown:
        print(f"target  {text}: not measured")
    elif sizes[OURS] < TELLING_SIZE:
        print(f"target  {text}: meant for a full network; Python's own objects outweigh this one")
    else:
        print(target(text, ratio(grown[OURS], [sizes[OURS]]), MEMORY_LIMIT))
    unknown = {name: "not measured: not Linux" for name in names if name not in grown}
    return [
        Result("conversion", file.name, "time of the process", "s", times),
        Result("conversion", file.name, "growth of peak memory", "bytes", grown, unknown),
    ]


def options_of(name: str, file: str, out: str) -> list[str]:
    """Arguments of build_weights.py."""
    return ["--t7", file, "--out", out, *(["--no-verify"] if name == OURS else [])]


def seconds(name: str, file: Path, folder: Path) -> float:
    """Wall time of one conversion in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        if name == PLAIN:
            script, arguments = "benchmarks/plain_route.py", [str(file), f"{out}/plain.pth"]
        else:
            script, arguments = "conversion/build_weights.py", options_of(name, str(file), out)
        started = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def peak(name: str, file: Path, folder: Path) -> tuple[int | None, int]:
    """The result of `convert_here` in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        grown, size = afresh("conversion", "convert_here", name, str(file), out)
    return grown, size


def convert_here(name: str, file: str, out: str) -> tuple[int | None, int]:
    """Convert in this process. Returns how far memory grew after the imports, if known, and the size of the .pth."""
    import torch  # noqa: F401

    from benchmarks import plain_route
    from conversion import build, build_weights  # noqa: F401

    def convert() -> None:
        if name == PLAIN:
            plain_route.convert(file, f"{out}/plain.pth")
        elif status := build_weights.main(options_of(name, file, out)):
            raise SystemExit(status)

    grown = peak_growth(convert)
    return grown, next(Path(out).glob("*.pth")).stat().st_size
