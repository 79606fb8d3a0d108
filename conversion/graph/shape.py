"""Torch7 layers that change the shape of a tensor, cut from it, copy or reduce it.

Dimensions count from 0 here, negative ones from the end. `input_dims` is Torch7's nInputDims: how many dimensions one
sample has, so that a batch dimension is recognised; 0 where it is not set. View, Squeeze and their like share the
input's memory as in Torch7; Narrow, Select and Transpose copy as they do there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..t7 import Table, TorchObject
from ..t7 import Tensor as T7Tensor
from .registry import VIEWS, builds, filled

# What acts in training or on gradients only, or only prints.
for name in (
    "CopyGrad", "GradientReversal", "Identity", "L1Penalty", "NormStabilizer", "PrintSize", "TotalDropout",
    "TotalVariation", "ZeroGrad",
):  # fmt: skip
    builds(f"nn.{name}")(nn.Identity)


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
        shape = [batch]
        shape.extend(self.size)
        return x.reshape(shape)

    def extra_repr(self) -> str:
        return ", ".join([*map(str, self.size), f"input_dims={self.input_dims}"])


@builds("nn.View")
def view(obj: TorchObject) -> nn.Module:
    """nn.View."""
    return View(*_sizes(obj), input_dims=obj.integer("numInputDims", 0, minimum=0))


@builds("nn.Collapse")
def collapse(obj: TorchObject) -> nn.Module:
    """nn.Collapse: all dimensions of a sample in one."""
    return View(-1, input_dims=obj.integer("nInputDim", minimum=1))


def _sizes(obj: TorchObject, inferred: int = 1) -> list[int]:
    """Sizes from 1, of which as many as `inferred` may be -1."""
    sizes = obj.sizes()
    if not sizes or any(n < 1 and n != -1 for n in sizes) or sizes.count(-1) > inferred or math.prod(sizes) >= 2**63:
        raise obj.error(f"expected sizes from 1, {inferred} of them may be -1, as size, got {sizes}")
    return sizes


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
        shape = [x.shape[0]]
        shape.extend(self.size)
        return x.reshape(shape)

    def extra_repr(self) -> str:
        return ", ".join([*map(str, self.size), f"batch_mode={self.batch_mode}"])


@builds("nn.Reshape")
def reshape(obj: TorchObject) -> nn.Module:
    """nn.Reshape; batchMode may be nil."""
    mode = obj.boolean("batchMode") if "batchMode" in obj else None
    return Reshape(*_sizes(obj, inferred=0), batch_mode=mode)


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


@builds("nn.Narrow")
def narrow(obj: TorchObject) -> nn.Module:
    """nn.Narrow."""
    index, length = obj.integer("index"), obj.integer("length", 1)
    if not index or not length:
        raise obj.error(f"expected an index and a length other than 0, got {index} and {length}")
    return Narrow(obj.dimension(), index, length)


class Select(nn.Module):
    """nn.Select: one slice, without its dimension."""

    def __init__(self, dimension: int, index: int) -> None:
        super().__init__()
        self.dimension, self.index = dimension, index

    def forward(self, x: Tensor) -> Tensor:
        return x.select(self.dimension, self.index).clone()

    def extra_repr(self) -> str:
        return f"{self.dimension}, {self.index}"


@builds("nn.Select")
def select(obj: TorchObject) -> nn.Module:
    """nn.Select."""
    return Select(obj.dimension(), obj.position("index"))


class Squeeze(nn.Module):
    """nn.Squeeze: without dimensions of 1, or without that one; a tensor keeps at least one dimension.

    Without `dimension`, a batch of 1 survives where `input_dims` is set, and a single value is refused.
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

    def extra_repr(self) -> str:
        return f"{self.dimension}, input_dims={self.input_dims}"


@builds("nn.Squeeze")
def squeeze(obj: TorchObject) -> nn.Module:
    """nn.Squeeze of one dimension, or of all."""
    return Squeeze(obj.dimension("dim") if "dim" in obj else None, obj.integer("numInputDims", 0, minimum=0))


class Unsqueeze(nn.Module):
    """nn.Unsqueeze: a new dimension of 1, counted within one sample where `input_dims` is set."""

    def __init__(self, dimension: int, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Tensor) -> Tensor:
        dimension = self.dimension + (x.dim() - self.input_dims if self.input_dims > 0 else 0)
        if dimension < 0:
            raise RuntimeError("fewer dimensions than nn.Unsqueeze expects")
        return x.unsqueeze(dimension)

    def extra_repr(self) -> str:
        return f"{self.dimension}, input_dims={self.input_dims}"


@builds("nn.Unsqueeze")
def unsqueeze(obj: TorchObject) -> nn.Module:
    """nn.Unsqueeze."""
    position = obj.integer("pos", minimum=1)
    return Unsqueeze(position - 1, obj.integer("numInputDims", 0, minimum=0))


class Transpose(nn.Module):
    """nn.Transpose: pairs of dimensions swapped in turn, counted within one sample if `input_dims` is set."""

    def __init__(self, *pairs: tuple[int, int], input_dims: int = 0) -> None:
        super().__init__()
        self.first, self.second, self.input_dims = [a for a, _ in pairs], [b for _, b in pairs], input_dims

    def forward(self, x: Tensor) -> Tensor:
        batch = max(x.dim() - self.input_dims, 0) if self.input_dims > 0 else 0
        for i in range(len(self.first)):
            x = x.transpose(self.first[i] + batch, self.second[i] + batch)
        return x.clone(memory_format=torch.contiguous_format)

    def extra_repr(self) -> str:
        pairs = zip(self.first, self.second, strict=True)
        return ", ".join([*(f"({a}, {b})" for a, b in pairs), f"input_dims={self.input_dims}"])


@builds("nn.Transpose")
def transpose(obj: TorchObject) -> nn.Module:
    """nn.Transpose: a list of pairs."""
    pairs = []
    for pair in obj["permutations"].as_list() if isinstance(obj["permutations"], Table) else [None]:
        values = pair.as_list() if isinstance(pair, Table) else []
        if len(values) != 2 or not all(type(value) is int and 0 < value <= 64 for value in values):
            raise obj.error(f"expected pairs of dimensions, counted from 1, as permutations, got {pair!r}")
        pairs.append((values[0] - 1, values[1] - 1))
    return Transpose(*pairs, input_dims=obj.integer("numInputDims", 0, minimum=0))


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


@builds("nn.Replicate")
def replicate(obj: TorchObject) -> nn.Module:
    """nn.Replicate."""
    dims = obj.integer("ndim", 0, minimum=0)
    return Replicate(obj.integer("nfeatures", minimum=1), obj.dimension("dim", 1), dims)


@builds("nn.Contiguous")
class Contiguous(nn.Module):
    """nn.Contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()


class Copy(nn.Module):
    """nn.Copy: a copy in the type of the buffer `like`, which `.float()` or `.double()` of the network changes."""

    def __init__(self) -> None:
        super().__init__()
        self.like = nn.Buffer(torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.like.dtype, copy=True)


@builds("nn.Copy")
def copy(obj: TorchObject) -> nn.Module:
    """nn.Copy; between tensors of one type its methods are replaced by functions that hand the input on."""
    if "updateOutput" in obj:
        return nn.Identity()
    output = obj.get("output")
    if output is not None and not isinstance(output, T7Tensor):
        raise obj.error(f"expected a tensor as output, got {output!r}")
    dtype = "float32" if output is None or output.dtype.itemsize == 2 else output.dtype.name
    return filled(Copy, tensors={"like": torch.empty(0, dtype=getattr(torch, dtype))})


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


@builds("nn.Padding")
def pad(obj: TorchObject) -> nn.Module:
    """nn.Padding."""
    dims, index = obj.integer("nInputDim", 0, minimum=0), obj.integer("index", 1, minimum=1)
    return Padding(obj.dimension("dim"), obj.integer("pad"), dims, obj.number("value", 0), index)


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


@builds("nn.ShaveImage")
def shave_image(obj: TorchObject) -> nn.Module:
    """nn.ShaveImage of fast-neural-style."""
    return ShaveImage(obj.integer("size", minimum=0))


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


@builds("nn.Sum", average=False)
@builds("nn.Mean", average=True)
def sum_or_mean(obj: TorchObject, average: bool) -> nn.Module:
    """nn.Sum and nn.Mean; the field sizeAverage says more than the class."""
    return Sum(
        obj.dimension(default=1),
        obj.integer("nInputDims", 0, minimum=0),
        obj.boolean("sizeAverage", average),
        obj.boolean("squeeze", True),
    )


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


@builds("nn.Max", smallest=False)
@builds("nn.Min", smallest=True)
def max_or_min(obj: TorchObject, smallest: bool) -> nn.Module:
    """nn.Max and nn.Min."""
    return Max(obj.dimension(default=1), obj.integer("nInputDims", 0, minimum=0), smallest)


VIEWS.update([nn.Identity, View, Reshape, Squeeze, Unsqueeze, Replicate, Contiguous])
