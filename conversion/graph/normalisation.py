"""Normalisation, by statistics or by neighbours, and dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..t7 import TorchObject
from .registry import Layer, builds, filled, has, stored


@builds("nn.BatchNormalization", "cudnn.BatchNormalization", kind=nn.BatchNorm1d)
@builds("nn.SpatialBatchNormalization", "cudnn.SpatialBatchNormalization", kind=nn.BatchNorm2d)
@builds("fbnn.SpatialBatchNormalization", kind=nn.BatchNorm2d)
@builds("nn.VolumetricBatchNormalization", "cudnn.VolumetricBatchNormalization", kind=nn.BatchNorm3d)
def _batch_norm(obj: TorchObject, kind: type[nn.Module]) -> nn.Module:
    eps, mean = obj.number("eps", 1e-5), obj.tensor("running_mean")
    size = (mean.numel,)
    if "running_var" in obj:
        variance = stored(obj, "running_var", size)
    else:  # version 1 of the class kept 1 / sqrt(var + eps); Torch7 reads such a file like this
        std = stored(obj, "running_std", size)
        variance = (std.double().pow(-2) - eps).to(std.dtype)
    tensors = {"running_mean": stored(obj, "running_mean", size), "running_var": variance}
    tensors["num_batches_tracked"] = torch.tensor(0)
    if affine := has(obj, "weight") or has(obj, "bias"):
        tensors["weight"] = stored(obj, "weight", size) if has(obj, "weight") else torch.ones_like(variance)
        tensors["bias"] = stored(obj, "bias", size) if has(obj, "bias") else torch.zeros_like(variance)
    return filled(kind, *size, eps, obj.number("momentum", 0.1), affine=affine, tensors=tensors)


@builds("nn.InstanceNormalization")
def _instance_norm(obj: TorchObject) -> nn.Module:
    """Of fast-neural-style: it uses the statistics of each image, in evaluation too."""
    size = (obj.tensor("weight").numel,)
    tensors = {name: stored(obj, name, size) for name in ("weight", "bias")}
    return filled(nn.InstanceNorm2d, *size, obj.number("eps", 1e-5), affine=True, tensors=tensors)


class Normalize(Layer):
    """nn.Normalize: x over its p-norm along a dimension. `eps` is added before the root is taken."""

    def __init__(self, p: float, eps: float, dimension: int = -1) -> None:
        super().__init__()
        self.p, self.eps, self.dimension = float(p), float(eps), dimension

    def forward(self, x: Tensor) -> Tensor:
        if self.p == float("inf"):
            return x / (x.abs().amax(self.dimension, keepdim=True) + self.eps)
        powers = x.abs().pow(self.p).sum(self.dimension, keepdim=True)
        return x / (powers + self.eps).pow(1 / self.p)


@builds("nn.Normalize")
def _normalize(obj: TorchObject) -> nn.Module:
    p = obj.number("p")
    if not p > 0:
        raise obj.error(f"expected a norm above 0 as p, got {p}")
    return Normalize(p, obj.number("eps", 1e-10), obj.dimension("dim", -1))


class CrossMapLRN(Layer):
    """nn.SpatialCrossMapLRN: like F.local_response_norm, for one sample too; an even `size` looks one plane ahead."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, float(alpha), float(beta), float(k)

    def forward(self, x: Tensor) -> Tensor:
        squares = (x * x).unsqueeze(-4)  # (…, 1, C, H, W)
        squares = F.pad(squares, [0, 0, 0, 0, (self.size - 1) // 2, self.size // 2])
        mean = F.avg_pool3d(squares, [self.size, 1, 1], stride=1)
        return x / (mean.squeeze(-4) * self.alpha + self.k).pow(self.beta)


@builds("nn.SpatialCrossMapLRN", "cudnn.SpatialCrossMapLRN")
def _lrn(obj: TorchObject) -> nn.Module:
    k = obj.number("K" if "K" in obj else "k", 1)  # K in cudnn
    return CrossMapLRN(obj.integer("size", minimum=1), obj.number("alpha", 1e-4), obj.number("beta", 0.75), k)


class Dropout(Layer):
    """nn.Dropout: a copy of x unless `inplace`. Version 1 scales in evaluation, by 1 - p, and not in training."""

    def __init__(self, p: float, v2: bool = True, inplace: bool = False) -> None:
        super().__init__()
        self.p, self.v2, self.inplace = float(p), v2, inplace

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.inplace else x.clone()
        if self.training:
            out = F.dropout(out, self.p, inplace=True)
        return out if self.v2 else out.mul_(1 - self.p)


class SpatialDropout(Layer):
    """nn.SpatialDropout (`dims` 2) and VolumetricDropout (3) of whole planes. Only evaluation scales, by 1 - p."""

    def __init__(self, p: float, dims: int) -> None:
        super().__init__()
        self.p, self.dims = float(p), dims

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.p)
        planes = x.new_full(x.shape[: max(x.dim() - self.dims, 0)], 1 - self.p).bernoulli()
        for _ in range(x.dim() - planes.dim()):
            planes = planes.unsqueeze(-1)
        return x * planes


@builds("nn.Dropout")
@builds("nn.SpatialDropout", dims=2)
@builds("nn.VolumetricDropout", dims=3)
def _dropout(obj: TorchObject, dims: int = 0) -> nn.Module:
    p = obj.number("p", 0.5)
    if not 0 <= p < 1:
        raise obj.error(f"expected 0 <= p < 1, got {p}")
    if obj.boolean("stochastic_inference", False):
        raise obj.error(
            "it drops values at random in evaluation too (stochastic_inference), which cannot be reproduced"
        )
    if dims:
        return SpatialDropout(p, dims)
    return Dropout(p, v2=obj.boolean("v2", False), inplace=obj.boolean("inplace", False))
