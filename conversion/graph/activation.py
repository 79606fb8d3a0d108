"""Torch7 layers that work value by value or over the classes: activations, powers, softmax.

They work in place where Torch7 does and copy where Torch7 does, since other modules may hold the same tensor. The only
difference is NaN: PyTorch passes it on, while Torch7's ReLU and max pooling drop it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..t7 import TorchObject
from .registry import Layer, builds, filled, in_place, number, stored

builds("nn.LogSigmoid")(nn.LogSigmoid)
builds("nn.Sigmoid")(nn.Sigmoid)
builds("nn.SoftSign")(nn.Softsign)
builds("nn.Tanh")(nn.Tanh)
builds("nn.TanhShrink")(nn.Tanhshrink)
builds("nn.ReLU6", inplace=in_place)(nn.ReLU6)
builds("nn.ELU", alpha=number("alpha", 1), inplace=in_place)(nn.ELU)
builds("nn.LeakyReLU", negative_slope=number("negval", 0.01), inplace=in_place)(nn.LeakyReLU)
builds("nn.SoftPlus", beta=number("beta", 1), threshold=number("threshold", 20))(nn.Softplus)


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


@builds("nn.Power", exponent=number("pow"))
class Power(Layer):
    """nn.Power: x to the power `exponent`."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = float(exponent)

    def forward(self, x: Tensor) -> Tensor:
        return x.pow(self.exponent)


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
def _cudnn(obj: TorchObject, kind: type[nn.Module], overwriting: type[nn.Module]) -> nn.Module:
    return overwriting() if obj.boolean("inplace", False) else kind()


@builds("nn.Threshold", "nn.ReLU", "cudnn.ReLU")
def _threshold(obj: TorchObject) -> nn.Module:
    limit, value, inplace = obj.number("threshold", 0), obj.number("val", 0), obj.boolean("inplace", False)
    return nn.ReLU(inplace) if limit == value == 0 else nn.Threshold(limit, value, inplace)


@builds("nn.RReLU")
def _rrelu(obj: TorchObject) -> nn.Module:
    low, high = obj.number("lower", 1 / 8), obj.number("upper", 1 / 3)
    if not low <= high:
        raise obj.error(f"expected lower up to upper, got {low} and {high}")
    return nn.RReLU(low, high, obj.boolean("inplace", False))


@builds("nn.HardTanh", "nn.Clamp", minimum="min_val", maximum="max_val")
@builds("nn.Clip", minimum="minval", maximum="maxval")
def _hard_tanh(obj: TorchObject, minimum: str, maximum: str) -> nn.Module:
    low, high = obj.number(minimum, -1), obj.number(maximum, 1)
    if not low < high:
        raise obj.error(f"expected {minimum} below {maximum}, got {low} and {high}")
    return nn.Hardtanh(low, high, obj.boolean("inplace", False))


@builds("cudnn.ClippedReLU")
def _clipped_relu(obj: TorchObject) -> nn.Module:
    ceiling = obj.number("ceiling")
    if not ceiling > 0:
        raise obj.error(f"expected a ceiling above 0, got {ceiling}")
    return nn.Hardtanh(0.0, ceiling, obj.boolean("inplace", False))


@builds("nn.HardShrink", kind=nn.Hardshrink)
@builds("nn.SoftShrink", kind=nn.Softshrink)
def _shrink(obj: TorchObject, kind: type[nn.Module]) -> nn.Module:
    limit = obj.number("lambda", 0.5)
    if not limit >= 0:
        raise obj.error(f"expected a lambda from 0, got {limit}")
    return kind(limit)


class PReLU(Layer):
    """nn.PReLU with a slope for each of `planes`: dimension 1 of a batch, or the only dimension of one sample."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes
        self.weight = nn.Parameter(torch.empty(planes))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            return F.prelu(x.unsqueeze(0), self.weight).squeeze(0)
        return F.prelu(x, self.weight)


@builds("nn.PReLU")
def _prelu(obj: TorchObject) -> nn.Module:
    planes = obj.integer("nOutputPlane", 0, minimum=0)  # 0: one slope for all
    weight = stored(obj, "weight", (planes or 1,))
    return filled(PReLU, planes, tensors={"weight": weight}) if planes else filled(nn.PReLU, tensors={"weight": weight})


@builds("nn.SoftMax", "nn.SpatialSoftMax", "cudnn.SpatialSoftMax")
@builds("nn.LogSoftMax", "nn.SpatialLogSoftMax", "cudnn.SpatialLogSoftMax", log=True)
@builds("cudnn.SoftMax", instance=True)
@builds("cudnn.LogSoftMax", log=True, instance=True)
class SoftMax(Layer):
    """nn.SoftMax over the classes or planes, or its logarithm: dimension 0 of one sample, 1 of a batch.

    With `instance`, as in cudnn.SoftMax, it is over all values of a sample.
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
