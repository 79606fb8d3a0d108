"""Torch7's layers that take or return tables: lists of values, which are tensors or further lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..t7 import TorchObject
from .registry import VIEWS, Flow, Layer, Value, builds, dimension, error, flattened, flow, in_place, integer, position


def as_tensor(value: Any) -> Tensor:
    """The value, which must be a tensor."""
    if not isinstance(value, Tensor):
        raise RuntimeError("expected a tensor in the list, got a list")
    return value


def as_list(value: Any) -> list[Any]:
    """The value, which must be a list."""
    if torch.jit.is_scripting():
        if not torch.jit.isinstance(value, list[Any]):
            raise RuntimeError("expected a list, got a tensor")
        return value
    if not isinstance(value, list):  # a tensor could be indexed too, but Torch7 fails here
        raise RuntimeError("expected a list, got a tensor")
    return value


def as_tensors(value: Any) -> list[Tensor]:
    """The value, which must be a list of tensors. To TorchScript, list[Tensor] is not a list[Any]."""
    if torch.jit.is_scripting() and torch.jit.isinstance(value, list[Tensor]):
        return value
    return [as_tensor(item) for item in as_list(value)]


# --- arithmetic: Torch7 does not broadcast. It combines values in order; the result has the shape of the first ------


@builds("nn.CAddTable", inplace=in_place)
class CAddTable(Layer):
    """nn.CAddTable: the sum of a list of tensors; with `inplace`, it overwrites the first of them."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Any) -> Tensor:
        tensors = as_tensors(x)
        total = tensors[0] if self.inplace else tensors[0].clone()
        for term in tensors[1:]:
            total.add_(term.reshape(total.shape))
        return total


@builds("nn.CSubTable")
class CSubTable(nn.Module):
    """nn.CSubTable: the first of a list less the second."""

    def forward(self, x: Any) -> Tensor:
        tensors = as_tensors(x)
        return tensors[0] - tensors[1].reshape(tensors[0].shape)


@builds("nn.CMulTable")
class CMulTable(nn.Module):
    """nn.CMulTable: the product of a list of tensors."""

    def forward(self, x: Any) -> Tensor:
        tensors = as_tensors(x)
        product = tensors[0].clone()
        for factor in tensors[1:]:
            product.mul_(factor.reshape(product.shape))
        return product


@builds("nn.CDivTable")
class CDivTable(nn.Module):
    """nn.CDivTable: the first of a list over the second."""

    def forward(self, x: Any) -> Tensor:
        tensors = as_tensors(x)
        return tensors[0] / tensors[1].reshape(tensors[0].shape)


@builds("nn.CMaxTable")
@builds("nn.CMinTable", smallest=True)
class CMaxTable(Layer):
    """nn.CMaxTable, or nn.CMinTable with `smallest`: the largest of a list of tensors, value by value."""

    def __init__(self, smallest: bool = False) -> None:
        super().__init__()
        self.smallest = smallest

    def forward(self, x: Any) -> Tensor:
        tensors = as_tensors(x)
        best = tensors[0].clone()
        for value in tensors[1:]:
            other = value.reshape(best.shape)
            best = torch.minimum(best, other) if self.smallest else torch.maximum(best, other)
        return best


class MixtureTable(Layer):
    """nn.MixtureTable: takes {gate, experts} and returns the experts' sum, each weighted by its column of the gate.

    The experts may be one tensor; `dimension` counts them. None means 1 for a batch and 0 for a sample.
    """

    def __init__(self, dimension: int | None = None) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, x: list[Any]) -> Tensor:
        gate, experts = as_tensor(x[0]), x[1]
        dimension = self.dimension
        if dimension is None:
            dimension = 0 if gate.dim() < 2 else 1
        joined = experts if isinstance(experts, Tensor) else torch.stack(
            [as_tensor(value) for value in as_list(experts)], dimension
        )  # fmt: skip
        size = [1] * joined.dim()
        if gate.dim() > 1:
            size[0] = gate.shape[0]
        size[dimension] = gate.shape[-1]
        return (gate.reshape(size) * joined).sum(dimension)


@builds("nn.MixtureTable")
def _mixture_table(obj: TorchObject) -> nn.Module:
    return MixtureTable(obj.dimension("dim") if "dim" in obj else None)


# --- tensors to lists and back --------------------------------------------------------------------------------------


def behind_batch(dimension: int, dims: int, input_dims: int) -> int:
    """A dimension of one sample, of `input_dims`, as a dimension of a tensor of `dims`, which may be a batch."""
    return dimension + 1 if dimension >= 0 and input_dims > 0 and dims == input_dims + 1 else dimension


def depth_concat(tensors: list[Tensor], dimension: int) -> Tensor:
    """The tensors joined as nn.DepthConcat does: it centres smaller ones in the largest extent, with zeros around."""
    size = list(tensors[0].shape)
    for tensor in tensors[1:]:
        for i in range(len(size)):
            size[i] = max(size[i], tensor.shape[i])
    windows: list[Tensor] = []
    for tensor in tensors:
        size[dimension] = tensor.shape[dimension]
        window = tensor.new_zeros(size)
        middle = window
        for i in range(len(size)):
            middle = middle.narrow(i, (size[i] - tensor.shape[i]) // 2, tensor.shape[i])
        middle.copy_(tensor)
        windows.append(window)
    return torch.cat(windows, dimension)


@builds("nn.JoinTable", dimension=dimension(), input_dims=integer("nInputDims", 0, minimum=0))
class JoinTable(Layer):
    """nn.JoinTable: a list joined along `dimension`, which counts from 0 in one sample if `input_dims` is set."""

    def __init__(self, dimension: int, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Any) -> Tensor:
        tensors = as_tensors(x)
        return torch.cat(tensors, behind_batch(self.dimension, tensors[0].dim(), self.input_dims))


@builds("nn.SplitTable", dimension=dimension(), input_dims=integer("nInputDims", 0, minimum=0))
class SplitTable(Layer):
    """nn.SplitTable: the slices along a dimension, as views that lack it."""

    def __init__(self, dimension: int, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Tensor) -> list[Any]:
        dimension = behind_batch(self.dimension, x.dim(), self.input_dims)
        out: list[Any] = []
        for i in range(x.shape[dimension]):
            out.append(x.select(dimension, i))
        return out


VIEWS.add(SplitTable)

# --- lists to lists: these make no new tensors, so convert_graph.py writes no code for them --------------------------


@builds("nn.SelectTable", index=position("index"))
class SelectTable(Layer):
    """nn.SelectTable: one item of a list. `index` counts from 0, or backwards from -1."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: list[Any]) -> Any:
        return x[self.index]


@flow.register
def _(module: SelectTable, value: Value, to: Flow) -> Value:
    if not isinstance(value, list):
        return to.layer(module, value)
    if not -len(value) <= module.index < len(value):
        raise error(module, f"no element {module.index} (from 0) in a list of {len(value)}")
    return value[module.index]


class NarrowTable(Layer):
    """nn.NarrowTable: `length` items of a list from `start` on (from 0)."""

    def __init__(self, start: int, length: int) -> None:
        super().__init__()
        self.start, self.length = start, length

    def forward(self, x: list[Any]) -> list[Any]:
        x = as_list(x)
        return x[self.start : self.start + self.length]


@builds("nn.NarrowTable")
def _narrow_table(obj: TorchObject) -> nn.Module:
    return NarrowTable(obj.integer("offset", minimum=1) - 1, obj.integer("length", 1, minimum=1))


@flow.register
def _(module: NarrowTable, value: Value, to: Flow) -> Value:
    return value[module.start :][: module.length] if isinstance(value, list) else to.layer(module, value)


@builds("nn.ReverseTable")
class ReverseTable(nn.Module):
    """nn.ReverseTable: a list from its end."""

    def forward(self, x: list[Any]) -> list[Any]:
        return as_list(x)[::-1]


@flow.register
def _(module: ReverseTable, value: Value, to: Flow) -> Value:
    return value[::-1] if isinstance(value, list) else to.layer(module, value)


@builds("nn.FlattenTable")
class FlattenTable(nn.Module):
    """nn.FlattenTable: all tensors of nested lists, in order, as one list."""

    def forward(self, x: list[Any]) -> list[Any]:
        out: list[Any] = []
        rest = as_list(x)[::-1]
        while len(rest) > 0:
            value = rest.pop()
            if isinstance(value, Tensor):
                out.append(value)
            else:
                rest.extend(as_list(value)[::-1])
        return out


@flow.register
def _(module: FlattenTable, value: Value, to: Flow) -> Value:
    return flattened(value) if isinstance(value, list) else to.layer(module, value)
