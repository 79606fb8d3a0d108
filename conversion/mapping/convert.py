"""A ResNeXt in a Torch7 file as an architecture and a state_dict.

Shares only the reader with `graph`: the two are independent readings of a file, which `verify` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from resnext.architecture import Architecture
from resnext.forms import convert_state_dict

from ..t7 import TorchObject
from .structure import Network, recognise
from .values import ParameterReader


@dataclass(frozen=True)
class Conversion:
    """What a Torch7 file holds, as a ResNeXt; of form C unless it is rewritten.

    Attributes:
        architecture: read off the file.
        state_dict: its weights, float32, under torchvision's names.
        model: the network's root object in the file.
        source_form: "B" or "C", the form of the bottlenecks in the file.
        image_size: height and width in pixels of the input that fits the file's average pooling.
        stages: maps each stage to the object path of a module with the stage's output.
        notes: whatever was not copied unchanged, for people to read.
        form: the form of the state_dict.
        exact: the values of the rounded tensors before rounding.
    """

    architecture: Architecture
    state_dict: dict[str, torch.Tensor]
    model: TorchObject
    source_form: str
    image_size: int
    stages: dict[str, str]
    notes: list[str]
    form: str = "C"
    exact: dict[str, torch.Tensor] = field(default_factory=dict)

    def in_form(self, form: str) -> Conversion:
        """The same conversion in another form. Raises ValueError for an unknown form."""
        if form == self.form:
            return self
        state_dict = convert_state_dict(self.state_dict, self.form, form)
        exact = convert_state_dict(self.unrounded().state_dict, self.form, form) if self.exact else {}
        return replace(self, state_dict=state_dict, exact=exact, form=form)

    def unrounded(self) -> Conversion:
        """The same in double precision. Raises T7Error if the state_dict does not match the file's rounded values."""
        for name, value in self.exact.items():
            if not torch.equal(_rounded(name, value), self.state_dict[name]):
                raise self.model.error(f"{name} is not what the file's values round to")
        values = {**self.state_dict, **self.exact}
        double = {name: value.double() if value.is_floating_point() else value for name, value in values.items()}
        return replace(self, state_dict=double, exact={})


def convert(root: Any, progress: Callable[[list[Any]], Iterable[Any]] = iter) -> Conversion:
    """Convert the root object of a file (`t7.load`): a network, or a table or DataParallelTable that holds one.

    It uses every parameter and running statistic exactly once, and fills every entry of the state_dict exactly once.
    `progress` wraps the loop over the layers. Raises T7Error, which says where the file is not a ResNeXt, what is left
    over or missing, or which values are wrong.
    """
    network = recognise(root)
    reader = ParameterReader()
    values = _values(network, reader, progress)
    state_dict: dict[str, torch.Tensor] = {}
    exact: dict[str, torch.Tensor] = {}
    for key in network.empty.state_dict():
        if key.endswith("num_batches_tracked"):  # PyTorch's own counter, unknown to Torch7
            state_dict[key] = torch.tensor(0)
        elif key in values:
            value = values.pop(key)
            state_dict[key] = _rounded(key, torch.from_numpy(value))
            if value.dtype.itemsize > 2 and not np.array_equal(state_dict[key].numpy(), value):
                exact[key] = torch.from_numpy(value)
        else:
            raise network.model.error(f"the file has nothing for {key}")
    if values:
        raise network.model.error(f"left over: {', '.join(values)}")
    return Conversion(
        network.architecture,
        state_dict,
        network.model,
        source_form=network.form,
        image_size=network.image_size,
        stages=network.stages,
        notes=[*network.model.source.notes, *reader.notes()],
        exact=exact,
    )


def _rounded(name: str, value: torch.Tensor) -> torch.Tensor:
    """A value as float32; a variance below 0 from rounding becomes 0."""
    return value.float().clamp(min=0) if name.endswith("running_var") else value.float()


def _values(
    network: Network, reader: ParameterReader, progress: Callable[[list[Any]], Iterable[Any]]
) -> dict[str, np.ndarray]:
    """The parameters and statistics by their names in `ResNeXt`."""
    empty = network.empty
    values: dict[str, np.ndarray] = {}
    for (convolution, norm), pairs in progress(list(network.layers.items())):
        weight, vectors = reader.conv_norm(
            cast(nn.Conv2d, empty.get_submodule(convolution)), cast(nn.BatchNorm2d, empty.get_submodule(norm)), pairs
        )
        values[f"{convolution}.weight"] = weight
        values |= {f"{norm}.{name}": value for name, value in vectors.items()}
    return values | {f"fc.{name}": value for name, value in reader.linear(empty.fc, network.linear).items()}
