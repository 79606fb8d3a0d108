"""The same on a GPU: images per second of ResNeXt-50 (32x4d), and how much of the card's peak that is.

    python benchmarks/inference_gpu.py [--runs N]

At 224 px, batches of 1 and 256, bfloat16 and float16: ours beside torchvision's and timm's network, each channels last,
as it is and under `torch.compile`. The images lie on the GPU, as float32, contiguous. Each turn of a contender is one
call that does not count, then so many that 256 images (or 50 calls) have passed. Where there is no GPU, a line says so.

Not one figure of it is known: it was written without a GPU at hand.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor

import resnext
from benchmarks import inference
from benchmarks.measure import interleave, machine, parser, ratio, table, target
from benchmarks.peers import PEERS, Run, run_torch, timm, torchvision
from benchmarks.result import Result
from resnext.inference.fold import relative_error
from resnext.inference.optimize import optimize

BATCHES = (1, 256)
PRECISIONS = ("bf16", "fp16")
MULTIPLY_ADDS = 4.23e9  # of an image: `python -m resnext info resnext50_32x4d_typeC`
PEAKS = {  # dense bfloat16 and float16, in 10^12 operations a second, from the makers' data sheets
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
}
RIVAL = "torchvision, torch.compile"
FASTER = 1.3  # than the rival


def main() -> int:
    """Measure, print; returns the exit status: 1 where the logits of two contenders differ."""
    arguments = parser(__doc__)
    options = arguments.parse_args()
    print(machine(), end="\n\n")
    return 1 if any(result.problems for result in run(options.runs)) else 0


def run(runs: int) -> list[Result]:
    """Measure; print the tables and the targets. Where there is no GPU the rows say "not measured"."""
    if not torch.cuda.is_available():
        rows = [f"ours, {precision}, batch {batch}" for precision in PRECISIONS for batch in BATCHES]
        missing = dict.fromkeys(rows, "not measured: no GPU here")
        print("\n" + table([("GPU", "images/s"), *missing.items()]))
        return [Result("inference", f"ResNeXt-50 at {inference.SIZE} px, GPU", "time per image", "s", {}, missing)]
    name = torch.cuda.get_device_name()
    peak = next((value for card, value in PEAKS.items() if card in name), None)
    print(f"\n{name}, CUDA {torch.version.cuda}; {runs} runs each, median\n")
    model = inference.make_model().to("cuda")
    return [measure(model, batch, precision, runs, peak) for precision in PRECISIONS for batch in BATCHES]


def measure(model: resnext.ResNeXt, batch: int, precision: str, runs: int, peak: float | None) -> Result:
    """One table; whether all logits agree. `peak` is the card's, in 10^12 operations a second."""
    device = next(model.parameters()).device
    x = torch.randn(batch, 3, inference.SIZE, inference.SIZE, device=device)
    contenders, missing = make_contenders(model, x, precision)
    logits = {name: call() for name, call in contenders.items()}
    ours = inference.OURS
    errors = {name: relative_error(value, logits[ours]) for name, value in logits.items()}
    times = interleave({name: partial(turn, call, batch, device) for name, call in contenders.items()}, runs)
    print(inference.compare(f"{precision}, batch {batch}", times, missing, errors), end="\n\n")
    if peak is not None:
        rate = 2 * MULTIPLY_ADDS / statistics.median(times[ours]) / 1e12
        print(f"ours: {rate:.0f} of {peak:.0f} TFLOP/s, {rate / peak:.0%} of the peak of the card")
    if RIVAL in times:
        text = f"ours takes at most 1/{FASTER} of the time of {RIVAL}"
        print(target(text, ratio(times[ours], times[RIVAL]), 1 / FASTER))
    print()
    limit = inference.LIMITS["bf16"]
    wrong = [
        f"{name}: its logits differ from ours by {error:.1e}" for name, error in errors.items() if not error <= limit
    ]
    for problem in wrong:
        print(problem, file=sys.stderr)
    title = f"ResNeXt-50 at {inference.SIZE} px, {device.type}, {precision}, batch {batch}"
    return Result("inference", title, "time per image", "s", times, missing, wrong)


def make_contenders(model: resnext.ResNeXt, x: Tensor, precision: str) -> tuple[dict[str, Run], dict[str, str]]:
    """What runs, and what does not and why."""

    def other(network: Any, compile: bool) -> Run:
        network = network.to(x.device, memory_format=torch.channels_last)
        return run_torch(torch.compile(network) if compile else network, x, precision)

    makers: dict[str, Callable[[], Run]] = {
        inference.OURS: lambda: partial(optimize(model, x, precision), x),
        "torchvision": lambda: other(torchvision(model), False),
        RIVAL: lambda: other(torchvision(model), True),
        "timm": lambda: other(timm(model), False),
    }
    missing = {
        name: "not installed"
        for name, package in PEERS.items()
        if name in makers and importlib.util.find_spec(package) is None
    }
    return {name: make() for name, make in makers.items() if name not in missing}, missing


def turn(call: Run, batch: int, device: torch.device) -> float:
    """Seconds per image."""
    call()
    calls = min(50, -(-256 // batch))
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return (time.perf_counter() - started) / (calls * batch)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
