"""The backends that can run a folded network, and the choice of the fastest that works here.

On a CPU: oneDNN Graph, the graph compiler of the oneDNN library, which torch reaches through TorchScript (x86, float32
and bfloat16). It runs convolution, residual sum and ReLU as one operation, packs the weights once, and keeps what
single operators look up again at every call (20 to 30 us for each of 53). Otherwise AOTInductor, torch's ahead-of-time
compiler, which calls those operators; "eager" calls them uncompiled. On a GPU: `torch.compile`, or plain torch.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from resnext.inference import private_torch
from resnext.inference.fold import FoldedConv, FoldedResNeXt
from resnext.weights.files import first_line

Runner = Callable[[Tensor], Tensor]
WARM_UP = 3  # calls: TorchScript looks at the first and compiles in the second
_SETTINGS = threading.RLock()  # held while a setting of the whole process is changed


class UnavailableError(RuntimeError):
    """This torch has no oneDNN Graph, or has none for this type or processor."""


def check(backend: str, device: torch.device) -> None:
    """Raise RuntimeError for a backend that cannot be used, where that is known before any work is done."""
    if backend == "onednn" and device.type != "cpu":
        raise RuntimeError(f"backend 'onednn' is for the CPU, the network is on {device}; give backend='auto'")
    if backend == "inductor" and device.type == "cpu" and not find_compiler():
        raise RuntimeError(
            "backend 'inductor' needs a C++ compiler, and there is none (g++ or clang++, or what CXX names); "
            "install one, or give backend='eager'"
        )


def find_compiler() -> str | None:
    """The C++ compiler that Inductor would use: what `CXX` names, else the platform's. None where there is none."""
    return shutil.which(os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))


def run_by(backend: str, network: FoldedResNeXt, piece: Tensor, device: torch.device) -> tuple[Runner, str]:
    """`network.forward` for images of exactly the shape, type and layout of `piece`, and the backend that runs it.

    "auto" is the fastest one that works on `device`.
    """
    runners = ON_CPU if device.type == "cpu" else ON_GPU
    if backend != "auto":
        return runners[backend](network, piece), backend
    *candidates, last = runners
    if device.type == "cpu" and not private_torch.onednn_computes_in(piece.dtype):
        candidates = []  # the compilers fall back to the same slow convolutions
    for candidate in candidates:
        if candidate == "inductor" and device.type == "cpu" and not find_compiler():
            continue
        try:
            return runners[candidate](network, piece), candidate
        except UnavailableError:
            pass  # as on many machines
        except Exception as error:  # whatever a broken compiler leads to
            warnings.warn(
                f"backend {candidate!r} failed, trying the next: {type(error).__name__}: {first_line(error)}",
                stacklevel=3,
            )
    return runners[last](network, piece), last


@contextlib.contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """No autocast, and on a GPU no TF32, which torch allows in convolutions by default.

    TF32 is a setting of the whole process: one thread at a time changes it, and it is restored.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type == "cpu":
            yield
            return
        cudnn = torch.backends.cudnn
        with _SETTINGS:
            before = torch.get_float32_matmul_precision()
            flags = cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)
            with flags:
                torch.set_float32_matmul_precision("highest")
                try:
                    yield
                finally:
                    torch.set_float32_matmul_precision(before)


def _by_graph(network: FoldedResNeXt, piece: Tensor) -> Runner:
    """Takes about a second. Raises UnavailableError."""
    with _fusing(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript; there is no other way to oneDNN Graph
        function = torch.jit.freeze(torch.jit.trace(network, piece, check_trace=False))
        for _ in range(WARM_UP):
            function(piece)
        graph = str(function.graph_for(piece))
    if "oneDNNFusionGroup" not in graph:
        raise UnavailableError(f"torch has no oneDNN Graph for {piece.dtype} on this processor")
    run: Runner = function.forward
    return run


@contextlib.contextmanager
def _fusing() -> Iterator[None]:
    """Switch on TorchScript's use of oneDNN Graph, a setting of the whole process, while it compiles."""
    with _SETTINGS:
        try:
            before = torch.jit.onednn_fusion_enabled()
            torch.jit.enable_onednn_fusion(True)
        except (AttributeError, RuntimeError) as error:
            raise UnavailableError(f"torch has no oneDNN Graph: {error}") from None
        try:
            yield
        finally:
            torch.jit.enable_onednn_fusion(before)


def _by_package(network: FoldedResNeXt, piece: Tensor) -> Runner:
    """Not `torch.compile`: a package has no guards, so it is not compiled again in another grad mode."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        package = Path(folder) / "resnext.pt2"
        private_torch.compile_package(torch.export.export(network, (piece,)), package)
        run = private_torch.open_package(str(package))
        run(piece)
    return run


def _packed(network: FoldedResNeXt, piece: Tensor) -> Runner:
    if private_torch.onednn_computes_in(network.dtype):
        network = copy.deepcopy(network)
        _pack(network, piece)
    network(piece)
    return network.forward  # not the module: `OptimizedResNeXt` has no parameters that `to` could move


def _pack(network: FoldedResNeXt, piece: Tensor) -> None:
    """Let oneDNN run every convolution, packed for the size of input that `piece` leads to."""
    sizes: dict[nn.Module, torch.Size] = {}
    convs = [module for module in network.modules() if isinstance(module, FoldedConv)]
    handles = [
        conv.register_forward_pre_hook(lambda module, inputs: sizes.__setitem__(module, inputs[0].shape))
        for conv in convs
    ]
    network(piece)
    for handle in handles:
        handle.remove()
    for conv in convs:
        conv.packed = private_torch.packed_convolution(conv, conv.relu, sizes[conv])
        if conv.packed is not None:
            conv.weight = None  # type: ignore[assignment]


def _by_torch_compile(network: FoldedResNeXt, piece: Tensor) -> Runner:
    compiled: Runner = torch.compile(network.forward)
    compiled(piece)
    return compiled


# The fastest first.
ON_CPU = {"onednn": _by_graph, "inductor": _by_package, "eager": _packed}
ON_GPU = {"inductor": _by_torch_compile, "eager": lambda network, _: network.forward}
