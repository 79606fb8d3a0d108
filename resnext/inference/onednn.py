"""Folded convolutions as single calls of oneDNN, their weights in the layout that it wants for one input size.

Without the size oneDNN packs for a guess, and rearranges the weights at every call where it guessed wrong: for
ResNeXt-50 and one image that takes four times as long as the network itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnext.inference.fold import FoldedConv, FoldedResNeXt


class PackedConv(nn.Module):
    """A `FoldedConv` with packed weights. A shortcut is overwritten with the result."""

    def __init__(self, conv: FoldedConv, input_size: torch.Size) -> None:
        super().__init__()
        assert conv.bias is not None
        assert not isinstance(conv.padding, str)
        self._padding, self._stride, self._dilation = list(conv.padding), list(conv.stride), list(conv.dilation)
        self._groups, self._activation = conv.groups, "relu" if conv.relu else "none"
        self.bias: Tensor = conv.bias.detach()
        self._weight: Tensor = torch._C._nn.mkldnn_reorder_conv2d_weight(
            conv.weight.detach().to_mkldnn(),
            self._padding,
            self._stride,
            self._dilation,
            self._groups,
            list(input_size),  # type: ignore[call-arg]
        )

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        shape = (self._padding, self._stride, self._dilation, self._groups)
        if shortcut is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self._weight, self.bias, *shape, self._activation, [], "")
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            shortcut, x, self._weight, self.bias, *shape, "add", 1.0, self._activation, [], ""
        )


def supports(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and computes in this type on this processor."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    return (
        dtype is torch.float32
        or (dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
        or (dtype is torch.float16 and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()))
    )


def pack(network: FoldedResNeXt, example: Tensor) -> None:
    """Replace every convolution by its packed form for the sizes that `example` (N, C, H, W) leads to."""
    sizes: dict[FoldedConv, torch.Size] = {}

    def record(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, FoldedConv)
        sizes[conv] = inputs[0].shape

    convs = [module for module in network.modules() if isinstance(module, FoldedConv)]
    handles = [conv.register_forward_pre_hook(record) for conv in convs]
    network(example)
    for handle in handles:
        handle.remove()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FoldedConv):
                setattr(parent, name, PackedConv(child, sizes[child]))
