"""A ResNeXt in a Torch7 file as an architecture and a state_dict.

Shares nothing with `graph` but the reader: the two are independent readings of one file, for `verify` to compare.
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
        image_size: height and width in pixels of the input that the file's average pooling is made for.
        stages: name of each stage to the object path of a module that gives its output.
        notes: whatever was not taken over as it stands, for people to read.
        form: of the state_dict.
        exact: those of its tensors that were rounded, as they were before, in double precision.
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
        """The same with the state_dict rewritten. Raises ValueError for an unknown form."""
        if form == self.form:
            return self
        state_dict = convert_state_dict(self.state_dict, self.form, form)
        exact = convert_state_dict(self.unrounded().state_dict, self.form, form) if self.exact else {}
        return replace(self, state_dict=state_dict, exact=exact, form=form)

    def unrounded(self) -> Conversion:
        """The same in double precision. Raises T7Error where the state_dict is not what its values round to."""
        for name, value in self.exact.items():
            if not torch.equal(_rounded(name, value), self.state_dict[name]):
                raise self.model.error(f"{name} is not what the file's values round to")
        values = {**self.state_dict, **self.exact}
        double = {name: value.double() if value.is_floating_point() else value for name, value in values.items()}
        return replace(self, state_dict=double, exact={})


def convert(root: Any, progress: Callable[[list[Any]], Iterable[Any]] = iter) -> Conversion:
    """Convert the root object of a file (`t7.load`): a network, or a table or DataParallelTable that holds one.

    Every parameter and running statistic is used exactly once and every entry of the state_dict filled exactly once.
    `progress` wraps the loop over the layers. Raises T7Error that says where the file is not a ResNeXt, what is left
    over or missing, or which values cannot be right.
    """
    network = recognise(root)
    reader = ParameterReader()
    values = _values(network, reader, progress)
    state_dict: dict[str, torch.Tensor] = {}
    exact: dict[str, torch.Tensor] = {}
    for key in network.empty.state_dict():
        if key.endswith("num_batches_tracked"):  # PyTorch's own counter, which Torch7 does not keep
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
    """A value as float32, and a variance that rounding brought below 0 as 0."""
    return value.float().clamp(min=0) if name.endswith("running_var") else value.float()


def _values(
    network: Network, reader: ParameterReader, progress: Callable[[list[Any]], Iterable[Any]]
) -> dict[str, np.ndarray]:
    """The parameters and statistics by their names in `ResNeXt`."""
    empty = network.empty
    values: dict[str, np.ndarray] = {}
    for (convolution, norm), sources in progress(list(network.layers.items())):
        weight, vectors = reader.conv_norm(
            cast(nn.Conv2d, empty.get_submodule(convolution)), cast(nn.BatchNorm2d, empty.get_submodule(norm)), sources
        )
        values[f"{convolution}.weight"] = weight
        values |= {f"{norm}.{name}": value for name, value in vectors.items()}
    return values | {f"fc.{name}": value for name, value in reader.linear(empty.fc, network.linear).items()}
