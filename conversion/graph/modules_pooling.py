"""Torch7's pooling where it differs from PyTorch's, and its upsampling.

With ceil_mode and without padding, Torch7 keeps a last window that lies wholly behind the input, as it may where the
kernel is smaller than the stride; PyTorch drops it. Torch7's maximum of nothing is the lowest finite number, its
average of nothing is 0 / 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_last_window(x: Tensor, kernel: list[int], stride: list[int], value: float) -> Tensor:
    """x with `value` behind it, for as long as the windows last that Torch7 has in ceil_mode and PyTorch has not."""
    pads: list[int] = []
    for i in range(len(kernel)):  # F.pad begins with the last dimension
        size = x.shape[-1 - i]
        start = -((kernel[-1 - i] - size) // stride[-1 - i]) * stride[-1 - i]
        pads += [0, start + kernel[-1 - i] - size if start >= size else 0]
    return F.pad(x, pads, value=value) if sum(pads) > 0 else x


def window_size(size: int, kernel: int, stride: int, x: Tensor) -> Tensor:
    """How far each window of a dimension without padding reaches in Torch7's reckoning: to the end of x, if beyond."""
    starts = torch.arange(0, -((kernel - size) // stride) * stride + 1, stride, dtype=x.dtype, device=x.device)
    return (starts + kernel).clamp(max=size) - starts


class MaxPool2d(nn.Module):
    """nn.SpatialMaxPooling with ceil_mode, no padding and a stride beyond the kernel."""

    def __init__(
        self, kernel_size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...] = (1, 1)
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation = list(kernel_size), list(stride), list(dilation)
        self.reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        lowest = -1.7976931348623157e308 if x.dtype == torch.float64 else -3.4028234663852886e38
        x = pad_to_last_window(x, self.reach, self.stride, lowest)
        return F.max_pool2d(x, self.kernel_size, self.stride, dilation=self.dilation, ceil_mode=True)

    def extra_repr(self) -> str:
        return f"{tuple(self.kernel_size)}, {tuple(self.stride)}, {tuple(self.dilation)}"


class MaxPool3d(nn.Module):
    """nn.VolumetricMaxPooling with ceil_mode, no padding and a stride beyond the kernel."""

    def __init__(
        self,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation = list(kernel_size), list(stride), list(dilation)
        self.reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        lowest = -1.7976931348623157e308 if x.dtype == torch.float64 else -3.4028234663852886e38
        x = pad_to_last_window(x, self.reach, self.stride, lowest)
        return F.max_pool3d(x, self.kernel_size, self.stride, dilation=self.dilation, ceil_mode=True)

    def extra_repr(self) -> str:
        return f"{tuple(self.kernel_size)}, {tuple(self.stride)}, {tuple(self.dilation)}"


class AvgPool2d(nn.Module):
    """nn.SpatialAveragePooling: as PyTorch's, but for the windows it keeps; the sum where `divide` is false."""

    def __init__(
        self,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...] = (0, 0),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divide: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = list(kernel_size), list(stride), list(padding)
        self.ceil_mode, self.count_include_pad, self.divide = ceil_mode, count_include_pad, divide

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size, self.stride
        padded = pad_to_last_window(x, kernel, stride, 0.0) if self.ceil_mode and sum(self.padding) == 0 else x
        if padded.shape != x.shape:
            out = F.avg_pool2d(padded, kernel, stride, ceil_mode=True, divisor_override=1)
            out = out / (
                window_size(x.shape[-2], kernel[0], stride[0], x).unsqueeze(-1)
                * window_size(x.shape[-1], kernel[1], stride[1], x)
            )
        else:
            out = F.avg_pool2d(x, kernel, stride, self.padding, self.ceil_mode, self.count_include_pad)
        return out if self.divide else out * (kernel[0] * kernel[1])

    def extra_repr(self) -> str:
        shapes = f"{tuple(self.kernel_size)}, {tuple(self.stride)}, padding={tuple(self.padding)}"
        flags = f"count_include_pad={self.count_include_pad}, divide={self.divide}"
        return f"{shapes}, ceil_mode={self.ceil_mode}, {flags}"


class AvgPool3d(nn.Module):
    """nn.VolumetricAveragePooling: as PyTorch's, but for the windows it keeps."""

    def __init__(
        self,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...] = (0, 0, 0),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = list(kernel_size), list(stride), list(padding)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size, self.stride
        padded = pad_to_last_window(x, kernel, stride, 0.0) if self.ceil_mode and sum(self.padding) == 0 else x
        if padded.shape == x.shape:
            return F.avg_pool3d(x, kernel, stride, self.padding, self.ceil_mode, self.count_include_pad)
        sizes = [window_size(x.shape[i - 3], kernel[i], stride[i], x) for i in range(3)]
        divisor = sizes[0].unsqueeze(-1).unsqueeze(-1) * sizes[1].unsqueeze(-1) * sizes[2]
        return F.avg_pool3d(padded, kernel, stride, ceil_mode=True, divisor_override=1) / divisor

    def extra_repr(self) -> str:
        shapes = f"{tuple(self.kernel_size)}, {tuple(self.stride)}, padding={tuple(self.padding)}"
        return f"{shapes}, ceil_mode={self.ceil_mode}, count_include_pad={self.count_include_pad}"


class UpSamplingNearest(nn.Module):
    """nn.SpatialUpSamplingNearest: each pixel `scale` times in both directions."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)

    def extra_repr(self) -> str:
        return f"{self.scale}"


class UpSamplingBilinear(nn.Module):
    """nn.SpatialUpSamplingBilinear, corners aligned: by `scale`, or to `size` (height, width) where scale is 0."""

    def __init__(self, scale: int, size: tuple[int, ...] = (0, 0)) -> None:
        super().__init__()
        self.scale, self.size = scale, list(size)

    def forward(self, x: Tensor) -> Tensor:
        size = [x.shape[-2] * self.scale, x.shape[-1] * self.scale] if self.scale > 0 else self.size
        images = x.unsqueeze(0) if x.dim() == 3 else x
        out = F.interpolate(images, size, mode="bilinear", align_corners=True)
        return out.squeeze(0) if x.dim() == 3 else out

    def extra_repr(self) -> str:
        return f"{self.scale}, size={tuple(self.size)}"
