"""Reading the fields of a Torch7 object, checked: what was expected, what came, and where, if it is not right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from conversion.t7 import Storage, TorchObject
from conversion.t7 import Tensor as T7Tensor


def integer(obj: TorchObject, name: str, default: int | None = None) -> int:
    """A whole number; without a default the field must be there."""
    value = obj[name] if default is None else obj.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**31:
        raise obj.error(f"expected a whole number as {name}, got {value!r}")
    return value


def number(obj: TorchObject, name: str, default: float | None = None) -> float:
    """A number; without a default the field must be there."""
    value = obj[name] if default is None else obj.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise obj.error(f"expected a number as {name}, got {value!r}")
    return float(value)


def boolean(obj: TorchObject, name: str, default: bool) -> bool:
    """true or false."""
    value = obj.get(name, default)
    if not isinstance(value, bool):
        raise obj.error(f"expected true or false as {name}, got {value!r}")
    return value


def integers(obj: TorchObject, names: str, default: int | None = None) -> tuple[int, ...]:
    """Several numbers, by the names of their fields with spaces between: in PyTorch's order, height before width."""
    return tuple(integer(obj, name, default) for name in names.split())


def dimension(obj: TorchObject, name: str = "dimension", default: int | None = None) -> int:
    """A dimension as PyTorch counts it: from 0; negative from the end, as in Torch7."""
    value = integer(obj, name, default)
    if value == 0 or abs(value) > 64:
        raise obj.error(f"expected a dimension as {name}, counted from 1 or from -1 backwards, got {value}")
    return value - 1 if value > 0 else value


def index(obj: TorchObject, name: str = "index") -> int:
    """An index as PyTorch counts it: from 0; negative from the end, as in Torch7."""
    value = integer(obj, name)
    if value == 0:
        raise obj.error(f"expected an index as {name}, counted from 1 or from -1 backwards, got 0")
    return value - 1 if value > 0 else value


def sizes(obj: TorchObject, name: str = "size") -> list[int]:
    """A LongStorage of sizes."""
    value = obj[name]
    if not isinstance(value, Storage):
        raise obj.error(f"expected a storage as {name}, got {value!r}")
    if value.count > 64:
        raise obj.error(f"{name} has {value.count} entries; expected at most 64")
    return [int(n) for n in value.numpy()]


def stored(obj: TorchObject, name: str) -> T7Tensor:
    """A field that must be a tensor of real numbers."""
    value = obj[name]
    if not isinstance(value, T7Tensor) or value.dtype.kind != "f":
        raise obj.error(f"expected a tensor of real numbers as {name}, got {value!r}")
    return value


def tensor(obj: TorchObject, name: str, shape: Iterable[int]) -> Tensor:
    """A field as a tensor of `shape`, which the file may hold flattened (SpatialConvolutionMM's 2-D weights)."""
    value, wanted = stored(obj, name), tuple(shape)
    if value.numel != math.prod(wanted):
        raise obj.error(f"{name} has shape {value.shape}; expected {wanted}")
    array = value.numpy()
    values = torch.from_numpy(array.astype("f4") if array.dtype.itemsize == 2 else array)
    return values.reshape(wanted)


def fill(module: nn.Module, **tensors: Tensor) -> nn.Module:
    """Give a module that was built without storage (on the meta device) its parameters and buffers."""
    for name, value in tensors.items():
        setattr(module, name, nn.Parameter(value) if name in module._parameters else value)
    return module


def build_meta(kind: type[nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    """A module without storage for its parameters, to be filled."""
    with torch.device("meta"):
        return kind(*arguments, **options)
