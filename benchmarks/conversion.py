"""Speed and memory of converting a Torch7 checkpoint, beside the plain route (`plain_route.py`: torchfile, torch.save).

    python benchmarks/conversion.py [FILE.t7] [--runs N]

Time: that of a whole process, from its start to its end, interpreter and imports included, seen from outside; the runs
take turns. Ours also checks every value, computes three SHA-256 sums (source, tensors, .pth), writes the sidecar and
waits until the disk has it all; the plain route does none of that. But ours keeps Python's garbage collector away from
the import of torch, which is worth more than all of it costs, and the plain route does not know that trick. Memory:
growth of the peak resident set (VmHWM) over the resident set after the imports, seen inside a process of its own,
median of three; Linux alone.
"""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.measure import ROOT, interleave, machine, memory_status, parser, ratio, spread, table, target
from benchmarks.result import Result

SAMPLE = ROOT / "conversion" / "sample" / "cifar10_resnext11_4x8d_C_nested.t7.xz"
OURS, PLAIN, PROVED = "ours", "plain route", "ours, with the proof"
MEMORY_LIMIT = 1.3  # of the size of the .pth
TELLING_SIZE = 20e6  # bytes of a .pth below which Python's own memory outweighs the weights


def main() -> int:
    """Measure, print; returns the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("file", nargs="?", type=Path, metavar="FILE.t7", help="default: the sample that comes along")
    arguments.add_argument("--memory-of", choices=(OURS, PLAIN, PROVED), help="(used inside)")
    arguments.add_argument("--out", type=Path, help="(used inside)")
    options = arguments.parse_args()
    if options.memory_of:
        print(json.dumps(convert_here(options.memory_of, options.file, options.out)))
        return 0
    if options.file and not options.file.is_file():
        arguments.error(f"{options.file}: no such file")
    print(machine(), end="\n\n")
    run(options.runs, options.file)
    return 0


def run(runs: int, given: Path | None = None) -> list[Result]:
    """Measure with a file, or the sample of the repository; print the table and the targets."""
    with tempfile.TemporaryDirectory() as folder:
        source = given or unpack_sample(Path(folder))
        origin = "given" if given else "the sample of the repository"
        print(f"{source.name} ({origin}), {source.stat().st_size:,} bytes; {runs} runs each, median (quartiles)\n")
        return report(source.resolve(), Path(folder), runs)


def unpack_sample(folder: Path) -> Path:
    """The small genuine checkpoint of the repository, unpacked."""
    path = folder / SAMPLE.stem
    path.write_bytes(lzma.decompress(SAMPLE.read_bytes()))
    return path


def report(source: Path, folder: Path, runs: int) -> list[Result]:
    """The table and the targets for one file."""
    times = interleave({name: partial(seconds, name, source, folder) for name in (OURS, PLAIN, PROVED)}, runs)
    memory = interleave({name: partial(peak, name, source, folder) for name in (OURS, PLAIN, PROVED)}, min(runs, 3))
    rows = [("", "time of the process", "of the plain route", "growth of peak memory", "of the .pth")]
    for name in (OURS, PLAIN, PROVED):
        growth = [grown for grown, _ in memory[name] if grown is not None]
        size = memory[name][0][1]
        shown = spread(growth, "MB", 1e-6, 1) if growth else "not measured"
        multiple = f"{ratio(growth, [size]):.2f}" if growth else "-"
        rows.append((name, spread(times[name], "s"), f"{ratio(times[name], times[PLAIN]):.2f}", shown, multiple))
    print(table(rows), end="\n\n")

    print(target("ours takes at most the time of the plain route", ratio(times[OURS], times[PLAIN]), 1))
    growth, sizes = [grown for grown, _ in memory[OURS] if grown is not None], [size for _, size in memory[OURS]]
    text = f"ours grows by at most {MEMORY_LIMIT} times the size of the .pth ({sizes[0]:,} bytes)"
    if not growth:
        print(f"target  {text}: not measured")
    elif sizes[0] < TELLING_SIZE:
        print(f"target  {text}: meant for a full network; Python's own objects outweigh this one")
    else:
        print(target(text, ratio(growth, sizes), MEMORY_LIMIT))
    grown_by = {name: [float(value) for value, _ in memory[name] if value is not None] for name in memory}
    unknown = {name: "not measured: not Linux" for name in memory if not grown_by[name]}
    return [
        Result("conversion", source.name, "time of the process", "s", times),
        Result(
            "conversion",
            source.name,
            "growth of peak memory",
            "bytes",
            {name: values for name, values in grown_by.items() if values},
            unknown,
        ),
    ]


def options_of(name: str, source: str, out: str) -> list[str]:
    """Arguments of build_weights.py."""
    return ["--t7", source, "--out", out, *(["--no-verify"] if name == OURS else [])]


def seconds(name: str, source: Path, folder: Path) -> float:
    """Wall time of one conversion in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        if name == PLAIN:
            script, arguments = "benchmarks/plain_route.py", [str(source), f"{out}/plain.pth"]
        else:
            script, arguments = "conversion/build_weights.py", options_of(name, str(source), out)
        started = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def peak(name: str, source: Path, folder: Path) -> tuple[int | None, int]:
    """What `convert_here` says in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, __file__, str(source), "--memory-of", name, "--out", out]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    grown, size = json.loads(output.splitlines()[-1])
    return grown, size


def convert_here(name: str, source: Path, out: Path) -> tuple[int | None, int]:
    """Convert in this process. Growth of peak memory over what the imports took, if known; size of the .pth."""
    import torch  # noqa: F401

    from benchmarks import plain_route
    from conversion import build, build_weights  # noqa: F401

    before = memory_status("VmRSS")
    if name == PLAIN:
        plain_route.convert(str(source), str(out / "plain.pth"))
    elif status := build_weights.main(options_of(name, str(source), str(out))):
        raise SystemExit(status)
    after = memory_status("VmHWM")
    size = next(out.glob("*.pth")).stat().st_size
    return (after - before if after is not None and before is not None else None), size


if __name__ == "__main__":
    sys.exit(main())
