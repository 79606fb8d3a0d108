"""Torch7 layers that change the shape of a tensor, take a part of it, copy or reduce it.

Dimensions count from 0 here, or backwards from -1. `input_dims` is Torch7's nInputDims: the number of dimensions of one
sample, by which a batch is recognised; 0 if it is not set. As in Torch7, View, Squeeze and similar layers share the
input's memory; Narrow, Select and Transpose copy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..t7 import Table, TorchObject
from ..t7 import Tensor as T7Tensor
from .registry import VIEWS, Layer, boolean, builds, dimension, filled, integer, number, position
from .tables import behind_batch

# These act only in training or on gradients, or only print.
for name in (
    "CopyGrad", "GradientReversal", "Identity", "L1Penalty", "NormStabilizer", "PrintSize", "TotalDropout",
    "TotalVariation", "ZeroGrad",
):  # fmt: skip
    builds(f"nn.{name}")(nn.Identity)


class View(Layer):
    """nn.View: keeps a batch dimension only if it must; a batch of 1 disappears if `input_dims` is 0."""

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
        shape = [batch]
        shape.extend(self.size)
        return x.reshape(shape)


@builds("nn.View")
def _view(obj: TorchObject) -> nn.Module:
    return View(*_sizes(obj), input_dims=obj.integer("numInputDims", 0, minimum=0))


@builds("nn.Collapse", input_dims=integer("nInputDim", minimum=1))
class Collapse(Layer):
    """nn.Collapse: makes all dimensions one, except the first where there are more than `input_dims`."""

    def __init__(self, input_dims: int) -> None:
        super().__init__()
        self.input_dims = input_dims

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1 if x.dim() > self.input_dims else 0)


def _sizes(obj: TorchObject, inferred: int = 1) -> list[int]:
    """The sizes, each at least 1; up to `inferred` of them may be -1."""
    sizes = obj.sizes()
    if not sizes or any(n < 1 and n != -1 for n in sizes) or sizes.count(-1) > inferred or math.prod(sizes) >= 2**63:
        raise obj.error(f"expected sizes from 1, {inferred} of them may be -1, as size, got {sizes}")
    return sizes


class Reshape(Layer):
    """nn.Reshape: with `batch_mode` None, it guesses, and takes a first dimension of 1 for a batch."""

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
        shape = [x.shape[0]]
        shape.extend(self.size)
        return x.reshape(shape)


@builds("nn.Reshape")
def _reshape(obj: TorchObject) -> nn.Module:
    mode = obj.boolean("batchMode") if "batchMode" in obj else None
    return Reshape(*_sizes(obj, inferred=0), batch_mode=mode)


class Narrow(Layer):
    """nn.Narrow: `length` elements from `index` on, which counts from 1; a negative length counts from the end.

    If `index` is negative, Torch7 takes all but the last `length` elements.
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


@builds("nn.Narrow")
def _narrow(obj: TorchObject) -> nn.Module:
    index, length = obj.integer("index"), obj.integer("length", 1)
    if not index or not length:
        raise obj.error(f"expected an index and a length other than 0, got {index} and {length}")
    return Narrow(obj.dimension(), index, length)


@builds("nn.Select", dimension=dimension(), index=position("index"))
class Select(Layer):
    """nn.Select: one slice, without its dimension."""

    def __init__(self, dimension: int, index: int) -> None:
        super().__init__()
        self.dimension, self.index = dimension, index

    def forward(self, x: Tensor) -> Tensor:
        return x.select(self.dimension, self.index).clone()


class Squeeze(Layer):
    """nn.Squeeze: removes all dimensions of 1, or only `dimension`; a tensor keeps at least one dimension.

    Without `dimension`, a batch of 1 survives if `input_dims` is set, and a single value is refused.
    """

    def __init__(self, dimension: int | None = None, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Tensor) -> Tensor:
        batched = self.input_dims > 0 and x.dim() == self.input_dims + 1
        dimension = self.dimension
        if dimension is None:
            if x.numel() == 1:
                raise RuntimeError("nn.Squeeze of a single value: Torch7 gives an empty tensor")
            out = x.squeeze()
            return out.unsqueeze(0) if batched and x.shape[0] == 1 else out
        out = x.squeeze(dimension + 1 if batched else dimension)
        return out if out.dim() > 0 else out.unsqueeze(0)


@builds("nn.Squeeze")
def _squeeze(obj: TorchObject) -> nn.Module:
    return Squeeze(obj.dimension("dim") if "dim" in obj else None, obj.integer("numInputDims", 0, minimum=0))


class Unsqueeze(Layer):
    """nn.Unsqueeze: a new dimension of 1, counted within one sample if `input_dims` is set."""

    def __init__(self, dimension: int, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Tensor) -> Tensor:
        dimension = self.dimension + (x.dim() - self.input_dims if self.input_dims > 0 else 0)
        if dimension < 0:
            raise RuntimeError("fewer dimensions than nn.Unsqueeze expects")
        return x.unsqueeze(dimension)


@builds("nn.Unsqueeze")
def _unsqueeze(obj: TorchObject) -> nn.Module:
    return Unsqueeze(obj.integer("pos", minimum=1) - 1, obj.integer("numInputDims", 0, minimum=0))


class Transpose(Layer):
    """nn.Transpose: swaps pairs of dimensions in turn, counted within one sample if `input_dims` is set."""

    def __init__(self, *pairs: tuple[int, int], input_dims: int = 0) -> None:
        super().__init__()
        self.pairs, self.input_dims = list(pairs), input_dims

    def forward(self, x: Tensor) -> Tensor:
        batch = max(x.dim() - self.input_dims, 0) if self.input_dims > 0 else 0
        for first, second in self.pairs:
            x = x.transpose(first + batch, second + batch)
        return x.clone(memory_format=torch.contiguous_format)


@builds("nn.Transpose")
def _transpose(obj: TorchObject) -> nn.Module:
    pairs = []
    for pair in obj["permutations"].as_list() if isinstance(obj["permutations"], Table) else [None]:
        values = pair.as_list() if isinstance(pair, Table) else []
        if len(values) != 2 or not all(type(value) is int and 0 < value <= 64 for value in values):
            raise obj.error(f"expected pairs of dimensions, counted from 1, as permutations, got {pair!r}")
        pairs.append((values[0] - 1, values[1] - 1))
    return Transpose(*pairs, input_dims=obj.integer("numInputDims", 0, minimum=0))


@builds(
    "nn.Replicate",
    count=integer("nfeatures", minimum=1),
    dimension=dimension("dim", 1),
    input_dims=integer("ndim", 0, minimum=0),
)
class Replicate(Layer):
    """nn.Replicate: a new dimension of size `count`, along which x is repeated without a copy."""

    def __init__(self, count: int, dimension: int = 0, input_dims: int = 0) -> None:
        super().__init__()
        self.count, self.dimension, self.input_dims = count, dimension, input_dims

    def forward(self, x: Tensor) -> Tensor:
        dimension = self.dimension + int(self.input_dims > 0 and x.dim() > self.input_dims)
        size = list(x.shape)
        size.insert(dimension, self.count)
        return x.unsqueeze(dimension).expand(size)


@builds("nn.Contiguous")
class Contiguous(nn.Module):
    """nn.Contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()


class Copy(nn.Module):
    """nn.Copy: a copy of x in the type of the buffer `like`, which `.float()` and `.double()` change."""

    def __init__(self) -> None:
        super().__init__()
        self.like = nn.Buffer(torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.like.dtype, copy=True)


@builds("nn.Copy")
def _copy(obj: TorchObject) -> nn.Module:
    if "updateOutput" in obj:  # between tensors of the same type, a function of its own that returns the input
        return nn.Identity()
    output = obj.get("output")
    if output is not None and not isinstance(output, T7Tensor):
        raise obj.error(f"expected a tensor as output, got {output!r}")
    dtype = "float32" if output is None or output.dtype.itemsize == 2 else output.dtype.name
    return filled(Copy, tensors={"like": torch.empty(0, dtype=getattr(torch, dtype))})


@builds(
    "nn.Padding",
    dimension=dimension("dim"),
    pad=integer("pad"),
    input_dims=integer("nInputDim", 0, minimum=0),
    value=number("value", 0),
    index=integer("index", 1, minimum=1),
)
class Padding(Layer):
    """nn.Padding: inserts `value` |pad| times, before element `index`; if pad > 0, `index` counts from the end."""

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


@builds("nn.ShaveImage", size=integer("size", minimum=0))
class ShaveImage(Layer):
    """nn.ShaveImage of fast-neural-style: removes `size` pixels on each side."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        s = self.size
        return x[:, :, s : x.shape[2] - s, s : x.shape[3] - s].clone()


# Scripts give -1 for nInputDims where they want to give a later argument only. It means the same as nil.
_REDUCTION = {"dimension": dimension(default=1), "input_dims": integer("nInputDims", 0, minimum=-1)}


@builds("nn.Sum", **_REDUCTION, average=boolean("sizeAverage", False), squeeze=boolean("squeeze", True))
@builds("nn.Mean", **_REDUCTION, average=boolean("sizeAverage", True), squeeze=boolean("squeeze", True))
class Sum(Layer):
    """nn.Sum, or nn.Mean with `average`, over a dimension; the only dimension of a vector stays, with size 1."""

    def __init__(self, dimension: int, input_dims: int = 0, average: bool = False, squeeze: bool = True) -> None:
        super().__init__()
        self.dimension, self.input_dims, self.average, self.squeeze = dimension, input_dims, average, squeeze

    def forward(self, x: Tensor) -> Tensor:
        dimension = behind_batch(self.dimension, x.dim(), self.input_dims)
        out = x.sum(dimension, keepdim=True)
        if self.average:
            out = out / x.shape[dimension]
        return out.squeeze(dimension) if self.squeeze and x.dim() > 1 else out


@builds("nn.Max", **_REDUCTION)
@builds("nn.Min", **_REDUCTION, smallest=True)
class Max(Layer):
    """nn.Max, or nn.Min with `smallest`, over a dimension; the only dimension of a vector stays, with size 1."""

    def __init__(self, dimension: int, input_dims: int = 0, smallest: bool = False) -> None:
        super().__init__()
        self.dimension, self.input_dims, self.smallest = dimension, input_dims, smallest

    def forward(self, x: Tensor) -> Tensor:
        dimension = behind_batch(self.dimension, x.dim(), self.input_dims)
        keep = x.dim() == 1
        return x.amin(dimension, keepdim=keep) if self.smallest else x.amax(dimension, keepdim=keep)


VIEWS.update([nn.Identity, View, Collapse, Reshape, Squeeze, Unsqueeze, Replicate, Contiguous])
