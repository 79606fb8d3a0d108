"""A Torch7 graph that is a ResNeXt to its architecture and state_dict.

Shares nothing with `graph` but the reader: the two are independent readings of one file, for `verify` to compare.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from conversion.mapping.structure import ConvNorm, Network, find_model, recognise
from conversion.mapping.values import ParameterReader, whole_number
from conversion.t7 import T7Error, Tensor, TorchObject
from resnext.architecture import Architecture
from resnext.forms import convert_state_dict
from resnext.model import ResNeXt

_POOLED_STRIDE = {"imagenet": 32, "cifar": 4}  # pixels of the input to one of the last feature map


@dataclass(frozen=True)
class Conversion:
    """What a Torch7 file holds, as a ResNeXt; of form C unless it is rewritten.

    Attributes:
        architecture: read off the file.
        state_dict: its weights, float32, under torchvision's names.
        model: the network's root object in the file.
        source_form: "B" or "C", the form of the bottlenecks in the file.
        image_size: height and width in pixels of the input that the file's average pooling is made for.
        stages: name of each stage to the object path of the module that gives its output.
        notes: whatever was not taken over as it stands, for people to read.
        form: of the state_dict.
    """

    architecture: Architecture
    state_dict: dict[str, torch.Tensor]
    model: TorchObject
    source_form: str
    image_size: int
    stages: dict[str, str]
    notes: list[str]
    form: str = "C"

    def in_form(self, form: str) -> Conversion:
        """The same with the state_dict rewritten. Raises ValueError for an unknown form."""
        return replace(self, state_dict=convert_state_dict(self.state_dict, self.form, form), form=form)


def convert(root: Any, progress: Callable[[list[Any]], Iterable[Any]] = iter) -> Conversion:
    """Convert the root object of a file (`t7.load`): a network, or a table or DataParallelTable that holds one.

    Every parameter and running statistic is used exactly once and every entry of the state_dict filled exactly once.
    `progress` wraps the loop over the layers. Raises T7Error that says where the file is not a ResNeXt, what is left
    over or missing, or which values cannot be right.
    """
    model = find_model(root)
    network = recognise(model)
    architecture, empty = _architecture(network)
    _check_pooling(network, empty, architecture)

    reader = ParameterReader()
    values: dict[str, np.ndarray] = {}
    for (convolution, norm), sources in progress(list(_layers(network, empty).items())):
        weight, statistics = reader.conv_norm(
            cast(nn.Conv2d, empty.get_submodule(convolution)), cast(nn.BatchNorm2d, empty.get_submodule(norm)), sources
        )
        values[f"{convolution}.weight"] = weight
        values |= {f"{norm}.{name}": value for name, value in statistics.items()}
    values |= {f"fc.{name}": value for name, value in reader.linear(empty.fc, network.linear).items()}
    reader.check_all_used(root)

    state_dict: dict[str, torch.Tensor] = {}
    for key in empty.state_dict():
        if key.endswith("num_batches_tracked"):  # PyTorch's own counter, which Torch7 does not keep
            state_dict[key] = torch.tensor(0)
        elif key in values:
            state_dict[key] = torch.from_numpy(values.pop(key))
        else:
            raise model.error(f"the file has nothing for {key}")
    if values:
        raise model.error(f"left over: {', '.join(values)}")
    kernel = whole_number(network.average_pooling, "kH")
    return Conversion(
        architecture,
        state_dict,
        model,
        source_form="C" if network.blocks[0].join is None else "B",
        image_size=kernel * _POOLED_STRIDE[architecture.stem],
        stages=_stages(network, architecture),
        notes=reader.notes(),
    )


def _architecture(network: Network) -> tuple[Architecture, ResNeXt]:
    """Depth, cardinality, widths, stem, shortcut type and classes, from the sizes in the file; and its model."""
    outputs = [whole_number(block.expand.convolution, "nOutputPlane") for block in network.blocks]
    layers = tuple(len(list(group)) for _, group in itertools.groupby(outputs))
    if len(layers) not in (3, 4):
        raise network.linear.error(
            f"not a ResNeXt: {len(layers)} stages of {layers} bottlenecks; expected 3 or 4 stages"
        )
    starts = {sum(layers[:i]) for i in range(len(layers))}
    first = network.blocks[0]
    convolution = first.paths[0][1].convolution
    groups = whole_number(convolution, "groups", 1) * len(first.paths)
    weight = network.linear["weight"]
    if not isinstance(weight, Tensor) or len(weight.shape) != 2:
        raise network.linear.error(f"expected a matrix as weight, got {weight!r}")
    try:
        architecture = Architecture(
            layers,
            cardinality=groups,
            base_width=whole_number(convolution, "nOutputPlane") * len(first.paths) // max(groups, 1),
            stem="imagenet" if whole_number(network.stem.convolution, "kW") == 7 else "cifar",
            shortcut="C" if any(b.shortcut for i, b in enumerate(network.blocks) if i not in starts) else "B",
            num_classes=weight.shape[0],
            in_channels=whole_number(network.stem.convolution, "nInputPlane"),
        )
        return architecture, architecture.build_empty()
    except T7Error:
        raise
    except (ValueError, RuntimeError, OverflowError) as error:  # sizes that torch cannot build
        raise network.linear.error(f"not a ResNeXt: {error}") from None


def _layers(network: Network, empty: ResNeXt) -> dict[tuple[str, str], list[ConvNorm]]:
    """Names of each convolution and its batch norm to where they are in the file; several of them in form B."""
    layers = {("conv1", "bn1"): [network.stem]}
    blocks = [
        (f"{stage}.{index}", block)
        for stage, blocks in empty.named_children()
        if stage.startswith("layer")
        for index, block in blocks.named_children()
    ]
    for (name, module), block in zip(blocks, network.blocks, strict=True):
        layers[f"{name}.conv1", f"{name}.bn1"] = [first for first, _ in block.paths]
        layers[f"{name}.conv2", f"{name}.bn2"] = [second for _, second in block.paths]
        layers[f"{name}.conv3", f"{name}.bn3"] = [block.expand]
        has_convolution = module.downsample is not None
        if has_convolution != (block.shortcut is not None):
            got = "a convolution" if block.shortcut else "the identity"
            raise block.expand.norm.error(f"not a ResNeXt: the shortcut of {name} is {got}")
        if block.shortcut is not None:
            layers[f"{name}.downsample.0", f"{name}.downsample.1"] = [block.shortcut]
    return layers


def _check_pooling(network: Network, empty: ResNeXt, architecture: Architecture) -> None:
    """What no tensor tells: pooling, and the dimension that form B joins."""
    pool = network.max_pooling
    if isinstance(empty.maxpool, nn.MaxPool2d):
        if pool is None:
            raise network.stem_end.error("not a ResNeXt: expected max pooling after a stem of 7x7")
        expected = {"kW": 3, "kH": 3, "dW": 2, "dH": 2, "padW": 1, "padH": 1}
        got = {name: whole_number(pool, name, 0) for name in expected}
        if got != expected or pool.get("ceil_mode"):
            raise pool.error(f"not a ResNeXt: expected max pooling {expected}, not ceil_mode; got {got}")
    elif pool is not None:
        raise pool.error("not a ResNeXt: max pooling after a stem of 3x3")

    pool = network.average_pooling
    height, width = whole_number(pool, "kH"), whole_number(pool, "kW")
    padded = whole_number(pool, "padH", 0) or whole_number(pool, "padW", 0)
    strides = whole_number(pool, "dH", 1), whole_number(pool, "dW", 1)
    if height != width or not 1 <= height <= 64 or padded or min(strides) < 1 or pool.get("divide", True) is not True:
        raise pool.error(f"expected an average over a whole square feature map, got {height}x{width}, padding {padded}")
    for block in network.blocks:
        if block.join is not None:
            dimension, inputs = whole_number(block.join, "dimension"), whole_number(block.join, "nInputDims", 0)
            if (dimension, inputs) not in ((2, 0), (1, 3), (-3, 0), (-3, 3)):
                raise block.join.error(f"expected the channels to be joined, got dimension {dimension}")


def _stages(network: Network, architecture: Architecture) -> dict[str, str]:
    ends = itertools.accumulate(architecture.layers)
    stages = {f"layer{i}": network.blocks[end - 1].end.path for i, end in enumerate(ends, 1)}
    return {"stem": (network.max_pooling or network.stem_end).path, **stages}
