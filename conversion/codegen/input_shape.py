"""The shape of what a network takes, inferred from what the file kept or from what the network runs on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from conversion.graph import modules_tables
from conversion.graph.containers import ParallelTable
from conversion.t7 import Storage, TorchObject, walk

# Sides to try, the likely ones first: a network that ends in Linear runs on one of them alone.
SIDES = (224, 32, 64, 128, 256, 299, 227, 231, 221, 28, 48, 96, 112, 160, 192, 240, 320, 384, 448, 512, 16, 8)
FRAMES = (16, 8, 32, 4)
TAKES_TABLE = tuple(getattr(modules_tables, name) for name in vars(modules_tables) if name.endswith("Table"))


class InputShapeError(ValueError):
    """The shape of the input cannot be inferred, or is not one that the network takes."""


def infer(obj: TorchObject, network: nn.Module) -> tuple[int, ...]:
    """Shape of an input of one sample. Raises InputShapeError where no plausible one is found."""
    first = _first_layer(network)
    if isinstance(first, (ParallelTable, *TAKES_TABLE)) and not isinstance(first, modules_tables.SplitTable):
        raise InputShapeError("the network takes a table of inputs; only networks that take one tensor can be written")
    for shape in [*_kept(obj), *_plausible(network)]:
        if _runs(network, shape):
            return shape
    raise InputShapeError("the shape of the input cannot be inferred: give it, such as --input-shape 1,3,224,224")


def _first_layer(network: nn.Module) -> nn.Module:
    while (
        isinstance(network, (nn.Sequential, nn.ModuleList)) and not isinstance(network, ParallelTable) and len(network)
    ):
        network = network[0]
    return network


def _kept(obj: TorchObject) -> list[tuple[int, ...]]:
    """What a used cudnn layer remembers, if it is the first of the file."""
    for node in walk(obj):
        if isinstance(node, TorchObject) and "weight" in node:
            size = node.get("iSize")
            if isinstance(size, Storage) and 3 <= size.count <= 5:
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
    """Whether the network takes a batch of two and gives two results: View turns a wrong size into a larger batch.

    Tried without values, on the meta device, where a size costs nothing.
    """
    values = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    without = {name: torch.empty_like(value, device="meta") for name, value in values.items()}
    for batch in (2, 1):  # a network may be made for one sample alone
        try:
            with torch.no_grad():
                out = torch.func.functional_call(network, without, torch.empty(batch, *shape[1:], device="meta"))
        except (RuntimeError, IndexError, ValueError):
            continue
        tensors = _tensors(out)
        if batch == 1 or all(tensor.dim() > 0 and tensor.shape[0] == batch for tensor in tensors):
            return all(tensor.numel() > 0 for tensor in tensors)
        return False
    return False


def _tensors(value: Tensor | list[Tensor]) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _tensors(part)]
