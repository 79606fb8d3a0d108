"""Torch7's containers as modules that hold modules, in the file's own order.

A table is a list of values: tensors or lists again. In TorchScript a container's own input must be a tensor, and so
must what the branches of ParallelTable take; what layers pass on inside a Sequential may be anything.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from conversion.graph.modules_tables import as_list, as_tensor, depth_concat


class Sequential(nn.Sequential):
    """nn.Sequential: each module takes what the one before gives."""


class ConcatTable(nn.ModuleList):
    """nn.ConcatTable: a list of what each module makes of the same input."""

    def forward(self, x: Tensor) -> list[Any]:
        out: list[Any] = []
        for module in self:
            out.append(module(x))
        return out


class ParallelTable(nn.ModuleList):
    """nn.ParallelTable: the first module takes the first of a list, the second the second, …"""

    def forward(self, x: list[Any]) -> list[Any]:
        out: list[Any] = []
        for i, module in enumerate(self):
            if torch.jit.is_scripting():  # type: ignore[attr-defined]
                out.append(module(as_tensor(x[i])))
            else:
                out.append(module(x[i]))
        return out


class Concat(nn.ModuleList):
    """nn.Concat: what each module makes of the same input, joined along `dimension` (from 0)."""

    def __init__(self, modules: list[nn.Module], dimension: int) -> None:
        super().__init__(modules)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        out: list[Tensor] = []
        for module in self:
            out.append(module(x))
        return torch.cat(out, self.dimension)


class DepthConcat(nn.ModuleList):
    """nn.DepthConcat: as nn.Concat, of outputs that may differ in their other sizes."""

    def __init__(self, modules: list[nn.Module], dimension: int) -> None:
        super().__init__(modules)
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        out: list[Tensor] = []
        for module in self:
            out.append(module(x))
        return depth_concat(out, self.dimension)


class Parallel(nn.ModuleList):
    """nn.Parallel: the first module takes the first slice along a dimension, …; the results joined along another."""

    def __init__(self, modules: list[nn.Module], input_dimension: int, output_dimension: int) -> None:
        super().__init__(modules)
        self.input_dimension, self.output_dimension, self.count = input_dimension, output_dimension, len(modules)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[self.input_dimension] > self.count:
            raise RuntimeError("more slices than modules")
        out: list[Tensor] = []
        for i, module in enumerate(self):
            if i < x.shape[self.input_dimension]:
                out.append(module(x.select(self.input_dimension, i)))
        return torch.cat(out, self.output_dimension)


class DenseConnectLayer(nn.ModuleList):
    """nn.DenseConnectLayerCustom of DenseNet: the list it takes and, behind it, what its modules make of it, joined."""

    def forward(self, x: Any) -> list[Any]:
        out: list[Any] = []
        if isinstance(x, Tensor):
            joined = x
            out.append(x)
        else:
            out = as_list(x)
            joined = torch.cat([as_tensor(value) for value in out], 1)
        for module in self:
            joined = module(joined)
        return out + [joined]  # noqa: RUF005 (TorchScript)
