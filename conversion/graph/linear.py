"""nn.Linear, and factors and offsets: learnt or constant, a single one or one for each value."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..t7 import Tensor as T7Tensor
from ..t7 import TorchObject
from .convolution import with_bias
from .registry import Layer, builds, filled, in_place, number, stored


@builds("nn.Linear", "nn.LinearNoBias")
def _linear(obj: TorchObject) -> nn.Module:
    shape = obj.tensor("weight").shape
    if len(shape) != 2 or 0 in shape:
        raise obj.error(f"expected a matrix as weight, got {obj['weight']!r}")
    tensors = with_bias(obj, stored(obj, "weight", shape), shape[0])
    return filled(nn.Linear, shape[1], shape[0], bias="bias" in tensors, tensors=tensors)


@builds("nn.MulConstant", constant=number("constant_scalar"), inplace=in_place)
class MulConstant(Layer):
    """nn.MulConstant: x times a number."""

    def __init__(self, constant: float, inplace: bool = False) -> None:
        super().__init__()
        self.constant, self.inplace = float(constant), inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.constant) if self.inplace else x * self.constant


@builds("nn.WhiteNoise", constant=number("mean", 0))  # evaluation adds the mean of the noise
class AddConstant(Layer):
    """nn.AddConstant: x plus a number."""

    def __init__(self, constant: float, inplace: bool = False) -> None:
        super().__init__()
        self.constant, self.inplace = float(constant), inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.constant) if self.inplace else x + self.constant


@builds("nn.AddConstant")
def _add_constant(obj: TorchObject) -> nn.Module:
    """A number, or a tensor with one number for each element of a sample."""
    inplace = obj.boolean("inplace", False)
    if not isinstance(obj["constant_scalar"], T7Tensor):
        return AddConstant(obj.number("constant_scalar"), inplace)
    if inplace:
        raise obj.error("an nn.AddConstant that adds a tensor in place is not supported")
    size = obj.tensor("constant_scalar").numel
    return filled(CAdd, size, tensors={"bias": stored(obj, "constant_scalar", (size,))})


class Mul(nn.Module):
    """nn.Mul: x times one learnt number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@builds("nn.Mul")
def _mul(obj: TorchObject) -> nn.Module:
    return filled(Mul, tensors={"weight": stored(obj, "weight", (1,))})


def stretch(values: Tensor, x: Tensor) -> Tensor:
    """The values of nn.CMul or nn.CAdd in a shape that broadcasts over x, one sample or a batch."""
    if values.numel() == x.numel():
        return values.reshape(x.shape)
    return values if values.dim() == x.dim() else values.reshape(x[:1].shape)


class CMul(Layer):
    """nn.CMul: x times learnt values, one for each element; `size` may have ones to broadcast."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * stretch(self.weight, x)


class CAdd(Layer):
    """nn.CAdd and nn.Add: x plus learnt values, one for each element; `size` may have ones to broadcast."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.size = size
        self.bias = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.bias if self.bias.numel() == 1 else stretch(self.bias, x))


@builds("nn.CMul", kind=CMul, name="weight")
@builds("nn.CAdd", kind=CAdd, name="bias")
def _for_each_value(obj: TorchObject, kind: type[CMul] | type[CAdd], name: str) -> nn.Module:
    size = obj.sizes() if "size" in obj else list(obj.tensor(name).shape)
    if min(size, default=0) < 1:
        raise obj.error(f"expected sizes from 1 as size, got {size}")
    return filled(kind, *size, tensors={name: stored(obj, name, tuple(size))})


@builds("nn.Add")
def _add(obj: TorchObject) -> nn.Module:
    """One number if `scalar` is set, else one for each element of a sample."""
    size = 1 if obj.boolean("scalar", False) else math.prod(obj.tensor("bias").shape)
    return filled(CAdd, size, tensors={"bias": stored(obj, "bias", (size,))})
