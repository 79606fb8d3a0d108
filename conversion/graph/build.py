"""Any Torch7 `nn` graph as an nn.Module, literally: the file's own modules in the file's own order.

Knows nothing of ResNeXt. Together with `mapping`, which knows nothing of running a graph, it makes the proof: two
independent readings of one file, held against each other by `verify`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from conversion.graph import sharing
from conversion.graph.layers import BUILDERS, CONTAINERS
from conversion.t7 import T7Error, Table, TorchObject, walk


class UnsupportedLayerError(T7Error):
    """The graph holds classes that there is no builder for; the message lists each with the paths of its objects."""


def to_module(obj: Any) -> nn.Module:
    """The graph that starts at a module object, in evaluation mode, with the file's weights (and sharing its storages).

    Each nn.Module has the attribute `torch7_path`, the object path of what it was made from. An object that appears
    twice in the graph is one nn.Module. Weights keep their precision, except that half becomes float32.

    Raises UnsupportedLayerError that lists everything unsupported at once, and T7Error for a graph that makes no sense
    or that uses the result of a module after the same module was called again.
    """
    if not isinstance(obj, TorchObject):
        raise T7Error(f"expected a module such as nn.Sequential, got {obj!r}")
    _check_supported(obj)
    builder = _Builder()
    module = builder.build(obj).eval()
    if builder.repeated:
        sharing.check(module, obj.source.path)
    return module


def modules_by_path(module: nn.Module) -> dict[str, nn.Module]:
    """The modules of a graph from `to_module` by the object path in the file that each was made from."""
    return {str(child.torch7_path): child for child in module.modules() if hasattr(child, "torch7_path")}


def _children(obj: TorchObject) -> list[TorchObject]:
    if obj.class_name not in CONTAINERS:
        return []
    modules = obj["modules"]
    if not isinstance(modules, Table):
        raise obj.error(f"expected a list as modules, got {modules!r}")
    children = modules.as_list()
    for child in children:
        if not isinstance(child, TorchObject):
            raise modules.error(f"expected modules, got {child!r}")
    return children


def _check_supported(root: TorchObject) -> None:
    """Look at every module once, so that all that is unsupported is reported together."""
    unsupported: dict[str, list[str]] = {}
    for obj in walk(root, _children):
        if isinstance(obj, TorchObject) and obj.class_name not in BUILDERS and obj.class_name not in CONTAINERS:
            unsupported.setdefault(obj.class_name, []).append(obj.path or "the root")
    if unsupported:
        listed = "; ".join(f"{name} at {', '.join(paths)}" for name, paths in sorted(unsupported.items()))
        raise UnsupportedLayerError(f"unsupported layers: {listed}", path=root.source.path)


class _Builder:
    def __init__(self) -> None:
        self.built: dict[TorchObject, nn.Module] = {}
        self.open: set[TorchObject] = set()
        self.repeated = False

    def build(self, obj: TorchObject) -> nn.Module:
        if obj in self.built:
            self.repeated = True
            return self.built[obj]
        if obj in self.open:
            raise obj.error("the module contains itself")
        self.open.add(obj)
        if obj.class_name in CONTAINERS:
            module = CONTAINERS[obj.class_name](obj, [self.build(child) for child in _children(obj)])
        else:
            module = BUILDERS[obj.class_name](obj)
        self.open.discard(obj)
        if not hasattr(module, "torch7_path"):  # the child of a DataParallelTable keeps its own
            module.torch7_path = obj.path  # type: ignore[assignment]
        self.built[obj] = module
        return module
