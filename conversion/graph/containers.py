"""Torch7's containers as modules that hold modules, in the file's own order.

A table is a list of values: tensors or lists again. In TorchScript a container's own input must be a tensor, and so
must what the branches of ParallelTable take; what layers pass on inside a Sequential may be anything.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..t7 import TorchObject
from .registry import Flow, Value, builds, error, flow
from .tables import as_list, as_tensor, depth_concat


def first_module(obj: TorchObject) -> list[TorchObject]:
    """What a decorator decorates; the further modules of an nn.DataParallelTable are copies of its first."""
    children = obj.objects()
    if not children:
        raise obj.error(f"an {obj.class_name} without a network")
    return children[:1]


@builds("nn.DataParallelTable", "nn.DontCast", "nn.NaN", "nn.Serial", children=first_module)
def decorator(obj: TorchObject, module: nn.Module) -> nn.Module:
    """The decorated module itself."""
    return module


@builds("nn.Sequential", children=TorchObject.objects)
class Sequential(nn.Sequential):
    """nn.Sequential: each module takes what the one before gives."""


@flow.register
def _(module: nn.Sequential, value: Value, to: Flow) -> Value:
    for child in module:
        value = to.run(child, value)
    return value


class Branches(nn.ModuleList):
    """A list of modules."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(modules)


@builds("nn.ConcatTable", children=TorchObject.objects)
class ConcatTable(Branches):
    """nn.ConcatTable: a list of what each module makes of the same input."""

    def forward(self, x: Tensor) -> list[Any]:
        out: list[Any] = []
        for module in self:
            out.append(module(x))
        return out


@flow.register
def _(module: ConcatTable, value: Value, to: Flow) -> Value:
    return [to.run(child, value) for child in module]


@builds("nn.ParallelTable", children=TorchObject.objects)
class ParallelTable(Branches):
    """nn.ParallelTable: the first module takes the first of a list, the second the second, …"""

    def forward(self, x: list[Any]) -> list[Any]:
        out: list[Any] = []
        for i, module in enumerate(self):
            if torch.jit.is_scripting():
                out.append(module(as_tensor(x[i])))
            else:
                out.append(module(x[i]))
        return out


@flow.register
def _(module: ParallelTable, value: Value, to: Flow) -> Value:
    parts = to.items(module, value, len(module))
    return [to.run(child, part) for child, part in zip(module, parts, strict=True)]


class Concat(Branches):
    """nn.Concat: what each module makes of the same input, joined along `dimension` (from 0)."""

    def __init__(self, *modules: nn.Module, dimension: int) -> None:
        super().__init__(*modules)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        out: list[Tensor] = []
        for module in self:
            out.append(module(x))
        return torch.cat(out, self.dimension)


class DepthConcat(Branches):
    """nn.DepthConcat: as nn.Concat, of outputs that may differ in their other sizes."""

    def __init__(self, *modules: nn.Module, dimension: int) -> None:
        super().__init__(*modules)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        out: list[Tensor] = []
        for module in self:
            out.append(module(x))
        return depth_concat(out, self.dimension)


@builds("nn.Concat", children=TorchObject.objects, kind=Concat)
@builds("nn.DepthConcat", children=TorchObject.objects, kind=DepthConcat)
def concat(obj: TorchObject, *modules: nn.Module, kind: type[Concat] | type[DepthConcat]) -> nn.Module:
    """nn.Concat and nn.DepthConcat."""
    return kind(*modules, dimension=obj.dimension())


@flow.register(Concat)
@flow.register(DepthConcat)
def _(module: Concat | DepthConcat, value: Value, to: Flow) -> Value:
    join = torch.cat if isinstance(module, Concat) else depth_concat
    return to.call(module, join, [to.run(child, value) for child in module], module.dimension)


class Parallel(Branches):
    """nn.Parallel: the first module takes the first slice along a dimension, …; the results joined along another."""

    def __init__(self, *modules: nn.Module, input_dimension: int, output_dimension: int) -> None:
        super().__init__(*modules)
        self.input_dimension, self.output_dimension, self.count = input_dimension, output_dimension, len(modules)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[self.input_dimension] > self.count:
            raise RuntimeError("more slices than modules")
        out: list[Tensor] = []
        for i, module in enumerate(self):
            if i < x.shape[self.input_dimension]:
                out.append(module(x.select(self.input_dimension, i)))
        return torch.cat(out, self.output_dimension)


@builds("nn.Parallel", children=TorchObject.objects)
def parallel(obj: TorchObject, *modules: nn.Module) -> nn.Module:
    """nn.Parallel."""
    dimensions = obj.dimension("inputDimension"), obj.dimension("outputDimension")
    return Parallel(*modules, input_dimension=dimensions[0], output_dimension=dimensions[1])


@flow.register
def _(module: Parallel, value: Value, to: Flow) -> Value:
    count = to.size(module, value, module.input_dimension)
    if count is not None and count > len(module):
        raise error(module, f"{len(module)} modules for {count} slices")
    out = []
    for i, child in enumerate(list(module)[:count]):
        out.append(to.run(child, to.call(module, torch.select, value, module.input_dimension, i, view=True)))
    return to.call(module, torch.cat, out, module.output_dimension)


@builds("nn.DenseConnectLayerCustom", children=TorchObject.objects)
class DenseConnectLayer(Branches):
    """nn.DenseConnectLayerCustom of DenseNet: the list it takes and, behind it, what its modules make of it, joined."""

    def forward(self, x: Any) -> list[Any]:
        out: list[Any] = []
        if isinstance(x, Tensor):
            joined = x
            out.append(x)
        else:
            out += as_list(x)
            joined = torch.cat([as_tensor(value) for value in out], 1)
        for module in self:
            joined = module(joined)
        out.append(joined)
        return out


@flow.register
def _(module: DenseConnectLayer, value: Value, to: Flow) -> Value:
    joined = to.call(module, torch.cat, value, 1) if isinstance(value, list) else value
    for child in module:
        joined = to.run(child, joined)
    return [*(value if isinstance(value, list) else [value]), joined]
