"""Images per second of ResNeXt-50 (32x4d) at 224 px on the CPU: ours beside torchvision, timm, ONNX Runtime, OpenVINO.

All contenders have the same random weights, torch's number of threads, and the same contiguous float32 images. The time
includes the conversion of the images to each contender's own layout and type, but no compilation. The logits are
compared with ours. A turn is one call that does not count and then enough calls for 16 images. Ratios are between
medians. A contender that is not installed gets a row that says so. The last lines check bfloat16: how often it finds
the same first class as float32 on 1,000 random images of 64 px. docs/performance.md says what was tried to be faster.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import resnext
from benchmarks.measure import Result, interleave, ratio, spread, target
from benchmarks.ready import import_package
from resnext.cli.command_line import table
from resnext.export import export
from resnext.inference import aoti
from resnext.inference.backends import find_compiler
from resnext.inference.fold import relative_error
from resnext.inference.optimize import PIECE, PRECISIONS, optimize
from resnext.inference.processor import amx_fault, announces_amx

IMAGES = 16  # per turn
SIZE = 224
OURS, INDUCTOR, PACKAGE = "ours", "ours, inductor", "ours, aoti package"
LIMITS = {"fp32": 1e-4, "bf16": 3e-2}  # largest relative difference between the logits of two contenders
RIVALS = {"fp32": ("ONNX Runtime", "OpenVINO"), "bf16": ("OpenVINO",)}
PACKAGES = {  # that the other contenders need
    "torchvision": ["torchvision"],
    "torchvision, torch.compile": ["torchvision"],
    "timm": ["timm", "torchvision"],
    "ONNX Runtime": ["onnxruntime", "onnxscript"],
    "OpenVINO": ["openvino", "onnxscript"],
}
Run = Callable[[], Tensor]


def run(options: Namespace) -> list[Result]:
    """Measure; print the tables, the targets and the accuracy of bf16."""
    print(f"ResNeXt-50 (32x4d), {SIZE} px, {torch.get_num_threads()} threads; {options.runs} runs each, median\n")
    model = make_model()
    with tempfile.TemporaryDirectory() as folder:
        results = [
            measure(model, batch, precision, options.runs, Path(folder))
            for precision in options.precision
            for batch in options.batch
        ]
    if "bf16" in options.precision:
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


def measure(model: resnext.ResNeXt, batch: int, precision: str, runs: int, folder: Path) -> Result:
    """Measure and print one table."""
    x = torch.randn(batch, 3, SIZE, SIZE)
    missing = find_missing(precision)
    makers = make_contenders(model, x, precision, folder)
    contenders = {name: make() for name, make in makers.items() if name not in missing}
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
        print(target("the package loads and gives its first logits in 1 s", first_logits(x, folder), 1))
    print()
    wrong = [
        f"{name}: its logits differ from ours by {error:.1e}"
        for name, error in errors.items()
        if not error <= LIMITS[precision]
    ]
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


def first_logits(x: Tensor, folder: Path) -> float:
    """Seconds until the package of `python -m resnext export --format aoti` is loaded and has run."""
    started = time.perf_counter()
    aoti.load(folder / "package.pt2")(x)
    return time.perf_counter() - started


def find_missing(precision: str) -> dict[str, str]:
    """The contenders that do not run here, and why."""
    missing = {
        name: f"not measured: {' and '.join(absent)} not installed"
        for name, packages in PACKAGES.items()
        if (absent := [package for package in packages if importlib.util.find_spec(package) is None])
    }
    if find_compiler() is None:
        missing |= dict.fromkeys((INDUCTOR, PACKAGE, "torchvision, torch.compile"), "no C++ compiler")
    if precision == "bf16":
        missing.setdefault("ONNX Runtime", "does not compute in bfloat16 on a CPU")
        if announces_amx() and (fault := amx_fault()):  # OpenVINO ignores ONEDNN_MAX_CPU_ISA
            missing.setdefault("OpenVINO", f"not measured: code that uses AMX {fault} here")
    return missing


def make_contenders(model: resnext.ResNeXt, x: Tensor, precision: str, folder: Path) -> dict[str, Callable[[], Run]]:
    """Functions that create the contenders."""

    def package() -> Run:
        path = folder / "package.pt2"
        export(model, path, "aoti", precision=precision, batch_size=min(len(x), PIECE[precision]))
        return partial(aoti.load(path), x)

    return {
        OURS: lambda: partial(optimize(model, x, precision), x),
        "ours, eager": lambda: partial(optimize(model, x, precision, "eager"), x),
        INDUCTOR: lambda: partial(optimize(model, x, precision, "inductor"), x),
        PACKAGE: package,
        "torchvision": lambda: run_torch(peer("torchvision", model), x, precision),
        "torchvision, torch.compile": lambda: run_torch(torch.compile(peer("torchvision", model)), x, precision),
        "timm": lambda: run_torch(peer("timm", model), x, precision),
        "ONNX Runtime": lambda: run_onnxruntime(write_onnx(model, folder), x),
        "OpenVINO": lambda: run_openvino(write_onnx(model, folder), x, precision),
    }


def run_torch(network: Any, x: Tensor, precision: str) -> Run:
    network = network.to(PRECISIONS[precision])

    def run() -> Tensor:
        with torch.no_grad():
            return network(x.to(PRECISIONS[precision])).float()

    return run


def peer(package: str, model: resnext.ResNeXt) -> nn.Module:
    """The network of torchvision or timm with our weights."""
    import_package("torchvision")  # timm needs it as well
    if package == "timm":
        network: nn.Module = importlib.import_module("timm").create_model("resnext50_32x4d")
    else:
        network = importlib.import_module("torchvision.models").resnext50_32x4d()
    network.load_state_dict(model.state_dict())
    return network.eval()


def write_onnx(model: resnext.ResNeXt, folder: Path) -> str:
    """The ONNX file, written by the first call."""
    path = folder / "resnext50.onnx"
    if not path.exists():
        torch.onnx.export(
            model,
            (torch.randn(2, 3, SIZE, SIZE),),
            path,
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["logits"],
        )
    return str(path)


def run_onnxruntime(path: str, x: Tensor) -> Run:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def run_openvino(path: str, x: Tensor, precision: str) -> Run:
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    network = core.read_model(path)
    network.reshape(list(x.shape))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    return lambda: torch.from_numpy(next(iter(request.infer([x.numpy()], share_inputs=True).values())))


@torch.no_grad()
def top1(model: resnext.ResNeXt, count: int = 1000, size: int = 64) -> None:
    """Print how often bfloat16 finds the same first class as float32, also where the margin exceeds the error."""
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
