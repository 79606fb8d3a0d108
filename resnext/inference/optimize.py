"""The same network, faster: `resnext.optimize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from resnext.inference import backends
from resnext.inference.backends import Runner, plain_arithmetic
from resnext.inference.fold import FoldedResNeXt, allowed_error, check_model, fold, relative_error
from resnext.inference.processor import check_low_precision
from resnext.model import ResNeXt

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BACKENDS = ("auto", *backends.ON_CPU)
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}  # relative, from the logits in double precision
# Images that run at once on a CPU: few enough that their maps stay in its cache; all share one read of the weights.
PIECE = {"fp32": 2, "bf16": 4, "fp16": 4}


class OptimizedResNeXt(nn.Module):
    """What `optimize` returns. Floating point (N, in_channels, H, W) -> float32 logits (N, num_classes), no gradients.

    `backend` says what runs: "onednn", "inductor" or "eager"; `precision` is that of `optimize`. H and W are those of
    the example. N is free: `pieces` lists how many images can run at once. A batch runs in pieces of the largest size,
    and what is left over in the smallest size that holds it, filled up with zeros.

    It has no parameters, and stays on the device that it was made on. On a CPU it may be called from several threads.
    It cannot be trained, copied or pickled: keep the network that it was made from, or export it (`python -m resnext
    export`).
    """

    def __init__(self, runs: Mapping[int, Runner], example: Tensor, backend: str, precision: str) -> None:
        """`runs`: a number of images, and what runs that many (N, in_channels, H, W) in `precision`, channels last."""
        super().__init__()
        self.backend, self.precision, self.pieces = backend, precision, tuple(sorted(runs, reverse=True))
        self._runs, self._image, self._device = dict(runs), tuple(example.shape[1:]), example.device
        super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or tuple(x.shape[1:]) != self._image or not x.is_floating_point() or x.device != self._device:
            shape = ", ".join(map(str, self._image))
            raise ValueError(
                f"expected floating point images (N, {shape}) on {self._device}, like those it was optimized for, "
                f"got {tuple(x.shape)} of {x.dtype} on {x.device}; optimize again with such an example"
            )
        with plain_arithmetic(self._device):
            # An empty batch runs a piece too, which gives its output the right shape.
            parts = [self._run_part(part) for part in torch.split(x, self.pieces[0])]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run_part(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        size = min(size for size in self.pieces if size >= count)
        if count < size:
            x = torch.cat([x, x.new_zeros(size - count, *self._image)])
        return self._runs[size](_laid_out(x, self.precision))[:count]

    def train(self, mode: bool = True) -> OptimizedResNeXt:
        """Raises RuntimeError for `mode=True`: the weights are frozen."""
        if mode:
            raise RuntimeError("an optimized network cannot be trained; train the one that it was made from")
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an optimized network cannot be copied or pickled; optimize again, or export it")

    def extra_repr(self) -> str:
        count, image = " or ".join(map(str, self.pieces)), ", ".join(map(str, self._image))
        return f"backend={self.backend}, precision={self.precision}, pieces of ({count}, {image}), {self._device}"


def optimize(
    model: ResNeXt,
    example_inputs: Tensor | Sequence[Tensor],
    precision: str = "fp32",
    backend: str = "auto",
) -> OptimizedResNeXt:
    """The network for evaluation, ready to run fast on the device of its weights.

    Batch norm is folded into the convolutions in double precision, and what comes out is compared with the network.
    Maps are channels last, ReLU and residual sum are part of the convolutions, and the weights are frozen and packed
    for the processor. Forms A and B run as form C. All of this is done here; `model` does not change, and its hooks do
    not run. Autocast has no effect, here or in use. On a GPU "fp32" never means TF32, whatever torch is set to.

    Args:
        model: a ResNeXt with logits or pooled features, of any form.
        example_inputs: images (N, in_channels, H, W), or a sequence with that one tensor. H and W become fixed; N says
            which batch size must be fast. One that leaves a smaller remainder takes twice as long to compile.
        precision: "fp32", "bf16" or "fp16", of weights and maps. A processor that cannot compute in it is slower than
            in "fp32", most of all in "fp16".
        backend: "onednn" compiles with oneDNN Graph, in a second or two, on x86 in "fp32" and "bf16"; "inductor" with
            torch's own compiler, which takes 10 to 40 s for 50 layers, needs a C++ compiler (on a GPU: Triton), and
            leaves files in torch's cache (TORCHINDUCTOR_CACHE_DIR); "eager" does not compile; "auto" takes the first of
            these that works here, on a GPU one of the last two. The result's `backend` says which it was.

    Returns an `OptimizedResNeXt`. For the first two images of the example its logits are compared with those of `model`
    in double precision: they are within 1e-5 (relative) in fp32 and 2e-2 in bf16 and fp16, or within twice the error of
    the network itself in that precision where that is more (random weights magnify rounding).

    Raises TypeError for a module that is not a ResNeXt, and where the example is not a tensor; ValueError for unknown
    arguments, for an example that does not fit, and for a network that cannot be folded; RuntimeError where the
    requested backend cannot be used, where the result is not within those limits, and (`processor.ProcessorError`)
    where low precision would kill the process.
    """
    for what, choice, known in (("precision", precision, PRECISIONS), ("backend", backend, BACKENDS)):
        if choice not in known:
            raise ValueError(f"unknown {what} {choice!r}; expected one of {', '.join(known)}")
    check_model(model)
    example = _check_example(model, example_inputs)
    device = example.device
    backends.check(backend, device)
    with plain_arithmetic(device):  # for what is compiled and for what it is compared with
        network, expected = prepare(model, example, precision)
        sizes = piece_sizes(len(example), PIECE[precision]) if device.type == "cpu" else (len(example),)
        runs: dict[int, Runner] = {}
        got = []
        for size in sizes:
            part = _laid_out(example[:size], precision)
            with torch.no_grad():
                runs[size], backend = backends.run_by(backend, network, part, device)
                got.append(runs[size](part)[: len(expected)])
        error = relative_error(torch.cat(got), torch.cat([expected[:size] for size in sizes]))
        limit = TOLERANCE[precision]
        if not error <= limit:
            limit = allowed_error(model, example, PRECISIONS[precision], limit)
    if not error <= limit:
        raise RuntimeError(
            f"the logits in {precision} differ by {error:.1e} from the network's, expected at most "
            f"{limit:.0e}; give " + ("backend='eager'" if precision == "fp32" else "precision='fp32'")
        )
    return OptimizedResNeXt(runs, example, backend, precision)


def prepare(model: ResNeXt, example: Tensor, precision: str) -> tuple[FoldedResNeXt, Tensor]:
    """The folded network in `precision`, for `torch.export` or a backend, and the logits that `fold` returns.

    Raises ProcessorError where computing in `precision` would kill this process.
    """
    if precision != "fp32" and example.device.type == "cpu":
        check_low_precision()
    network, expected = fold(model, example)
    return network.to(PRECISIONS[precision]), expected


def piece_sizes(batch: int, most: int) -> tuple[int, ...]:
    """The sizes of the pieces of a batch: at most `most` images, and what is left over."""
    piece = min(batch, most)
    return (piece, batch % piece) if batch % piece else (piece,)


def _laid_out(x: Tensor, precision: str) -> Tensor:
    """Copies outside the compiled code: torch's are faster than Inductor's loop (`benchmarks/inference.py`)."""
    return x.to(PRECISIONS[precision]).contiguous(memory_format=torch.channels_last)


def _check_example(model: ResNeXt, example_inputs: Tensor | Sequence[Tensor]) -> Tensor:
    example = example_inputs
    if not isinstance(example, Tensor):
        if not isinstance(example, (list, tuple)):
            raise TypeError(f"expected a tensor as example_inputs, or a sequence of one, got {type(example).__name__}")
        if len(example) != 1 or not isinstance(example[0], Tensor):
            raise ValueError(f"expected example_inputs of one tensor, got {len(example)} values")
        example = example[0]
    channels = model.in_channels
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
