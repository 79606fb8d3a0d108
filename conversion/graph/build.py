"""Any Torch7 `nn` graph as an nn.Module, literally: the file's own modules in the file's own order.

Knows nothing of ResNeXt, as `mapping` knows nothing of running a graph. So the two are independent readings of a file,
which `verify` compares to prove a conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..t7 import T7Error, TorchObject, walk
from . import activation, containers, convolution, linear, normalisation, pooling, shape, tables
from .registry import BUILDERS, CHILDREN, VIEWS, Flow, Value, error, flattened

THEMES = (activation, containers, convolution, linear, normalisation, pooling, shape, tables)
MAX_CALLS = 20_000  # of modules for one input: 7,000 in a ResNet of 1,000 layers, 2^45 in 45 levels of Sequential{m, m}


class UnsupportedLayerError(T7Error):
    """The graph holds classes without a builder. The message lists each with the paths of its objects."""


def to_module(obj: Any) -> nn.Module:
    """The graph below a module object, in evaluation mode, with the file's weights. Shared storages stay shared.

    The attribute `torch7_path` of each nn.Module is the object path of the object that it was made from. An object that
    appears twice in the graph is one nn.Module. Weights keep their precision, except that half becomes float32.

    Raises UnsupportedLayerError, which lists everything unsupported at once, and T7Error for a graph that is invalid,
    uses the result of a module after the same module was called again, or would take very long to run.
    """
    if not isinstance(obj, TorchObject):
        raise T7Error(f"expected a module such as nn.Sequential, got {obj!r}")
    _check_supported(obj)
    module = _Builder().build(obj).eval()
    try:
        outputs = _Outputs()
        outputs.read(outputs.run(module, frozenset()))
    except T7Error as problem:
        raise T7Error(problem.cause, path=obj.source.path, object_path=problem.object_path) from None
    return module


def modules_by_path(module: nn.Module) -> dict[str, nn.Module]:
    """The modules of a graph from `to_module` by their object paths in the file."""
    return {str(child.torch7_path): child for child in module.modules() if hasattr(child, "torch7_path")}


def _children(obj: TorchObject) -> list[TorchObject]:
    return CHILDREN[obj.class_name](obj) if obj.class_name in CHILDREN else []


def _check_supported(root: TorchObject) -> None:
    """Raise one error for everything that is unsupported."""
    unsupported: dict[str, list[str]] = {}
    for obj in walk(root, _children):
        if isinstance(obj, TorchObject) and obj.class_name not in BUILDERS:
            unsupported.setdefault(obj.class_name, []).append(obj.path or "the root")
    if unsupported:
        listed = "; ".join(f"{name} at {', '.join(paths)}" for name, paths in sorted(unsupported.items()))
        raise UnsupportedLayerError(f"unsupported layers: {listed}", path=root.source.path)


class _Builder:
    def __init__(self) -> None:
        self.built: dict[
            TorchObject, tuple[nn.Module, int]
        ] = {}  # with the number of calls of modules that one call makes
        self.open: set[TorchObject] = set()

    def build(self, obj: TorchObject) -> nn.Module:
        return self._build(obj)[0]

    def _build(self, obj: TorchObject) -> tuple[nn.Module, int]:
        if obj in self.built:
            return self.built[obj]
        if obj in self.open:
            raise obj.error("the module contains itself")
        self.open.add(obj)
        children = [self._build(child) for child in _children(obj)]
        self.open.discard(obj)
        calls = 1 + sum(count for _, count in children)
        if calls > MAX_CALLS:
            raise obj.error(f"expected at most {MAX_CALLS} calls of modules for one input, got {calls}")
        module = BUILDERS[obj.class_name](obj, *(child for child, _ in children))
        if not hasattr(module, "torch7_path"):  # a decorated module keeps its own
            module.torch7_path = obj.path  # type: ignore[assignment]
        self.built[obj] = module, calls
        return module, calls


class _Outputs(Flow):
    """Refuses a graph in which Torch7 overwrites a result that is still in use.

    Each Torch7 module has one output, which its next call overwrites. If the earlier result is still in use, as in an
    nn.ParallelTable that holds one module twice, Torch7 continues with different values than PyTorch.

    A value is a list of values, or the set of outputs that its tensor may lie in: pairs of a module and the number of
    its call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[nn.Module, int] = {}

    def layer(self, module: nn.Module, value: Value) -> Value:
        self.read(value)
        if type(module) in VIEWS:
            return frozenset[Any]().union(*flattened(value))
        if getattr(module, "inplace", False):
            return value[0] if isinstance(value, list) and value else value
        return self.write(module, value)

    def call(
        self, owner: nn.Module, function: Callable[..., Tensor], value: Value, *arguments: int, view: bool = False
    ) -> Value:
        return value if view else self.write(owner, value)

    def items(self, owner: nn.Module, value: Value, count: int) -> list[Value]:
        if not isinstance(value, list):
            return [value] * count
        if len(value) < count:
            raise error(owner, f"{count} modules for a list of {len(value)}")
        return value[:count]

    def size(self, owner: nn.Module, value: Value, dimension: int) -> int | None:
        return None

    def read(self, value: Value) -> None:
        for tensor in flattened(value):
            for module, call in tensor:
                if self.counts[module] != call:
                    raise _overwritten(module)

    def write(self, module: nn.Module, value: Value) -> Value:
        self.read(value)
        call = self.counts.get(module, 0)
        if any((module, call) in tensor for tensor in flattened(value)):  # it would overwrite its own input
            raise _overwritten(module)
        self.counts[module] = call + 1
        return frozenset({(module, call + 1)})


def _overwritten(module: nn.Module) -> T7Error:
    return error(module, "it appears again while its first result is in use, which Torch7 overwrites")
