"""The same network, faster: `resnext.optimize`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from resnext import onednn
from resnext.fold import FoldedResNeXt, allowed_error, check_model, fold, relative_error
from resnext.grouping import widen_fastest
from resnext.huge_pages import huge_pages
from resnext.model import ResNeXt

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BACKENDS = ("auto", "inductor", "eager")
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}  # relative, from the logits in double precision
PIECE = 4  # images: their maps stay in the cache, and the weights are read once for all of them


class OptimizedResNeXt(nn.Module):
    """What `optimize` returns. Floating point (N, in_channels, H, W) -> float32 logits (N, num_classes), no gradients.

    `backend` says what runs: "inductor" (compiled) or "eager"; `precision` is that of `optimize`. H and W are those of
    the example. N is free: a batch runs in pieces of `piece` images, the last one filled up with zeros, so a batch of
    1 takes as long as a full piece. Give an example of the batch size that is to be fast.

    It has no parameters, and stays on the device that it was made on. May be called from several threads. Cannot be
    trained, copied or pickled: keep the network that it was made of, or export it (`python -m resnext export`).
    """

    def __init__(
        self, run: Callable[[Tensor], Tensor], example: Tensor, backend: str, precision: str, piece: int
    ) -> None:
        """`run` takes images (piece, in_channels, H, W) in `precision`, channels last."""
        super().__init__()
        self.backend, self.precision, self.piece = backend, precision, piece
        self._run, self._image, self._device = run, tuple(example.shape[1:]), example.device
        super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or tuple(x.shape[1:]) != self._image or not x.is_floating_point() or x.device != self._device:
            shape = ", ".join(map(str, self._image))
            raise ValueError(
                f"expected floating point images (N, {shape}) on {self._device}, as those it was optimized for, "
                f"got {tuple(x.shape)} of {x.dtype} on {x.device}; optimize again with such an example"
            )
        # An empty batch runs a piece as well: its output has the shape of what comes out.
        pieces = [self._run_piece(part) for part in torch.split(x, self.piece)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _run_piece(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        if count < self.piece:
            x = torch.cat([x, x.new_zeros(self.piece - count, *self._image)])
        return self._run(_laid_out(x, self.precision))[:count]

    def train(self, mode: bool = True) -> OptimizedResNeXt:
        """Raises RuntimeError for `mode=True`: the weights are frozen."""
        if mode:
            raise RuntimeError("an optimized network cannot be trained; train the one that it was made of")
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an optimized network cannot be copied or pickled; optimize again, or export it")

    def extra_repr(self) -> str:
        shape = ", ".join(map(str, (self.piece, *self._image)))
        return f"backend={self.backend}, precision={self.precision}, pieces of ({shape}), {self._device}"


def optimize(
    model: ResNeXt,
    example_inputs: Tensor | Sequence[Tensor],
    precision: str = "fp32",
    backend: str = "auto",
) -> OptimizedResNeXt:
    """The network in evaluation mode, whatever its mode, ready to run fast on the device of its weights.

    Batch norm is folded, in double precision and held against the network; maps are channels last; ReLU and residual
    sum are part of the convolutions; weights are frozen, and packed for the processor. Forms A and B run as form C.
    All work is done here: compilation takes 15 to 40 s for 50 layers, and leaves its files in torch's own cache
    (TORCHINDUCTOR_CACHE_DIR). `model` stays untouched; its hooks do not run.

    Args:
        model: a ResNeXt with logits or pooled features, of any form.
        example_inputs: images (N, in_channels, H, W), or a sequence with that one tensor. H and W become fixed; N says
            which batch size is to be fast.
        precision: "fp32", "bf16" or "fp16", of weights and maps. A processor that cannot compute in it is slower than
            in "fp32", most of all in "fp16".
        backend: "inductor" compiles, and needs a C++ compiler (on a GPU: Triton); "eager" does not; "auto" compiles
            where it can. The result's `backend` says which it was.

    Returns an `OptimizedResNeXt`. Its logits are held against those of `model` in double precision, for the first two
    images of the example: within 1e-5 (relative) in fp32 and 2e-2 in bf16 and fp16, or within twice the error of the
    network itself in that precision where that is more (random weights magnify rounding).

    Raises TypeError for another module than a ResNeXt; ValueError for unknown arguments, for an example that does not
    fit, and for a network that cannot be folded; RuntimeError where there is no compiler for "inductor", and where the
    result is not within those limits.
    """
    for what, choice, known in (("precision", precision, PRECISIONS), ("backend", backend, BACKENDS)):
        if choice not in known:
            raise ValueError(f"unknown {what} {choice!r}; expected one of {', '.join(known)}")
    check_model(model)
    example = _check_example(model, example_inputs)
    device, dtype = example.device, PRECISIONS[precision]
    if backend == "auto" and device.type == "cpu" and not (onednn.supports(dtype) and find_compiler()):
        backend = "eager"
    if backend == "inductor" and device.type == "cpu" and not find_compiler():
        raise RuntimeError(
            "backend 'inductor' needs a C++ compiler, and there is none (g++ or clang++, or what CXX names); "
            "install one, or give backend='eager'"
        )
    network, expected = prepare(model, example, precision)
    piece = piece_size(example.shape[0])
    part = _laid_out(example[:piece], precision)
    with torch.no_grad():
        if backend == "auto":
            try:
                run, backend = _compile(network, part), "inductor"
            except Exception as error:  # whatever a broken compiler leads to
                warnings.warn(f"compilation failed, running eagerly: {_first_line(error)}", stacklevel=2)
                run, backend = _run_eagerly(network, part), "eager"
        else:
            run = (_compile if backend == "inductor" else _run_eagerly)(network, part)
    result = OptimizedResNeXt(run, example, backend, precision, piece)
    difference, limit = relative_error(result(example[: expected.shape[0]]), expected), TOLERANCE[precision]
    if not difference <= limit:
        limit = allowed_error(model, example, dtype, limit)
    if not difference <= limit:
        raise RuntimeError(
            f"the logits in {precision} differ by {difference:.1e} from the network's, expected at most "
            f"{limit:.0e}; give " + ("backend='eager'" if precision == "fp32" else "precision='fp32'")
        )
    return result


def prepare(model: ResNeXt, example: Tensor, precision: str) -> tuple[FoldedResNeXt, Tensor]:
    """The folded network in `precision`, for `torch.export` or `compile_package`; and what `fold` returns beside it."""
    network, expected = fold(model, example)
    return network.to(PRECISIONS[precision]), expected


def compile_package(network: FoldedResNeXt, example: Tensor, path: Path) -> None:
    """Write an AOTInductor package (.pt2) for images of the very shape, layout, type and device of `example`.

    The weights are frozen and packed for it. Fastest is an example in the type of the weights, channels last.
    `torch._inductor.aoti_load_package(path)` gives the function that `FoldedResNeXt.forward` is.
    """
    with torch.no_grad():
        program = torch.export.export(network, (example,))
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs={"freezing": True})


def find_compiler() -> str | None:
    """The C++ compiler that torch would use, or None."""
    from torch._inductor import cpp_builder, exc

    try:
        return cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError):
        return None


def piece_size(batch: int) -> int:
    """The most images up to 4 that divide a batch."""
    return max(size for size in range(1, PIECE + 1) if batch % size == 0)


def _laid_out(x: Tensor, precision: str) -> Tensor:
    """Done ahead of what is compiled: Inductor's own loop for it takes 0.8 ms for an image, torch's 0.1."""
    return x.to(PRECISIONS[precision]).contiguous(memory_format=torch.channels_last)


def _compile(network: FoldedResNeXt, piece: Tensor) -> Callable[[Tensor], Tensor]:
    if piece.device.type != "cpu":
        return _compile_for_gpu(network, piece)
    with tempfile.TemporaryDirectory() as folder:
        compile_package(network, piece, Path(folder) / "resnext.pt2")
        with huge_pages():
            run: Callable[[Tensor], Tensor] = torch._inductor.aoti_load_package(str(Path(folder) / "resnext.pt2"))
    run(piece)
    return run


def _compile_for_gpu(network: FoldedResNeXt, piece: Tensor) -> Callable[[Tensor], Tensor]:
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


def _run_eagerly(network: FoldedResNeXt, piece: Tensor) -> Callable[[Tensor], Tensor]:
    if piece.device.type == "cpu" and onednn.supports(network.dtype):
        onednn.pack(network, piece)
    network(piece)
    return network.forward  # not the module: `OptimizedResNeXt` has no parameters that `to` could move


def _check_example(model: ResNeXt, example_inputs: Tensor | Sequence[Tensor]) -> Tensor:
    example = example_inputs
    if not isinstance(example, Tensor):
        if len(example) != 1 or not isinstance(example[0], Tensor):
            raise ValueError(f"expected example_inputs of one tensor, got {len(example)} values")
        example = example[0]
    channels = getattr(model, "in_channels", example.shape[1] if example.dim() == 4 else 0)
    if example.dim() != 4 or example.shape[1] != channels or 0 in example.shape or not example.is_floating_point():
        raise ValueError(
            f"expected example_inputs of floating point images (N, {channels}, H, W), N from 1 up, "
            f"got {tuple(example.shape)} of {example.dtype}"
        )
    device = next(model.parameters()).device
    if device.type == "meta":
        raise ValueError("the network has no weights (it is on the meta device); load them first")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"expected a network on the CPU or a CUDA device, got {device}")
    if example.device != device:
        raise ValueError(f"the network is on {device}, example_inputs on {example.device}; put them on one device")
    return example.detach()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
