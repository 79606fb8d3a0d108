"""Torch7 layers that change the shape of a tensor, cut from it or reduce it, where PyTorch has no equal.

Dimensions count from 0 here, negative ones from the end. `input_dims` is Torch7's nInputDims: how many dimensions one
sample has, so that a batch dimension is recognised; 0 where it is not set. View, Squeeze and their like share the
input's memory as in Torch7; Narrow, Select and Transpose copy as they do there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def behind_batch(dimension: int, dims: int, input_dims: int) -> int:
    """A dimension of one sample as a dimension of a tensor of `dims`, which may be a batch."""
    return dimension + 1 if dimension >= 0 and input_dims > 0 and dims == input_dims + 1 else dimension


class View(nn.Module):
    """nn.View: keeps a batch dimension only where it must; a batch of 1 is dropped where `input_dims` is 0."""

    def __init__(self, *size: int, input_dims: int = 0) -> None:
        super().__init__()
        self.size, self.input_dims = list(size), input_dims
        self.elements = math.prod(n for n in size if n >= 0)

    def forward(self, x: Tensor) -> Tensor:
        outer = 1
        if self.input_dims > 0:
            for n in x.shape[: max(x.dim() - self.input_dims, 0)]:
                outer *= n
        batch = outer if -1 in self.size else x.numel() // self.elements
        if batch == 1 and (self.input_dims == 0 or x.dim() <= self.input_dims):
            return x.reshape(self.size)
        return x.reshape([batch] + self.size)  # noqa: RUF005 (TorchScript)

    def extra_repr(self) -> str:
        return ", ".join([*map(str, self.size), f"input_dims={self.input_dims}"])


class Reshape(nn.Module):
    """nn.Reshape: `batch_mode` None guesses, and takes a first dimension of 1 for a batch."""

    def __init__(self, *size: int, batch_mode: bool | None = None) -> None:
        super().__init__()
        self.size, self.batch_mode = list(size), batch_mode
        self.elements = math.prod(size)

    def forward(self, x: Tensor) -> Tensor:
        batch_mode = self.batch_mode
        if batch_mode is None:
            batch_mode = x.numel() != self.elements or x.shape[0] == 1
        if not batch_mode:
            return x.reshape(self.size)
        return x.reshape([x.shape[0]] + self.size)  # noqa: RUF005 (TorchScript)

    def extra_repr(self) -> str:
        return ", ".join([*map(str, self.size), f"batch_mode={self.batch_mode}"])


class Narrow(nn.Module):
    """nn.Narrow: `length` elements from `start` on; a negative length counts from the end.

    `index` is Torch7's, from 1; where it is negative, Torch7 takes all but the `length` last elements.
    """

    def __init__(self, dimension: int, index: int, length: int) -> None:
        super().__init__()
        self.dimension, self.index, self.length = dimension, index, length

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[self.dimension]
        length = self.length if self.length >= 0 else size - self.index + self.length + 2
        if self.index < 0:
            return x.narrow(self.dimension, 0, size - length).clone()
        return x.narrow(self.dimension, self.index - 1, length).clone()

    def extra_repr(self) -> str:
        return f"{self.dimension}, {self.index}, {self.length}"


class Select(nn.Module):
    """nn.Select: one slice, without its dimension."""

    def __init__(self, dimension: int, index: int) -> None:
        super().__init__()
        self.dimension, self.index = dimension, index

    def forward(self, x: Tensor) -> Tensor:
        return x.select(self.dimension, self.index).clone()

    def extra_repr(self) -> str:
        return f"{self.dimension}, {self.index}"


class Squeeze(nn.Module):
    """nn.Squeeze: without dimensions of 1, or without that one; a tensor keeps at least one dimension.

    Without `dimension`, a batch of 1 survives where `input_dims` is set.
    """

    def __init__(self, dimension: int | None = None, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Tensor) -> Tensor:
        batched = self.input_dims > 0 and x.dim() == self.input_dims + 1
        dimension = self.dimension
        out = x.squeeze() if dimension is None else x.squeeze(dimension + 1 if batched else dimension)
        if out.dim() == 0:
            out = out.unsqueeze(0)
        return out.unsqueeze(0) if dimension is None and batched and x.shape[0] == 1 else out

    def extra_repr(self) -> str:
        return f"{self.dimension}, input_dims={self.input_dims}"


class Unsqueeze(nn.Module):
    """nn.Unsqueeze: a new dimension of 1, counted within one sample where `input_dims` is set."""

    def __init__(self, dimension: int, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(self.dimension + (x.dim() - self.input_dims if self.input_dims > 0 else 0))

    def extra_repr(self) -> str:
        return f"{self.dimension}, input_dims={self.input_dims}"


class Transpose(nn.Module):
    """nn.Transpose: pairs of dimensions swapped one after the other."""

    def __init__(self, *pairs: tuple[int, int]) -> None:
        super().__init__()
        self.first, self.second = [a for a, _ in pairs], [b for _, b in pairs]

    def forward(self, x: Tensor) -> Tensor:
        for i in range(len(self.first)):
            x = x.transpose(self.first[i], self.second[i])
        return x.clone(memory_format=torch.contiguous_format)

    def extra_repr(self) -> str:
        return ", ".join(f"({a}, {b})" for a, b in zip(self.first, self.second, strict=True))


class Replicate(nn.Module):
    """nn.Replicate: a new dimension of size `count`, in which x is repeated (and not copied)."""

    def __init__(self, count: int, dimension: int = 0, input_dims: int = 0) -> None:
        super().__init__()
        self.count, self.dimension, self.input_dims = count, dimension, input_dims

    def forward(self, x: Tensor) -> Tensor:
        dimension = self.dimension + int(self.input_dims > 0 and x.dim() > self.input_dims)
        size = list(x.shape)
        size.insert(dimension, self.count)
        return x.unsqueeze(dimension).expand(size)

    def extra_repr(self) -> str:
        return f"{self.count}, {self.dimension}, input_dims={self.input_dims}"


class Contiguous(nn.Module):
    """nn.Contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()


class Copy(nn.Module):
    """nn.Copy between two types of tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class Padding(nn.Module):
    """nn.Padding: |pad| times `value`, in front of element `index` if pad < 0, else behind it, counted from the end."""

    def __init__(self, dimension: int, pad: int, input_dims: int, value: float, index: int) -> None:
        super().__init__()
        self.dimension, self.pad, self.input_dims = dimension, pad, input_dims
        self.value, self.index = float(value), index  # the index counts from 1, as in Torch7

    def forward(self, x: Tensor) -> Tensor:
        other = self.input_dims > 0 and x.dim() != self.input_dims
        dimension = self.dimension + int(other and self.dimension >= 0)
        before = x.shape[dimension] - self.index + 1 if self.pad > 0 else self.index - 1
        size = list(x.shape)
        size[dimension] = abs(self.pad)
        middle = torch.full(size, self.value, dtype=x.dtype, device=x.device)
        left, right = x.narrow(dimension, 0, before), x.narrow(dimension, before, x.shape[dimension] - before)
        return torch.cat([left, middle, right], dimension)

    def extra_repr(self) -> str:
        return f"{self.dimension}, {self.pad}, {self.input_dims}, {self.value}, {self.index}"


class ShaveImage(nn.Module):
    """nn.ShaveImage of fast-neural-style: `size` pixels less on each side."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        s = self.size
        return x[:, :, s : x.shape[2] - s, s : x.shape[3] - s].clone()

    def extra_repr(self) -> str:
        return f"{self.size}"


class Sum(nn.Module):
    """nn.Sum, or nn.Mean with `average`, over a dimension; the last remaining dimension stays as a size of 1."""

    def __init__(self, dimension: int, input_dims: int = 0, average: bool = False, squeeze: bool = True) -> None:
        super().__init__()
        self.dimension, self.input_dims, self.average, self.squeeze = dimension, input_dims, average, squeeze

    def forward(self, x: Tensor) -> Tensor:
        dimension = behind_batch(self.dimension, x.dim(), self.input_dims)
        out = x.sum(dimension, keepdim=True)
        if self.average:
            out = out / x.shape[dimension]
        return out.squeeze(dimension) if self.squeeze and x.dim() > 1 else out

    def extra_repr(self) -> str:
        return f"{self.dimension}, input_dims={self.input_dims}, average={self.average}, squeeze={self.squeeze}"


class Max(nn.Module):
    """nn.Max, or nn.Min with `smallest`, over a dimension; the last remaining dimension stays as a size of 1."""

    def __init__(self, dimension: int, input_dims: int = 0, smallest: bool = False) -> None:
        super().__init__()
        self.dimension, self.input_dims, self.smallest = dimension, input_dims, smallest

    def forward(self, x: Tensor) -> Tensor:
        dimension = behind_batch(self.dimension, x.dim(), self.input_dims)
        keep = x.dim() == 1
        return x.amin(dimension, keepdim=keep) if self.smallest else x.amax(dimension, keepdim=keep)

    def extra_repr(self) -> str:
        return f"{self.dimension}, input_dims={self.input_dims}, smallest={self.smallest}"
