"""What can run a folded network, and which of them is fastest here."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from resnext.inference import onednn, onednn_graph
from resnext.inference.aoti import find_compiler, open_package, write_package
from resnext.inference.fold import FoldedResNeXt
from resnext.inference.grouping import widen_fastest
from resnext.weights.messages import first_line

Runner = Callable[[Tensor], Tensor]


def check(backend: str, device: torch.device) -> None:
    """Raise RuntimeError for a backend that is not to be had, where that can be known before any work is done."""
    if backend == "onednn" and device.type != "cpu":
        raise RuntimeError(f"backend 'onednn' is for the CPU, the network is on {device}; give backend='auto'")
    if backend == "inductor" and device.type == "cpu" and not find_compiler():
        raise RuntimeError(
            "backend 'inductor' needs a C++ compiler, and there is none (g++ or clang++, or what CXX names); "
            "install one, or give backend='eager'"
        )


def run_by(backend: str, network: FoldedResNeXt, piece: Tensor) -> tuple[Runner, str]:
    """`network.forward` for images of the very shape, type, layout and device of `piece`; and the backend that runs it.

    "auto" is the fastest one that works. `network` must not be used again.
    """
    if backend != "auto":
        return RUNNERS[backend](network, piece), backend
    *candidates, last = _candidates(piece)
    for candidate in candidates:
        # Asked here, not ahead: it imports Inductor, which takes a second.
        if candidate == "inductor" and piece.device.type == "cpu" and not find_compiler():
            continue
        try:
            return RUNNERS[candidate](network, piece), candidate
        except onednn_graph.UnavailableError:
            pass  # as on many machines
        except Exception as error:  # whatever a broken compiler leads to
            warnings.warn(
                f"backend {candidate!r} failed, trying the next: {type(error).__name__}: {first_line(error)}",
                stacklevel=3,
            )
    return RUNNERS[last](network, piece), last


def _candidates(piece: Tensor) -> list[str]:
    """What "auto" tries, the fastest first."""
    if piece.device.type != "cpu":
        return ["inductor", "eager"]
    if not onednn.supports(piece.dtype):
        return ["eager"]  # the compilers fall back to the same slow convolutions
    return ["onednn", "inductor", "eager"]


def _compile(network: FoldedResNeXt, piece: Tensor) -> Runner:
    if piece.device.type != "cpu":
        return _compile_for_gpu(network, piece)
    with tempfile.TemporaryDirectory() as folder:
        with torch.no_grad():
            program = torch.export.export(network, (piece,))
        write_package(program, Path(folder) / "resnext.pt2")
        package = open_package(Path(folder) / "resnext.pt2")

    def run(x: Tensor) -> Tensor:
        logits: Tensor = package.boxed_run([x])[0]
        return logits

    run(piece)
    return run


def _compile_for_gpu(network: FoldedResNeXt, piece: Tensor) -> Runner:
    """CUDA graphs and tuned kernels; groups as wide as is fastest. Not measured: written without a GPU at hand."""
    widen_fastest(network, piece)
    compiled = torch.compile(network, mode="max-autotune", dynamic=False)

    def run(x: Tensor) -> Tensor:
        # Always in the mode that it was compiled in, or it would be compiled again; the graph's output is overwritten.
        with torch.inference_mode(False), torch.no_grad():
            return compiled(x.clone()).clone()

    for _ in range(3):  # compile, record, replay
        run(piece)
    return run


def _run_eagerly(network: FoldedResNeXt, piece: Tensor) -> Runner:
    if piece.device.type == "cpu" and onednn.supports(network.dtype):
        onednn.pack(network, piece)
    network(piece)
    return network.forward  # not the module: `OptimizedResNeXt` has no parameters that `to` could move


RUNNERS = {"onednn": onednn_graph.build, "inductor": _compile, "eager": _run_eagerly}
