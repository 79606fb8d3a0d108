"""Images per second of ResNeXt-50 (32x4d) at 224 px on the CPU: ours beside torchvision, timm, ONNX Runtime, OpenVINO.

    python benchmarks/inference.py [--runs N] [--batch N ...] [--precision fp32|bf16 ...]

All have the same random weights, as many threads as torch, and the same contiguous float32 images (the conversion to
the network's layout and type is measured); the logits of each are compared with ours. Each turn of a contender is one
call that does not count, then so many that 16 images have passed; they take turns. Ratios are of median times. Whoever
is not installed gets a row that says so. Compilation is not measured here. The last lines check bfloat16: how often the
first class is float32's, on 1,000 random images of 64 px.

Notes: what was tried for `resnext.optimize`, on two cores of an AMD EPYC (Zen 5, AVX-512, bf16), torch 2.13, and what
it gave, in ms for an image. Differences under 2 % are within the noise of a quiet machine. "In the network" is with the
weights of all layers (100 MB in fp32) going through the cache between two images; a layer alone is faster.

    oneDNN Graph, by way of TorchScript    adopted. Batch 1: 20.9 against 21.4 of AOTInductor in fp32, 10.8 against 11.5
                                           in bf16. Both call the same kernels of oneDNN, which OpenVINO calls too, and
                                           which take 20.0 (bf16: 10.0): the 1x1 convolutions, 85 % of it, reach 480 of
                                           the 512 GFLOP/s that two cores have (bf16: 1,000 of 1,024). What differs is
                                           what surrounds them, 39 fused pieces here, 55 operators there. It builds in a
                                           second; AOTInductor takes 8 to 30.
    AOTInductor, not torch.compile         adopted where there is no oneDNN Graph. No guards, so no recompilation in
                                           another grad mode or for another batch; no Python between the kernels.
    weights packed for the very input size adopted. Packed without it, oneDNN rearranges 17 of 53 weights at every call:
                                           a batch of one takes 5 to 10 times as long. torch.compile with a dynamic
                                           batch packs nothing at all.
    a batch in pieces                      adopted: of 2 images in fp32, 4 in bf16. At batch 16 maps of 51 MB come from
                                           the system anew at every call. Pieces of 1, 2, 4, 8: 21.0, 20.5, 21.0, 23.8
                                           in fp32; 11.1, 10.5, 10.1, 10.4 in bf16.
    huge pages for weights and heap        adopted: 1 to 1.5 %.
    residual sum in place (sum post-op)    adopted; Inductor and oneDNN Graph do it as well.
    input converted ahead of the graph     adopted: to bf16 and channels last torch's two copies take 0.05, Inductor's
                                           loop more.
    a kernel of our own for groups of 4    not adopted. Written with 16 output channels of 4 groups side by side in a
                                           vector, it takes 0.09 for a layer of the first stage where oneDNN takes 0.30
                                           (groups of 8: 0.085 against 0.16). In the network that is 0.12 to 0.17
                                           against 0.27, and it cuts the graph: 0.2 of 20.9 in fp32, nothing in bf16.
    wider groups (zeros between the paths) not on a CPU. By the rates of each width: groups of 4 reach 107 GFLOP/s, 8
                                           reach 201, 16 reach 367: twice the work, twice the rate (bf16: 187, 396,
                                           688).
    classifier as a convolution, as addmv  no gain: 0.27 and 0.39 against 0.23.
    malloc that keeps its memory           no gain with pieces: no page is faulted in then.
    one thread per image instead of two    no gain.
    GOMP_SPINCOUNT, OMP_PROC_BIND          no gain.
    space-to-depth stem                    not adopted: 4x4 on 12 channels takes 0.71, 7x7 on 3 takes 0.52 (bf16: 0.37
                                           against 0.32).
    stem and max pooling in one            not tried: the pooling takes 0.08, 0.4 % of the network.

What is left at batch 1 (0 to 4 % to OpenVINO in fp32, 2 to 6 % in bf16, in three runs; the target is missed): each of
the 39 pieces costs some 4 us when called again and again, and some 15 us in the network, where its data have left the
cache meanwhile. At batch 16 ours is ahead by 3 to 7 % in fp32, and in bf16 by 8 % to behind by 1 %.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor, nn

import resnext
from benchmarks.measure import interleave, machine, parser, ratio, spread, table, target
from benchmarks.peers import PEERS, Run, run_onnxruntime, run_openvino, run_torch, timm, torchvision, write_onnx
from benchmarks.result import Result
from resnext.export import export
from resnext.inference import aoti
from resnext.inference.backends import find_compiler
from resnext.inference.fold import relative_error
from resnext.inference.optimize import PIECE, optimize

IMAGES = 16  # in a turn
BATCHES = [1, 16]
SIZE = 224
OURS, INDUCTOR, PACKAGE = "ours", "ours, inductor", "ours, aoti package"
LIMITS = {"fp32": 1e-4, "bf16": 3e-2}  # between the logits of two contenders
RIVALS = {"fp32": ("ONNX Runtime", "OpenVINO"), "bf16": ("OpenVINO",)}


def main() -> int:
    """Measure, print; returns the exit status: 1 where the logits of two contenders differ."""
    arguments = parser(__doc__)
    arguments.add_argument("--batch", type=int, nargs="+", default=BATCHES, metavar="N", help="default: 1 16")
    arguments.add_argument("--precision", nargs="+", choices=LIMITS, default=list(LIMITS), help="default: both")
    options = arguments.parse_args()
    if min(options.batch) < 1:
        arguments.error("argument --batch: expected 1 or more")
    print(machine(), end="\n\n")
    results = run(options.runs, options.batch, options.precision)
    return 1 if any(result.problems for result in results) else 0


def run(runs: int, batches: Sequence[int] = BATCHES, precisions: Sequence[str] = tuple(LIMITS)) -> list[Result]:
    """Measure; print the tables, the targets and the accuracy of bf16."""
    print(f"ResNeXt-50 (32x4d), {SIZE} px, {torch.get_num_threads()} threads; {runs} runs each, median\n")
    model = make_model()
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "resnext50.onnx"
        results = [measure(model, batch, precision, runs, onnx) for precision in precisions for batch in batches]
    if "bf16" in precisions:
        top1(model)
    return results


def make_model() -> resnext.ResNeXt:
    """The network with random weights and statistics."""
    torch.manual_seed(0)
    model = resnext.create("resnext50_32x4d_typeC").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def measure(model: resnext.ResNeXt, batch: int, precision: str, runs: int, onnx: Path) -> Result:
    """One table; whether all logits agree."""
    x = torch.randn(batch, 3, SIZE, SIZE)
    contenders, missing = make_contenders(model, x, precision, onnx)
    logits = {name: run() for name, run in contenders.items()}
    errors = {name: relative_error(value, logits[OURS]) for name, value in logits.items()}
    times = interleave({name: partial(turn, run, batch) for name, run in contenders.items()}, runs)
    print(compare(f"{precision}, batch {batch}", times, missing, errors), end="\n\n")
    rivals = [name for name in RIVALS[precision] if name in times]
    if rivals:
        best = min(rivals, key=lambda name: statistics.median(times[name]))
        print(target(f"ours takes at most the time of {best}", ratio(times[OURS], times[best]), 1))
    if PACKAGE in times:
        value = ratio(times[PACKAGE], times[INDUCTOR])
        print(target("the package takes at most 1/0.95 of the time of what was compiled here", value, 1 / 0.95))
        print(target("the package loads and gives its first logits in 1 s", first_logits(x, onnx.parent), 1))
    print()
    wrong = [
        f"{name}: its logits differ from ours by {error:.1e}"
        for name, error in errors.items()
        if not error <= LIMITS[precision]
    ]
    for problem in wrong:
        print(problem, file=sys.stderr)
    title = f"ResNeXt-50 at {SIZE} px, {precision}, batch {batch}"
    return Result("inference", title, "time per image", "s", times, missing, wrong)


def compare(
    title: str, times: Mapping[str, Sequence[float]], missing: Mapping[str, str], errors: Mapping[str, float]
) -> str:
    """The table, the fastest first."""
    rows = [(title, "images/s", "ms per image (quartiles)", f"time over {OURS}", "logits differ by")]
    for name in sorted(times, key=lambda name: statistics.median(times[name])):
        median = statistics.median(times[name])
        relative = f"{ratio(times[name], times[OURS]):.2f}"
        rows.append((name, f"{1 / median:.1f}", spread(times[name], "ms", 1e3), relative, f"{errors[name]:.0e}"))
    return table(rows + [(name, why, "", "", "") for name, why in missing.items()])


def turn(run: Run, batch: int) -> float:
    """Seconds per image."""
    run()
    calls = -(-IMAGES // batch)
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - started) / (calls * batch)


def write_package(model: resnext.ResNeXt, x: Tensor, precision: str, folder: Path) -> Path:
    """What `python -m resnext export --format aoti` writes, for as many images as `optimize` runs at once."""
    path = folder / "package.pt2"
    export(model, path, "aoti", precision=precision, batch_size=min(x.shape[0], PIECE[precision]))
    return path


def first_logits(x: Tensor, folder: Path) -> float:
    """Seconds."""
    started = time.perf_counter()
    aoti.load(folder / "package.pt2")(x)
    return time.perf_counter() - started


def make_contenders(
    model: resnext.ResNeXt, x: Tensor, precision: str, onnx: Path
) -> tuple[dict[str, Run], dict[str, str]]:
    """What runs, and what does not and why."""
    makers: dict[str, Callable[[], Run]] = {
        OURS: lambda: partial(optimize(model, x, precision), x),
        "ours, eager": lambda: partial(optimize(model, x, precision, "eager"), x),
        INDUCTOR: lambda: partial(optimize(model, x, precision, "inductor"), x),
        PACKAGE: lambda: partial(aoti.load(write_package(model, x, precision, onnx.parent)), x),
        "torchvision": lambda: run_torch(torchvision(model), x, precision),
        "torchvision, torch.compile": lambda: run_torch(torch.compile(torchvision(model)), x, precision),
        "timm": lambda: run_torch(timm(model), x, precision),
        "ONNX Runtime": lambda: run_onnxruntime(write_onnx(model, onnx), x),
        "OpenVINO": lambda: run_openvino(write_onnx(model, onnx), x, precision),
    }
    missing = {name: "not installed" for name, package in PEERS.items() if importlib.util.find_spec(package) is None}
    if find_compiler() is None:
        missing |= dict.fromkeys((INDUCTOR, PACKAGE, "torchvision, torch.compile"), "no C++ compiler")
    if importlib.util.find_spec("onnxscript") is None:
        missing |= dict.fromkeys(("ONNX Runtime", "OpenVINO"), "not measured: onnxscript is not installed")
    if precision == "bf16":
        missing.setdefault("ONNX Runtime", "does not compute in bfloat16 on a CPU")
    contenders = {name: make() for name, make in makers.items() if name not in missing}
    return contenders, missing


@torch.no_grad()
def top1(model: resnext.ResNeXt, count: int = 1000, size: int = 64) -> None:
    """How often bfloat16 finds float32's first class, where the second is further away than the error."""
    x = torch.randn(count, 3, size, size)
    expected = torch.cat([model(part) for part in torch.split(x, 50)])
    got = optimize(model, x, "bf16")(x)
    first, second = expected.topk(2).values.unbind(1)
    clear = first - second > 2 * (got - expected).abs().amax(1)
    same = got.argmax(1) == expected.argmax(1)
    print(
        f"bf16 on {count} random images of {size} px: logits differ by {relative_error(got, expected):.1e}; the same "
        f"first class for {same.sum()}, and for {same[clear].sum()} of the {clear.sum()} with a margin above the error"
    )


if __name__ == "__main__":
    sys.exit(main())
