"""Torch7 layers that work value by value or over the classes: activations, powers, softmax.

Where Torch7 works in place, so do these; where it copies, so do these: whoever else holds that tensor sees the same as
in Torch7. NaN is the one exception: PyTorch hands it on, while Torch7's ReLU and max pooling drop it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..t7 import TorchObject
from .registry import builds, filled, stored

for name, kind in {
    "nn.LogSigmoid": nn.LogSigmoid,
    "nn.Sigmoid": nn.Sigmoid,
    "nn.SoftSign": nn.Softsign,
    "nn.Tanh": nn.Tanh,
    "nn.TanhShrink": nn.Tanhshrink,
}.items():
    builds(name)(kind)


@builds("nn.Abs")
class Abs(nn.Module):
    """nn.Abs."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


@builds("nn.Square")
class Square(nn.Module):
    """nn.Square."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x


@builds("nn.Sqrt")
class Sqrt(nn.Module):
    """nn.Sqrt."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


@builds("nn.Exp")
class Exp(nn.Module):
    """nn.Exp."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


@builds("nn.Log")
class Log(nn.Module):
    """nn.Log."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Power(nn.Module):
    """nn.Power: x to the power `exponent`."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = float(exponent)

    def forward(self, x: Tensor) -> Tensor:
        return x.pow(self.exponent)

    def extra_repr(self) -> str:
        return f"{self.exponent}"


@builds("nn.Power")
def power(obj: TorchObject) -> nn.Module:
    """nn.Power."""
    return Power(obj.number("pow"))


class TanhInPlace(nn.Module):
    """cudnn.Tanh that overwrites its input."""

    inplace = True

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh_()


class SigmoidInPlace(nn.Module):
    """cudnn.Sigmoid that overwrites its input."""

    inplace = True

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid_()


@builds("cudnn.Sigmoid", kind=nn.Sigmoid, overwriting=SigmoidInPlace)
@builds("cudnn.Tanh", kind=nn.Tanh, overwriting=TanhInPlace)
def in_place_or_not(obj: TorchObject, kind: type[nn.Module], overwriting: type[nn.Module]) -> nn.Module:
    """cudnn's, which may work in place where PyTorch's cannot."""
    return overwriting() if obj.boolean("inplace", False) else kind()


@builds("nn.Threshold", "nn.ReLU", "cudnn.ReLU")
def threshold(obj: TorchObject) -> nn.Module:
    """nn.Threshold, and nn.ReLU, which is one with threshold and value 0."""
    limit, value, inplace = obj.number("threshold", 0), obj.number("val", 0), obj.boolean("inplace", False)
    return nn.ReLU(inplace) if limit == value == 0 else nn.Threshold(limit, value, inplace)


@builds("nn.ReLU6")
def relu6(obj: TorchObject) -> nn.Module:
    """nn.ReLU6."""
    return nn.ReLU6(obj.boolean("inplace", False))


@builds("nn.ELU")
def elu(obj: TorchObject) -> nn.Module:
    """nn.ELU."""
    return nn.ELU(obj.number("alpha", 1), obj.boolean("inplace", False))


@builds("nn.LeakyReLU")
def leaky_relu(obj: TorchObject) -> nn.Module:
    """nn.LeakyReLU."""
    return nn.LeakyReLU(obj.number("negval", 0.01), obj.boolean("inplace", False))


@builds("nn.RReLU")
def rrelu(obj: TorchObject) -> nn.Module:
    """nn.RReLU; in evaluation the mean slope."""
    low, high = obj.number("lower", 1 / 8), obj.number("upper", 1 / 3)
    if not low <= high:
        raise obj.error(f"expected lower up to upper, got {low} and {high}")
    return nn.RReLU(low, high, obj.boolean("inplace", False))


@builds("nn.HardTanh", "nn.Clamp")
def hard_tanh(obj: TorchObject) -> nn.Module:
    """nn.HardTanh and nn.Clamp."""
    low, high = obj.number("min_val", -1), obj.number("max_val", 1)
    if not low < high:
        raise obj.error(f"expected min_val below max_val, got {low} and {high}")
    return nn.Hardtanh(low, high, obj.boolean("inplace", False))


@builds("cudnn.ClippedReLU")
def clipped_relu(obj: TorchObject) -> nn.Module:
    """cudnn.ClippedReLU: between 0 and `ceiling`."""
    ceiling = obj.number("ceiling")
    if not ceiling > 0:
        raise obj.error(f"expected a ceiling above 0, got {ceiling}")
    return nn.Hardtanh(0.0, ceiling, obj.boolean("inplace", False))


@builds("nn.SoftPlus")
def softplus(obj: TorchObject) -> nn.Module:
    """nn.SoftPlus."""
    return nn.Softplus(obj.number("beta", 1), obj.number("threshold", 20))


@builds("nn.HardShrink", kind=nn.Hardshrink)
@builds("nn.SoftShrink", kind=nn.Softshrink)
def shrink(obj: TorchObject, kind: type[nn.Module]) -> nn.Module:
    """nn.HardShrink and nn.SoftShrink."""
    limit = obj.number("lambda", 0.5)
    if not limit >= 0:
        raise obj.error(f"expected a lambda from 0, got {limit}")
    return kind(limit)


class PReLU(nn.Module):
    """nn.PReLU with a slope for each of `planes`: dimension 1, or that of one sample of single values."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes
        self.weight = nn.Parameter(torch.empty(planes))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            return F.prelu(x.unsqueeze(0), self.weight).squeeze(0)
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.planes}"


@builds("nn.PReLU")
def prelu(obj: TorchObject) -> nn.Module:
    """nn.PReLU: one slope where nOutputPlane is 0, else one for each plane."""
    planes = obj.integer("nOutputPlane", 0, minimum=0)
    weight = stored(obj, "weight", (planes or 1,))
    return filled(PReLU, planes, tensors={"weight": weight}) if planes else filled(nn.PReLU, tensors={"weight": weight})


@builds("nn.SoftMax", "nn.SpatialSoftMax", "cudnn.SpatialSoftMax")
@builds("nn.LogSoftMax", "nn.SpatialLogSoftMax", "cudnn.SpatialLogSoftMax", log=True)
@builds("cudnn.SoftMax", instance=True)
@builds("cudnn.LogSoftMax", log=True, instance=True)
class SoftMax(nn.Module):
    """nn.SoftMax over the classes or planes, or its logarithm: dimension 0 of one sample, 1 of a batch.

    `instance` is how cudnn.SoftMax takes images: over all values of a sample.
    """

    def __init__(self, log: bool = False, instance: bool = False) -> None:
        super().__init__()
        self.log, self.instance = log, instance

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() > 4:
            raise RuntimeError("expected 1 to 4 dimensions")
        dimension = 0 if x.dim() in (1, 3) else 1
        values = x.flatten(dimension) if self.instance else x
        out = F.log_softmax(values, dimension) if self.log else F.softmax(values, dimension)
        return out.reshape(x.shape)

    def extra_repr(self) -> str:
        return f"log={self.log}, instance={self.instance}"
