"""A module object that appears twice in a graph: whether Torch7 would compute with it what PyTorch does.

Each Torch7 module keeps one output, which its next call overwrites. Where the earlier result is still in use, as the
first one of an nn.ParallelTable of one module twice, Torch7 goes on with other values: such a graph is refused.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from conversion.graph.containers import Concat, ConcatTable, DenseConnectLayer, DepthConcat, Parallel, ParallelTable
from conversion.graph.modules_shape import Contiguous, Replicate, Reshape, Squeeze, Unsqueeze, View
from conversion.graph.modules_tables import FlattenTable, NarrowTable, SelectTable, SplitTable
from conversion.t7 import T7Error

ALIASES = (nn.Identity, View, Reshape, Squeeze, Unsqueeze, Replicate, Contiguous, SplitTable)

# A value is a list of values, or the outputs that its tensor may lie in: pairs of a module and the number of its call.
Value = Any


def check(root: nn.Module, path: str) -> None:
    """Raises T7Error where a result is used after the module that gave it was called again. `path` is the file's."""
    calls = _Calls(path)
    calls.read(calls.run(root, frozenset()))


class _Calls:
    def __init__(self, path: str) -> None:
        self.path = path
        self.counts: dict[nn.Module, int] = {}

    def run(self, module: nn.Module, value: Value) -> Value:
        if isinstance(module, nn.Sequential):
            for child in module:
                value = self.run(child, value)
            return value
        if isinstance(module, ParallelTable):
            values = value if isinstance(value, list) else [value] * len(module)
            return [self.run(child, part) for child, part in zip(module, values, strict=False)]
        if isinstance(module, DenseConnectLayer):
            out = self.write(module, value) if isinstance(value, list) else value
            for child in module:
                out = self.run(child, out)
            return [*(value if isinstance(value, list) else [value]), out]
        if isinstance(module, (ConcatTable, Concat, DepthConcat, Parallel)):
            branches = [self.run(child, value) for child in module]
            return branches if isinstance(module, ConcatTable) else self.write(module, branches)
        if isinstance(value, list) and isinstance(module, (SelectTable, NarrowTable)):
            return module(value)
        if isinstance(value, list) and isinstance(module, FlattenTable):
            return _flattened(value)
        self.read(value)
        if isinstance(module, ALIASES):
            return frozenset().union(*_flattened(value))
        if getattr(module, "inplace", False) or type(module).__name__.endswith("InPlace"):
            return value[0] if isinstance(value, list) else value
        return self.write(module, value)

    def read(self, value: Value) -> None:
        for tensor in _flattened(value):
            for module, call in tensor:
                if self.counts[module] != call:
                    self.refuse(module)

    def write(self, module: nn.Module, value: Value) -> Value:
        self.read(value)
        call = self.counts.get(module, 0)
        if any((module, call) in tensor for tensor in _flattened(value)):  # it would read what it is writing
            self.refuse(module)
        self.counts[module] = call + 1
        return frozenset({(module, call + 1)})

    def refuse(self, module: nn.Module) -> None:
        raise T7Error(
            f"this {type(module).__name__} appears again while its first result is in use, which Torch7 overwrites",
            path=self.path,
            object_path=str(getattr(module, "torch7_path", "")),
        )


def _flattened(value: Value) -> list[frozenset[Any]]:
    return [item for part in value for item in _flattened(part)] if isinstance(value, list) else [value]
