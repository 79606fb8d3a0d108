"""Recognise a ResNeXt in a Torch7 graph by its structure, wherever its modules are nested: which object is which layer.

The authors' Lua code writes a bottleneck as a flat list; their published checkpoints hold the first two convolutions in
a further nn.Sequential. So every nn.Sequential is flattened and the result read as a sentence:

    stem  = convolution, batch norm, ReLU, [max pooling]
    block = ConcatTable{branch, shortcut}, CAddTable, ReLU
    net   = stem, block, …, average pooling, view, linear
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conversion.t7 import T7Error, Table, TorchObject

_KINDS = {
    "convolution": ("cudnn.SpatialConvolution", "nn.SpatialConvolution", "nn.SpatialConvolutionMM"),
    "batch normalization": (
        "nn.SpatialBatchNormalization",
        "cudnn.SpatialBatchNormalization",
        "fbnn.SpatialBatchNormalization",
    ),
    "ReLU": ("cudnn.ReLU", "nn.ReLU"),
    "max pooling": ("nn.SpatialMaxPooling", "cudnn.SpatialMaxPooling"),
    "average pooling": ("nn.SpatialAveragePooling", "cudnn.SpatialAveragePooling"),
    "view": ("nn.View", "nn.Reshape"),
    "linear": ("nn.Linear",),
    "ConcatTable": ("nn.ConcatTable",),
    "CAddTable": ("nn.CAddTable",),
    "JoinTable": ("nn.JoinTable",),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}


@dataclass(frozen=True)
class ConvNorm:
    """A convolution and the batch normalization after it."""

    convolution: TorchObject
    norm: TorchObject


@dataclass(frozen=True)
class Block:
    """A bottleneck. Form C has one path; form B has as many as its cardinality, each with its own two convolutions."""

    paths: list[tuple[ConvNorm, ConvNorm]]
    expand: ConvNorm
    shortcut: ConvNorm | None
    join: TorchObject | None
    end: TorchObject  # the last ReLU, whose output is that of the block


@dataclass(frozen=True)
class Network:
    """The layers of a ResNeXt in a file."""

    stem: ConvNorm
    stem_end: TorchObject
    max_pooling: TorchObject | None
    blocks: list[Block]
    average_pooling: TorchObject
    view: TorchObject
    linear: TorchObject


def find_model(root: Any) -> TorchObject:
    """The network in what a file holds: itself, the value of `model`, or the only module in a table.

    Raises T7Error where there is none, or more than one.
    """
    if isinstance(root, TorchObject):
        return root
    if not isinstance(root, Table):
        raise T7Error(f"expected a network or a table that holds one, got {root!r}")
    if isinstance(root.get("model"), TorchObject):
        found: TorchObject = root["model"]
        return found
    modules = [value for value in root.values() if isinstance(value, TorchObject)]
    if len(modules) == 1:
        return modules[0]
    if isinstance(root.get("modelFile"), str):
        raise root.error(f"this is the index of a checkpoint; the network is in the file {root['modelFile']!r}")
    keys = ", ".join(str(key) for key, _ in zip(root, range(10), strict=False))
    raise root.error(f"expected one network, got {len(modules)} in a table with the keys {keys or '(none)'}")


def recognise(model: TorchObject) -> Network:
    """The layers of the ResNeXt that starts at a module. Raises T7Error at the first thing that no ResNeXt has."""
    ops = _Ops(model, set())
    stem = ops.conv_norm()
    stem_end = ops.take("ReLU")
    max_pooling = ops.take("max pooling") if ops.next_is("max pooling") else None
    blocks = []
    while ops.next_is("ConcatTable"):
        blocks.append(_block(ops))
    network = Network(
        stem,
        stem_end,
        max_pooling,
        blocks,
        average_pooling=ops.take("average pooling", "a bottleneck or average pooling"),
        view=ops.take("view"),
        linear=ops.take("linear"),
    )
    ops.end()
    if not blocks:
        raise model.error("no bottleneck (nn.ConcatTable of branch and shortcut) in the network")
    return network


def _block(ops: _Ops) -> Block:
    concat = ops.take("ConcatTable")
    branches = _modules(concat)
    if len(branches) != 2:
        raise concat.error(f"expected two branches, the bottleneck and its shortcut, got {len(branches)}")
    paths, join, expand = _branch(branches[0], ops.seen)
    shortcut_ops = _Ops(branches[1], ops.seen)
    shortcut = None if shortcut_ops.done else shortcut_ops.conv_norm()
    shortcut_ops.end()
    ops.take("CAddTable")
    return Block(paths, expand, shortcut, join, end=ops.take("ReLU"))


def _branch(
    obj: TorchObject, seen: set[TorchObject]
) -> tuple[list[tuple[ConvNorm, ConvNorm]], TorchObject | None, ConvNorm]:
    ops = _Ops(obj, seen)
    join = None
    if ops.next_is("ConcatTable"):  # form B
        paths = []
        for child in _modules(ops.take("ConcatTable")):
            inner = _Ops(child, seen)
            paths.append(_path(inner))
            inner.end()
        join = ops.take("JoinTable")
    else:
        paths = [_path(ops)]
    expand = ops.conv_norm()
    ops.end()
    return paths, join, expand


def _path(ops: _Ops) -> tuple[ConvNorm, ConvNorm]:
    first = ops.conv_norm()
    ops.take("ReLU")
    second = ops.conv_norm()
    ops.take("ReLU")
    return first, second


class _Ops:
    """The modules that an object runs one after the other, read from the front."""

    def __init__(self, owner: TorchObject, seen: set[TorchObject]) -> None:
        self.owner, self.seen = owner, seen
        self._items = _flatten(owner, seen)
        self._next = next(self._items, None)

    @property
    def done(self) -> bool:
        return self._next is None

    def next_is(self, kind: str) -> bool:
        item = self._next
        return item is not None and _KIND_OF.get(item.class_name) == kind

    def take(self, kind: str, expected: str = "") -> TorchObject:
        item = self._next
        if item is None:
            raise self.owner.error(f"expected {expected or kind}, but the modules end here")
        if _KIND_OF.get(item.class_name) != kind:
            raise item.error(f"not a ResNeXt: expected {expected or kind}, got {item.class_name}")
        self._next = next(self._items, None)
        return item

    def conv_norm(self) -> ConvNorm:
        return ConvNorm(self.take("convolution"), self.take("batch normalization"))

    def end(self) -> None:
        item = self._next
        if item is not None:
            raise item.error(f"not a ResNeXt: expected no further module, got {item.class_name}")


def _modules(obj: TorchObject) -> list[TorchObject]:
    modules = obj["modules"]
    if not isinstance(modules, Table):
        raise obj.error(f"expected a list as modules, got {modules!r}")
    children = modules.as_list()
    if wrong := [child for child in children if not isinstance(child, TorchObject)]:
        raise modules.error(f"expected modules, got {wrong[0]!r}")
    return children


def _flatten(obj: TorchObject, seen: set[TorchObject]) -> Iterator[TorchObject]:
    """The modules of nested nn.Sequential in order of execution; nn.Identity does nothing and is left out."""
    if obj in seen:
        raise obj.error("not a ResNeXt: the module appears more than once in the network")
    seen.add(obj)
    if obj.class_name == "nn.Sequential":
        for child in _modules(obj):
            yield from _flatten(child, seen)
    elif obj.class_name == "nn.DataParallelTable":
        replicas = _modules(obj)
        if not replicas:
            raise obj.error("an nn.DataParallelTable without a network")
        yield from _flatten(replicas[0], seen)  # the others are copies on other GPUs
    elif obj.class_name != "nn.Identity":
        yield obj
