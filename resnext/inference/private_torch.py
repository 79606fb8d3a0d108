"""The only module that uses APIs of torch that are not public; each says what happens where a release lacks it.

All were seen in torch 2.13.0. Where a name is missing or takes other arguments, the public way is used.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

Convolution = Callable[[Tensor, "Tensor | None"], Tensor]


def compile_package(program: torch.export.ExportedProgram, path: Path) -> None:
    """Compile for exactly the shapes, layouts and types that `program` was exported with; `path` ends in `.pt2`.

    `torch._inductor.aoti_compile_and_package` is documented; the public names have nothing in its place. With gradients
    on, Inductor does not freeze and pack the weights, and the package takes twice as long. Raises RuntimeError,
    and OSError where `path` cannot be written.
    """
    archive = io.BytesIO()  # written from here: on a full disk torch's own writer would end the process
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=archive, inductor_configs={"freezing": True})
    path.write_bytes(archive.getbuffer())


def open_package(path: str) -> Callable[[Tensor], Tensor]:
    """What a package computes, for one input and one output. Raises RuntimeError for a file that is no package.

    `torch._C._aoti.AOTIModelPackageLoader` takes two seconds less to import than `torch._inductor.aoti_load_package`,
    and parses no JSON at each call. The latter is documented, and used where the former is missing.
    """
    try:
        loader = torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, -1)
    except (AttributeError, TypeError):
        return torch._inductor.aoti_load_package(path)
    return lambda images: loader.boxed_run([images])[0]


def onednn_computes_in(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and computes in this type on this processor; False where torch does not say."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    try:
        return (
            dtype is torch.float32
            or (dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
            or (dtype is torch.float16 and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()))
        )
    except AttributeError:
        return False


def packed_convolution(conv: nn.Conv2d, relu: bool, input_size: Sequence[int]) -> Convolution | None:
    """(images, shortcut or None) -> the convolution, plus the shortcut, which is overwritten, then ReLU if `relu`.

    One call of oneDNN, with the weights in the layout that it wants for inputs of `input_size`. Without the size it
    packs for a guess, and rearranges the weights at every call where the guess is wrong: for ResNeXt-50 and one image
    that takes four times as long as the network itself. None where torch lacks these operators; then `conv` itself
    has to run.
    """
    assert conv.bias is not None
    assert not isinstance(conv.padding, str)
    bias, activation = conv.bias.detach(), "relu" if relu else "none"
    shape = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
    try:
        plain, binary = torch.ops.mkldnn._convolution_pointwise, torch.ops.mkldnn._convolution_pointwise_.binary
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(conv.weight.detach().to_mkldnn(), *shape, list(input_size))  # type: ignore[call-arg]
    except (AttributeError, TypeError):
        return None

    def run(x: Tensor, shortcut: Tensor | None) -> Tensor:
        if shortcut is None:
            return plain(x, weight, bias, *shape, activation, [], "")
        return binary(shortcut, x, weight, bias, *shape, "add", 1.0, activation, [], "")

    return run


def remove_hooks(model: nn.Module) -> None:
    """Remove all forward hooks; they stay where torch keeps them under other names."""
    for module in model.modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            getattr(module, hooks, {}).clear()
