"""Pooling, padding around images and volumes, and upsampling.

With ceil_mode and without padding, the last window may lie wholly behind the input if the kernel is smaller than the
stride. Torch7 keeps such a window and PyTorch drops it. In Torch7 the maximum of nothing is the lowest finite number
and the average of nothing is 0 / 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..t7 import TorchObject
from .convolution import DILATION, KERNEL, STRIDE, padding
from .linear import MulConstant
from .registry import Layer, builds, integer, integers


def pad_to_last_window(x: Tensor, kernel: list[int], stride: list[int], value: float) -> Tensor:
    """x with `value` appended, so that PyTorch sees every window that Torch7 sees in ceil_mode."""
    pads: list[int] = []
    for i in range(len(kernel)):  # F.pad begins with the last dimension
        size = x.shape[-1 - i]
        start = -((kernel[-1 - i] - size) // stride[-1 - i]) * stride[-1 - i]
        pads += [0, start + kernel[-1 - i] - size if start >= size else 0]
    return F.pad(x, pads, value=value) if sum(pads) > 0 else x


def window_size(size: int, kernel: int, stride: int, x: Tensor) -> Tensor:
    """How many values of x each window covers along one dimension without padding, as Torch7 counts them."""
    starts = torch.arange(0, -((kernel - size) // stride) * stride + 1, stride, dtype=x.dtype, device=x.device)
    return (starts + kernel).clamp(max=size) - starts


class MaxPool(Layer):
    """Max pooling of images or volumes with ceil_mode, no padding and a stride larger than the kernel."""

    def __init__(self, kernel_size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation = list(kernel_size), list(stride), list(dilation)
        self.reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        lowest = -1.7976931348623157e308 if x.dtype == torch.float64 else -3.4028234663852886e38
        x = pad_to_last_window(x, self.reach, self.stride, lowest)
        if len(self.kernel_size) == 2:
            return F.max_pool2d(x, self.kernel_size, self.stride, dilation=self.dilation, ceil_mode=True)
        return F.max_pool3d(x, self.kernel_size, self.stride, dilation=self.dilation, ceil_mode=True)


@builds("nn.SpatialMaxPooling", "nn.SpatialDilatedMaxPooling", "cudnn.SpatialMaxPooling", dims=2)
@builds("nn.VolumetricMaxPooling", "nn.VolumetricDilatedMaxPooling", "cudnn.VolumetricMaxPooling", dims=3)
def _max_pooling(obj: TorchObject, dims: int) -> nn.Module:
    kernel, stride = obj.integers(KERNEL[dims], minimum=1), obj.integers(STRIDE[dims], minimum=1)
    dilation, pads = obj.integers(DILATION[dims], 1, minimum=1), padding(obj, dims)
    ceil_mode = obj.boolean("ceil_mode", False)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if ceil_mode and not any(pads) and any(span < step for span, step in zip(reach, stride, strict=True)):
        return MaxPool(kernel, stride, dilation)
    kind: Any = nn.MaxPool2d if dims == 2 else nn.MaxPool3d
    return kind(kernel, stride, pads, dilation, ceil_mode=ceil_mode)


class AvgPool(Layer):
    """Average pooling of images or volumes: like PyTorch's, except for the last windows."""

    def __init__(
        self,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = list(kernel_size), list(stride), list(padding)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def pool(self, x: Tensor, divisor: int | None) -> Tensor:
        options = self.padding, self.ceil_mode, self.count_include_pad, divisor
        if len(self.kernel_size) == 2:
            return F.avg_pool2d(x, self.kernel_size, self.stride, *options)
        return F.avg_pool3d(x, self.kernel_size, self.stride, *options)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size, self.stride
        padded = pad_to_last_window(x, kernel, stride, 0.0) if self.ceil_mode and sum(self.padding) == 0 else x
        if padded.shape == x.shape:
            return self.pool(x, None)
        count = torch.ones([], dtype=x.dtype, device=x.device)
        for i in range(len(kernel)):
            count = count.unsqueeze(-1) * window_size(x.shape[i - len(kernel)], kernel[i], stride[i], x)
        return self.pool(padded, 1) / count


@builds("nn.SpatialAveragePooling", dims=2)
@builds("cudnn.SpatialAveragePooling", dims=2, divides=True)
@builds("nn.VolumetricAveragePooling", "cudnn.VolumetricAveragePooling", dims=3, divides=True)
def _average_pooling(obj: TorchObject, dims: int, divides: bool = False) -> nn.Module:
    """The oldest files lack the field `divide`; nn.SpatialAveragePooling then returns the sum."""
    kernel, stride = obj.integers(KERNEL[dims], minimum=1), obj.integers(STRIDE[dims], minimum=1)
    pads, ceil_mode = padding(obj, dims), obj.boolean("ceil_mode", False)
    counts = obj.boolean("count_include_pad", True)
    kind: Any = nn.AvgPool2d if dims == 2 else nn.AvgPool3d
    module: nn.Module = kind(kernel, stride, pads)
    if ceil_mode or not counts:  # PyTorch's own would often do, but its repr leaves these two out
        module = AvgPool(kernel, stride, pads, ceil_mode, counts)
    if divides or obj.boolean("divide", False):
        return module
    return nn.Sequential(module, MulConstant(math.prod(kernel)))


builds("nn.SpatialAdaptiveAveragePooling", output_size=integers("H W", minimum=1))(nn.AdaptiveAvgPool2d)
builds("nn.SpatialAdaptiveMaxPooling", output_size=integers("H W", minimum=1))(nn.AdaptiveMaxPool2d)

# Negative widths crop.
builds("nn.SpatialReflectionPadding", padding=integers("pad_l pad_r pad_t pad_b"))(nn.ReflectionPad2d)
builds("nn.SpatialReplicationPadding", padding=integers("pad_l pad_r pad_t pad_b"))(nn.ReplicationPad2d)
builds("nn.SpatialZeroPadding", padding=integers("pad_l pad_r pad_t pad_b"))(nn.ZeroPad2d)
builds("nn.VolumetricReplicationPadding", padding=integers("pleft pright ptop pbottom pfront pback"))(
    nn.ReplicationPad3d
)


@builds("nn.SpatialUpSamplingNearest", scale=integer("scale_factor", minimum=1))
class UpSamplingNearest(Layer):
    """nn.SpatialUpSamplingNearest: each pixel repeated `scale` times in both directions."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)


class UpSamplingBilinear(Layer):
    """nn.SpatialUpSamplingBilinear, corners aligned: by `scale`, or to `size` (height, width) if `scale` is 0."""

    def __init__(self, scale: int, size: tuple[int, ...] = (0, 0)) -> None:
        super().__init__()
        self.scale, self.size = scale, list(size)

    def forward(self, x: Tensor) -> Tensor:
        size = [x.shape[-2] * self.scale, x.shape[-1] * self.scale] if self.scale > 0 else self.size
        images = x.unsqueeze(0) if x.dim() == 3 else x
        out = F.interpolate(images, size, mode="bilinear", align_corners=True)
        return out.squeeze(0) if x.dim() == 3 else out


@builds("nn.SpatialUpSamplingBilinear")
def _upsampling_bilinear(obj: TorchObject) -> nn.Module:
    if "scale_factor" in obj:
        return UpSamplingBilinear(obj.integer("scale_factor", minimum=1))
    return UpSamplingBilinear(0, obj.integers("oheight owidth", minimum=1))
