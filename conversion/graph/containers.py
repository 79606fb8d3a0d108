"""Torch7's containers as modules that hold modules, in the file's own order.

A table is a list of values: tensors or further lists. In TorchScript a container's own input must be a tensor, and so
must the inputs of the branches of ParallelTable; layers inside a Sequential may pass on anything.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..t7 import TorchObject
from .registry import Flow, Value, builds, dimension, error, flow
from .tables import as_list, as_tensor, depth_concat


def _first_module(obj: TorchObject) -> list[TorchObject]:
    children = obj.objects()
    if not children:
        raise obj.error(f"an {obj.class_name} without a network")
    return children[:1]  # the other modules of an nn.DataParallelTable are copies


@builds("nn.DataParallelTable", "nn.Decorator", "nn.DontCast", "nn.NaN", "nn.Serial", children=_first_module)
def _decorator(obj: TorchObject, module: nn.Module) -> nn.Module:
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
    """nn.ConcatTable: the outputs of all modules for the same input, as a list."""

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


@builds("nn.Concat", children=TorchObject.objects, dimension=dimension())
class Concat(Branches):
    """nn.Concat: the outputs of all modules for the same input, joined along `dimension` (from 0)."""

    def __init__(self, *modules: nn.Module, dimension: int) -> None:
        super().__init__(*modules)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        out: list[Tensor] = []
        for module in self:
            out.append(module(x))
        return torch.cat(out, self.dimension)


@builds("nn.DepthConcat", children=TorchObject.objects, dimension=dimension())
class DepthConcat(Concat):
    """nn.DepthConcat: like nn.Concat, for outputs that may differ in their other sizes."""

    def forward(self, x: Tensor) -> Tensor:
        out: list[Tensor] = []
        for module in self:
            out.append(module(x))
        return depth_concat(out, self.dimension)


@flow.register
def _(module: Concat, value: Value, to: Flow) -> Value:
    join = depth_concat if isinstance(module, DepthConcat) else torch.cat
    return to.call(module, join, [to.run(child, value) for child in module], module.dimension)


@builds(
    "nn.Parallel",
    children=TorchObject.objects,
    input_dimension=dimension("inputDimension"),
    output_dimension=dimension("outputDimension"),
)
class Parallel(Branches):
    """nn.Parallel: the first module takes the first slice along a dimension, …; another dimension joins the results."""

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
    """nn.DenseConnectLayerCustom of DenseNet: appends to its list what its modules make of the joined list."""

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
