"""What each Torch7 layer computes in evaluation, as an nn.Module: PyTorch's own where the semantics agree.

`BUILDERS` maps a Torch7 class to the function that builds it from its fields. To add a layer is to add an entry."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from conversion.modules import AvgPool2d, CAddTable, ConcatTable, JoinTable, Reshape, Sequential, View
from conversion.t7 import Storage, TorchObject
from conversion.t7 import Tensor as T7Tensor

# --- reading fields -----------------------------------------------------------------------------------------------


def _int(obj: TorchObject, name: str, default: int | None = None) -> int:
    value = obj[name] if default is None else obj.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**31:
        raise obj.error(f"expected a whole number as {name}, got {value!r}")
    return value


def _bool(obj: TorchObject, name: str, default: bool) -> bool:
    value = obj.get(name, default)
    if not isinstance(value, bool):
        raise obj.error(f"expected true or false as {name}, got {value!r}")
    return value


def _pair(obj: TorchObject, names: tuple[str, str], default: int | None = None) -> tuple[int, int]:
    """Two numbers in PyTorch's order: height, then width."""
    return _int(obj, names[0], default), _int(obj, names[1], default)


def _padding(obj: TorchObject) -> tuple[int, int]:
    """padH and padW; files older than those fields have `padding` for both."""
    return _pair(obj, ("padH", "padW"), _int(obj, "padding", 0))


def _sizes(obj: TorchObject, name: str) -> list[int]:
    value = obj[name]
    if not isinstance(value, Storage):
        raise obj.error(f"expected a storage as {name}, got {value!r}")
    if value.count > 64:
        raise obj.error(f"{name} has {value.count} entries; expected at most 64")
    return [int(n) for n in value.numpy()]


def _tensor(obj: TorchObject, name: str, shape: Iterable[int]) -> Tensor:
    """A field as a tensor of `shape`, which the file may hold flattened (SpatialConvolutionMM's 2-D weights)."""
    value, wanted = obj[name], tuple(shape)
    if not isinstance(value, T7Tensor) or value.dtype.kind != "f":
        raise obj.error(f"expected a tensor of real numbers as {name}, got {value!r}")
    if value.numel != math.prod(wanted):
        raise obj.error(f"{name} has shape {value.shape}; expected {wanted}")
    array = value.numpy()
    tensor = torch.from_numpy(array.astype("f4") if array.dtype.itemsize == 2 else array)
    return tensor.reshape(wanted)


def _set(module: nn.Module, **tensors: Tensor) -> None:
    """Give a module that was built without storage (on the meta device) its parameters and buffers."""
    for name, tensor in tensors.items():
        setattr(module, name, nn.Parameter(tensor) if name in module._parameters else tensor)


def _build_meta(kind: type[nn.Module], *arguments: Any, **options: Any) -> Any:
    with torch.device("meta"):
        return kind(*arguments, **options)


# --- builders -----------------------------------------------------------------------------------------------------


def _convolution(obj: TorchObject) -> nn.Module:
    groups = _int(obj, "groups", 1)
    inputs, outputs, kernel = _int(obj, "nInputPlane"), _int(obj, "nOutputPlane"), _pair(obj, ("kH", "kW"))
    if min(groups, inputs, outputs, *kernel) < 1 or inputs % groups or outputs % groups:
        raise obj.error(f"{inputs} to {outputs} planes with kernel {kernel} in {groups} groups is no convolution")
    shape = (outputs, inputs // groups, *kernel)
    weight = _tensor(obj, "weight", shape)
    biased = obj.get("bias") is not None
    module = _build_meta(
        nn.Conv2d, inputs, outputs, kernel, _pair(obj, ("dH", "dW")), _padding(obj), groups=groups, bias=biased
    )
    _set(module, weight=weight)
    if biased:
        _set(module, bias=_tensor(obj, "bias", (outputs,)))
    return module


def _batch_norm(kind: type[nn.Module], obj: TorchObject) -> nn.Module:
    mean = obj["running_mean"]
    if not isinstance(mean, T7Tensor):
        raise obj.error(f"expected a tensor as running_mean, got {mean!r}")
    size, eps = mean.numel, obj.get("eps", 1e-5)
    if not isinstance(eps, (int, float)) or isinstance(eps, bool):
        raise obj.error(f"expected a number as eps, got {eps!r}")
    affine = obj.get("weight") is not None
    module = _build_meta(kind, size, eps, affine=affine)
    if "running_var" in obj:
        variance = _tensor(obj, "running_var", (size,))
    else:  # version 1 of the class kept 1 / sqrt(var + eps); what it does when it reads such a file
        std = _tensor(obj, "running_std", (size,))
        variance = (std.double().pow(-2) - eps).to(std.dtype)
    _set(module, running_mean=_tensor(obj, "running_mean", (size,)), running_var=variance)
    _set(module, num_batches_tracked=torch.tensor(0))
    if affine:
        _set(module, weight=_tensor(obj, "weight", (size,)), bias=_tensor(obj, "bias", (size,)))
    return module


def _linear(obj: TorchObject) -> nn.Module:
    value = obj["weight"]
    if not isinstance(value, T7Tensor) or len(value.shape) != 2:
        raise obj.error(f"expected a matrix as weight, got {value!r}")
    outputs, inputs = value.shape
    biased = obj.get("bias") is not None
    module = _build_meta(nn.Linear, inputs, outputs, bias=biased)
    _set(module, weight=_tensor(obj, "weight", value.shape))
    if biased:
        _set(module, bias=_tensor(obj, "bias", (outputs,)))
    return module


def _average_pooling(always_count_padding: bool, obj: TorchObject) -> nn.Module:
    return AvgPool2d(
        _pair(obj, ("kH", "kW")),
        _pair(obj, ("dH", "dW")),
        _padding(obj),
        ceil_mode=_bool(obj, "ceil_mode", False),
        count_include_pad=always_count_padding or _bool(obj, "count_include_pad", True),
        divide=_bool(obj, "divide", True),
    )


def _max_pooling(obj: TorchObject) -> nn.Module:
    return nn.MaxPool2d(
        _pair(obj, ("kH", "kW")), _pair(obj, ("dH", "dW")), _padding(obj), ceil_mode=_bool(obj, "ceil_mode", False)
    )


def _relu(obj: TorchObject) -> nn.Module:
    return nn.ReLU(_bool(obj, "inplace", False))


def _identity(obj: TorchObject) -> nn.Module:
    return nn.Identity()


def _add_table(obj: TorchObject) -> nn.Module:
    return CAddTable(_bool(obj, "inplace", False))


def _join_table(obj: TorchObject) -> nn.Module:
    dimension = _int(obj, "dimension")
    return JoinTable(dimension - 1 if dimension > 0 else dimension, _int(obj, "nInputDims", 0))


def _view(obj: TorchObject) -> nn.Module:
    return View(_sizes(obj, "size"), _int(obj, "numInputDims", 0))


def _reshape(obj: TorchObject) -> nn.Module:
    mode = obj.get("batchMode")
    return Reshape(_sizes(obj, "size"), None if mode is None else _bool(obj, "batchMode", False))


Builder = Callable[[TorchObject], nn.Module]

BUILDERS: dict[str, Builder] = {
    "cudnn.ReLU": _relu,
    "cudnn.SpatialAveragePooling": functools.partial(_average_pooling, True),
    "cudnn.SpatialBatchNormalization": functools.partial(_batch_norm, nn.BatchNorm2d),
    "cudnn.SpatialConvolution": _convolution,
    "cudnn.SpatialMaxPooling": _max_pooling,
    "nn.CAddTable": _add_table,
    "nn.Identity": _identity,
    "nn.JoinTable": _join_table,
    "nn.Linear": _linear,
    "nn.ReLU": _relu,
    "nn.Reshape": _reshape,
    "nn.SpatialAveragePooling": functools.partial(_average_pooling, False),
    "nn.SpatialBatchNormalization": functools.partial(_batch_norm, nn.BatchNorm2d),
    "nn.SpatialConvolution": _convolution,
    "nn.SpatialConvolutionMM": _convolution,
    "nn.SpatialMaxPooling": _max_pooling,
    "nn.View": _view,
}

# Containers: what they are made of their children. DataParallelTable's children are copies of one network.
CONTAINERS: dict[str, Callable[[list[nn.Module]], nn.Module]] = {
    "nn.ConcatTable": ConcatTable,
    "nn.DataParallelTable": lambda children: children[0],
    "nn.Sequential": lambda children: Sequential(*children),
}
