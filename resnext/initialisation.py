"""The official initialisation (ConvInit and BNInit in models/resnext.lua of facebookresearch/ResNeXt)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from resnext.blocks import Residual


def initialise(model: nn.Module) -> None:
    """Fill every weight of a ResNeXt anew. The forms draw alike: with the same seed they are the same function."""
    if next(model.parameters()).is_meta:  # nothing to fill; and normal_ on meta tensors imports sympy, a second or so
        return
    for convolutions, dim in _as_in_form_c(model):
        weight = torch.cat([convolution.weight.detach() for convolution in convolutions], dim)
        outputs, _, height, width = weight.shape
        nn.init.normal_(weight, 0, math.sqrt(2 / (height * width * outputs)))
        for convolution, part in zip(convolutions, weight.tensor_split(len(convolutions), dim), strict=True):
            convolution.weight.data.copy_(part)
    module: Any
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.reset_parameters()  # uniform within 1 / sqrt(inputs), as Torch7's own
            nn.init.zeros_(module.bias)
        elif module is not model and not isinstance(module, nn.Conv2d) and hasattr(module, "reset_parameters"):
            module.reset_parameters()  # of a normalisation layer: weight 1, bias 0


def zero_residual(model: nn.Module) -> None:
    """Start each bottleneck as its shortcut alone. Raises ValueError where the normalisation has no weight."""
    for block in model.modules():
        if isinstance(block, Residual):
            weight: Any = getattr(block.bn3, "weight", None)
            if weight is None:
                raise ValueError(
                    f"zero_init_residual=True and norm_layer={type(block.bn3).__name__} contradict each other: "
                    "it has no weight to start from zero"
                )
            nn.init.zeros_(weight)


def _as_in_form_c(model: nn.Module) -> Iterator[tuple[list[nn.Conv2d], int]]:
    """The convolutions that are one in form C, in the order of form C, and the dimension that joins their weights."""
    joined: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList):  # the paths of a bottleneck
            for name, dim in (("conv1", 0), ("conv2", 0), ("conv3", 1)):
                convolutions = [getattr(path, name) for path in module if hasattr(path, name)]
                if convolutions:
                    joined.update(convolutions)
                    yield convolutions, dim
        elif isinstance(module, nn.Conv2d) and module not in joined:
            yield [module], 0
