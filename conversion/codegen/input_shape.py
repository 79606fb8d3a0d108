"""The shape of a network's input, inferred from the file or by trying what the network runs on."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..graph.containers import Branches, ParallelTable
from ..graph.registry import flattened, takes_list
from ..t7 import Storage, T7Error, TorchObject, walk
from .generate import Trace

# Sides to try, the likely ones first. A network that ends in Linear runs on only one of them.
SIDES = (224, 32, 64, 128, 256, 299, 227, 231, 221, 28, 48, 96, 112, 160, 192, 240, 320, 384, 448, 512, 16, 8)
FRAMES = (16, 8, 32, 4)


class InputShapeError(ValueError):
    """The shape of the input cannot be inferred."""


def infer(obj: TorchObject, network: nn.Module) -> tuple[int, ...]:
    """Shape of an input of one sample. Raises InputShapeError if the network runs on no plausible one."""
    if takes_list(_first_layer(network)):
        raise InputShapeError("the network takes a table of inputs; only networks that take one tensor can be written")
    for shape in [*_kept(obj), *_plausible(network)]:
        if _runs(network, shape):
            return shape
    raise InputShapeError("the shape of the input cannot be inferred: give it, such as --input-shape 1,3,224,224")


def _first_layer(network: nn.Module) -> nn.Module:
    while isinstance(network, (nn.Sequential, Branches)) and not isinstance(network, ParallelTable) and len(network):
        network = network[0]
    return network


def _kept(obj: TorchObject) -> list[tuple[int, ...]]:
    """The size of its last input that a cudnn layer keeps, if it is the first layer with weights."""
    for node in walk(obj):
        if isinstance(node, TorchObject) and "weight" in node:
            size = node.get("iSize")
            if isinstance(size, Storage) and size.dtype.kind == "i" and 3 <= size.count <= 5:
                kept = [int(n) for n in size.numpy()]
                return [(1, *kept[1:])] if all(0 < n <= 4096 for n in kept) else []
            return []
    return []


def _plausible(network: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes that the first layer with weights takes."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            yield from ((1, module.in_channels, side, side) for side in SIDES)
            return
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            yield from ((1, module.in_channels, frames, side, side) for frames in FRAMES for side in (*SIDES, 112))
            return
        if isinstance(module, nn.Linear):
            yield 1, module.in_features
            return
        if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
            yield from ((1, module.num_features, side, side) for side in SIDES)
            return
        if isinstance(module, nn.BatchNorm1d):
            yield 1, module.num_features
            return


def _runs(network: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the network takes two samples and returns two results: View turns a wrong size into a larger batch."""
    for batch in (2, 1):  # a network may take only one sample
        try:
            output = Trace(network, (batch, *shape[1:])).output
        except T7Error:
            continue
        shapes = [variable.tensor.shape for variable in flattened(output)]
        if batch == 1 or all(shape[:1] == (batch,) for shape in shapes):
            return all(shape.numel() > 0 for shape in shapes)
        return False
    return False
