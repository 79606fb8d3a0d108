"""Torch7 layers that work value by value or normalise, where PyTorch has no equal: what each computes in evaluation.

`modules_shape`, `modules_pooling` and `modules_tables` hold the others. All of these files are copied, class by class,
into what convert_graph.py writes: they need nothing but torch, and the `repr` of a module is the call that makes it.

Where Torch7 works in place, so do these; where it copies, so do these: whoever else holds that tensor sees the same as
in Torch7. NaN is the one exception: PyTorch hands it on, while Torch7's ReLU and max pooling drop it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Abs(nn.Module):
    """nn.Abs."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Square(nn.Module):
    """nn.Square."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x


class Sqrt(nn.Module):
    """nn.Sqrt."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Exp(nn.Module):
    """nn.Exp."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


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


class TanhInPlace(nn.Module):
    """cudnn.Tanh that overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh_()


class SigmoidInPlace(nn.Module):
    """cudnn.Sigmoid that overwrites its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid_()


class MulConstant(nn.Module):
    """nn.MulConstant: x times a number."""

    def __init__(self, constant: float, inplace: bool = False) -> None:
        super().__init__()
        self.constant, self.inplace = float(constant), inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.constant) if self.inplace else x * self.constant

    def extra_repr(self) -> str:
        return f"{self.constant}, inplace={self.inplace}"


class AddConstant(nn.Module):
    """nn.AddConstant: x plus a number."""

    def __init__(self, constant: float, inplace: bool = False) -> None:
        super().__init__()
        self.constant, self.inplace = float(constant), inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.constant) if self.inplace else x + self.constant

    def extra_repr(self) -> str:
        return f"{self.constant}, inplace={self.inplace}"


class Dropout(nn.Module):
    """nn.Dropout and its kin in evaluation: a copy of x unless `inplace`; the first version scales by 1 - p here."""

    def __init__(self, p: float, v2: bool = True, inplace: bool = False) -> None:
        super().__init__()
        self.p, self.v2, self.inplace = float(p), v2, inplace

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.inplace else x.clone()
        return out if self.v2 else out.mul_(1 - self.p)

    def extra_repr(self) -> str:
        return f"{self.p}, v2={self.v2}, inplace={self.inplace}"


class PReLU(nn.Module):
    """nn.PReLU with a slope for each of `planes`; images may come without a batch dimension."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.planes = planes
        self.weight = nn.Parameter(torch.empty(planes))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() in (1, 3):
            return F.prelu(x.unsqueeze(0), self.weight).squeeze(0)
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.planes}"


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


class Mul(nn.Module):
    """nn.Mul: x times one learnt number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def stretch(values: Tensor, x: Tensor) -> Tensor:
    """The values of nn.CMul or nn.CAdd in a shape that broadcasts over x: for one sample, or the same for each."""
    if values.numel() == x.numel():
        return values.reshape(x.shape)
    return values if values.dim() == x.dim() else values.reshape(x[:1].shape)


class CMul(nn.Module):
    """nn.CMul: x times learnt values, one for each element; `size` may have ones to broadcast."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * stretch(self.weight, x)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))


class CAdd(nn.Module):
    """nn.CAdd and nn.Add: x plus learnt values, one for each element; `size` may have ones to broadcast."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.bias if self.bias.numel() == 1 else stretch(self.bias, x))

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.bias.shape))


class Normalize(nn.Module):
    """nn.Normalize: x over its p-norm along a dimension, `eps` added before the root is taken."""

    def __init__(self, p: float, eps: float, dimension: int = -1) -> None:
        super().__init__()
        self.p, self.eps, self.dimension = float(p), float(eps), dimension

    def forward(self, x: Tensor) -> Tensor:
        if self.p == float("inf"):
            return x / (x.abs().amax(self.dimension, keepdim=True) + self.eps)
        powers = x.abs().pow(self.p).sum(self.dimension, keepdim=True)
        return x / (powers + self.eps).pow(1 / self.p)

    def extra_repr(self) -> str:
        p = 'float("inf")' if self.p == float("inf") else f"{self.p}"
        return f"{p}, {self.eps}, {self.dimension}"


class CrossMapLRN(nn.Module):
    """nn.SpatialCrossMapLRN: as F.local_response_norm, also of one sample; an even `size` looks one further ahead."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, float(alpha), float(beta), float(k)

    def forward(self, x: Tensor) -> Tensor:
        squares = (x * x).unsqueeze(-4)  # (…, 1, C, H, W)
        squares = F.pad(squares, [0, 0, 0, 0, (self.size - 1) // 2, self.size // 2])
        mean = F.avg_pool3d(squares, [self.size, 1, 1], stride=1)
        return x / (mean.squeeze(-4) * self.alpha + self.k).pow(self.beta)

    def extra_repr(self) -> str:
        return f"{self.size}, {self.alpha}, {self.beta}, {self.k}"
