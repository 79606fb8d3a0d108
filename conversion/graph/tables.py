"""Torch7's layers that take or give tables: lists of values, which are tensors or lists again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..t7 import TorchObject
from .registry import VIEWS, Flow, Value, builds, error, flattened, flow


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


# --- arithmetic: Torch7 does not broadcast; it combines equally many values in order, in the shape of the first -----


class CAddTable(nn.Module):
    """nn.CAddTable: the sum of a list of tensors; in place, the first of them is overwritten."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Any) -> Tensor:
        tensors = as_tensors(x)
        total = tensors[0] if self.inplace else tensors[0].clone()
        for term in tensors[1:]:
            total.add_(term.reshape(total.shape))
        return total

    def extra_repr(self) -> str:
        return f"inplace={self.inplace}"


@builds("nn.CAddTable")
def add_table(obj: TorchObject) -> nn.Module:
    """nn.CAddTable."""
    return CAddTable(obj.boolean("inplace", False))


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
class CMaxTable(nn.Module):
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

    def extra_repr(self) -> str:
        return f"smallest={self.smallest}"


class MixtureTable(nn.Module):
    """nn.MixtureTable: {gate, experts} to the sum of the experts, each weighted by its column of the gate.

    `dimension` is that of the experts in a tensor of all of them, or None: 1 for a batch, 0 for a sample.
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

    def extra_repr(self) -> str:
        return f"{self.dimension}"


@builds("nn.MixtureTable")
def mixture_table(obj: TorchObject) -> nn.Module:
    """nn.MixtureTable."""
    return MixtureTable(obj.dimension("dim") if "dim" in obj else None)


# --- tensors to lists and back --------------------------------------------------------------------------------------


def depth_concat(tensors: list[Tensor], dimension: int) -> Tensor:
    """nn.DepthConcat of what its branches gave: smaller ones lie in the middle of the largest extent, zeros around."""
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


class JoinTable(nn.Module):
    """nn.JoinTable: concatenation of a list. `dimension` from 0; moved by one where there is a batch dimension."""

    def __init__(self, dimension: int, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Any) -> Tensor:
        tensors = as_tensors(x)
        batched = self.input_dims > 0 and tensors[0].dim() == self.input_dims + 1
        return torch.cat(tensors, self.dimension + int(batched and self.dimension >= 0))

    def extra_repr(self) -> str:
        return f"{self.dimension}, input_dims={self.input_dims}"


class SplitTable(nn.Module):
    """nn.SplitTable: the slices along a dimension, without it; they share the input's memory."""

    def __init__(self, dimension: int, input_dims: int = 0) -> None:
        super().__init__()
        self.dimension, self.input_dims = dimension, input_dims

    def forward(self, x: Tensor) -> list[Any]:
        batched = self.input_dims > 0 and x.dim() == self.input_dims + 1
        dimension = self.dimension + int(batched and self.dimension >= 0)
        out: list[Any] = []
        for i in range(x.shape[dimension]):
            out.append(x.select(dimension, i))
        return out

    def extra_repr(self) -> str:
        return f"{self.dimension}, input_dims={self.input_dims}"


VIEWS.add(SplitTable)


@builds("nn.JoinTable", kind=JoinTable)
@builds("nn.SplitTable", kind=SplitTable)
def join_or_split(obj: TorchObject, kind: type[JoinTable] | type[SplitTable]) -> nn.Module:
    """nn.JoinTable and nn.SplitTable."""
    return kind(obj.dimension(), obj.integer("nInputDims", 0, minimum=0))


# --- lists to lists: these make no new tensors, so that convert_graph.py writes no code for them ---------------------


class SelectTable(nn.Module):
    """nn.SelectTable: one of a list. `index` from 0, negative from the end."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: list[Any]) -> Any:
        return x[self.index]

    def extra_repr(self) -> str:
        return f"{self.index}"


@builds("nn.SelectTable")
def select_table(obj: TorchObject) -> nn.Module:
    """nn.SelectTable by a number."""
    return SelectTable(obj.position("index"))


@flow.register
def _(module: SelectTable, value: Value, to: Flow) -> Value:
    if not isinstance(value, list):
        return to.layer(module, value)
    if not -len(value) <= module.index < len(value):
        raise error(module, f"no element {module.index} (from 0) in a list of {len(value)}")
    return value[module.index]


class NarrowTable(nn.Module):
    """nn.NarrowTable: `length` of a list from `start` (from 0)."""

    def __init__(self, start: int, length: int) -> None:
        super().__init__()
        self.start, self.length = start, length

    def forward(self, x: list[Any]) -> list[Any]:
        x = as_list(x)
        return x[self.start : self.start + self.length]

    def extra_repr(self) -> str:
        return f"{self.start}, {self.length}"


@builds("nn.NarrowTable")
def narrow_table(obj: TorchObject) -> nn.Module:
    """nn.NarrowTable."""
    return NarrowTable(obj.integer("offset", minimum=1) - 1, obj.integer("length", 1, minimum=1))


@flow.register
def _(module: NarrowTable, value: Value, to: Flow) -> Value:
    return value[module.start :][: module.length] if isinstance(value, list) else to.layer(module, value)


@builds("nn.FlattenTable")
class FlattenTable(nn.Module):
    """nn.FlattenTable: a list of all tensors of a list of lists of …, in order."""

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
