"""Torch7 layers that PyTorch has no equal of, as small modules that compute what Torch7 computes in evaluation.

Layers that work in place in Torch7 do so here, so that whoever else holds that tensor sees the same as in Torch7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Value = Any  # a tensor, or what Torch7 calls a table: a list of values


class Sequential(nn.Sequential):
    """nn.Sequential: each module takes what the one before gives, a tensor or a list."""


class ConcatTable(nn.ModuleList):
    """nn.ConcatTable: a list of what each module makes of the same input."""

    def forward(self, x: Value) -> list[Value]:
        return [module(x) for module in self]


class CAddTable(nn.Module):
    """nn.CAddTable: the sum of a list of tensors; in place, the first of them is overwritten."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: list[Tensor]) -> Tensor:
        total = x[0] if self.inplace else x[0].clone()
        for term in x[1:]:
            total.add_(term)
        return total


class JoinTable(nn.Module):
    """nn.JoinTable: concatenation of a list. `dimension` from 0; moved by one where there is a batch dimension."""

    def __init__(self, dimension: int, input_dims: int) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: list[Tensor]) -> Tensor:
        batched = self.input_dims > 0 and x[0].dim() == self.input_dims + 1
        return torch.cat(x, self.dimension + int(batched and self.dimension >= 0))


class View(nn.Module):
    """nn.View (n, …): keeps a batch dimension only where it must; a batch of 1 is dropped without `numInputDims`.

    `input_dims` is `numInputDims`, 0 where it is not set.
    """

    def __init__(self, size: Sequence[int], input_dims: int) -> None:
        super().__init__()
        self.size, self.input_dims = list(size), input_dims
        self.elements = math.prod(n for n in size if n >= 0)

    def forward(self, x: Tensor) -> Tensor:
        dims = self.input_dims if self.input_dims > 0 else x.dim()
        inner = x.shape[max(x.dim() - dims, 0) :].numel()
        outer = x.numel() // inner
        size, batch = list(self.size), inner // self.elements
        if -1 in size:
            size[size.index(-1)], batch = batch, 1
        batch *= outer
        if batch == 1 and (self.input_dims == 0 or x.dim() <= self.input_dims):
            return x.reshape(size)
        return x.reshape([batch, *size])


class Reshape(nn.Module):
    """nn.Reshape: `batch_mode` None guesses, and takes a first dimension of 1 for a batch."""

    def __init__(self, size: Sequence[int], batch_mode: bool | None) -> None:
        super().__init__()
        self.size, self.batch_mode = list(size), batch_mode
        self.elements = math.prod(size)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.batch_mode is None and x.numel() == self.elements and x.shape[0] != 1
        if self.batch_mode is False or whole:
            return x.reshape(self.size)
        return x.reshape([x.shape[0], *self.size])


class AvgPool2d(nn.AvgPool2d):
    """nn.SpatialAveragePooling; with `divide` false the result is the sum."""

    def __init__(self, *arguments: Any, divide: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scale = 1 if divide else math.prod(self.kernel_size)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.scale == 1 else out * self.scale
