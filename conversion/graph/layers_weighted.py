"""Torch7 layers with weights, from their fields: convolutions, Linear, normalisation, learnt factors and offsets."""

from __future__ import annotations

import math

import torch
from torch import nn

from conversion.graph.fields import boolean, build_meta, fill, integer, integers, number, sizes, stored, tensor
from conversion.graph.modules import CAdd, CMul, Mul, PReLU
from conversion.t7 import Tensor as T7Tensor
from conversion.t7 import TorchObject

KERNEL = ("kH kW", "kT kH kW")
STRIDE = ("dH dW", "dT dH dW")


def padding(obj: TorchObject, volumetric: bool = False) -> tuple[int, ...]:
    """padT, padH and padW; files older than those fields have `padding` for height and width, or none."""
    return integers(obj, "padT padH padW" if volumetric else "padH padW", integer(obj, "padding", 0))


def convolution(obj: TorchObject, volumetric: bool = False) -> nn.Module:
    """Spatial and Volumetric, MM, cudnn with groups, dilated."""
    groups, kernel = integer(obj, "groups", 1), integers(obj, KERNEL[volumetric])
    inputs, outputs = _planes(obj, kernel, groups)
    weight = tensor(obj, "weight", (outputs, inputs // groups, *kernel))
    module = build_meta(
        nn.Conv3d if volumetric else nn.Conv2d,
        inputs,
        outputs,
        kernel,
        integers(obj, STRIDE[volumetric], 1),  # the oldest nn.SpatialConvolutionMM has no dW and dH
        padding(obj, volumetric),
        integers(obj, "dilationT dilationH dilationW" if volumetric else "dilationH dilationW", 1),
        groups=groups,
        bias=obj.get("bias") is not None,
    )
    return _with_bias(obj, fill(module, weight=weight), outputs)


def full_convolution(obj: TorchObject, volumetric: bool = False) -> nn.Module:
    """SpatialFullConvolution and its like: the transposed convolution. `adj` is PyTorch's output_padding."""
    groups, kernel = integer(obj, "groups", 1), integers(obj, KERNEL[volumetric])
    inputs, outputs = _planes(obj, kernel, groups)
    if volumetric and "adjW" not in obj:  # an early version: other names, and the weight the other way round
        weight = tensor(obj, "weight", (outputs, inputs, *kernel)).transpose(0, 1).contiguous()
        pads = integers(obj, "pT pH pW", 0) if "pW" in obj else padding(obj, volumetric)
    else:
        weight, pads = tensor(obj, "weight", (inputs, outputs // groups, *kernel)), padding(obj, volumetric)
    module = build_meta(
        nn.ConvTranspose3d if volumetric else nn.ConvTranspose2d,
        inputs,
        outputs,
        kernel,
        integers(obj, STRIDE[volumetric]),
        pads,
        integers(obj, "adjT adjH adjW" if volumetric else "adjH adjW", 0),
        groups=groups,
        bias=obj.get("bias") is not None,
    )
    return _with_bias(obj, fill(module, weight=weight), outputs)


def _planes(obj: TorchObject, kernel: tuple[int, ...], groups: int) -> tuple[int, int]:
    inputs, outputs = integer(obj, "nInputPlane"), integer(obj, "nOutputPlane")
    if min(groups, inputs, outputs, *kernel) < 1 or inputs % groups or outputs % groups:
        raise obj.error(f"{inputs} to {outputs} planes with kernel {kernel} in {groups} groups is no convolution")
    return inputs, outputs


def _with_bias(obj: TorchObject, module: nn.Module, outputs: int) -> nn.Module:
    return fill(module, bias=tensor(obj, "bias", (outputs,))) if obj.get("bias") is not None else module


def linear(obj: TorchObject) -> nn.Module:
    """nn.Linear, with a bias or without."""
    value = obj["weight"]
    if not isinstance(value, T7Tensor) or len(value.shape) != 2:
        raise obj.error(f"expected a matrix as weight, got {value!r}")
    outputs, inputs = value.shape
    module = build_meta(nn.Linear, inputs, outputs, bias=obj.get("bias") is not None)
    return _with_bias(obj, fill(module, weight=tensor(obj, "weight", value.shape)), outputs)


def batch_norm(kind: type[nn.Module], obj: TorchObject) -> nn.Module:
    """All batch normalisations, with the running statistics that evaluation uses."""
    mean = obj["running_mean"]
    if not isinstance(mean, T7Tensor):
        raise obj.error(f"expected a tensor as running_mean, got {mean!r}")
    size, eps = mean.numel, number(obj, "eps", 1e-5)
    affine = obj.get("weight") is not None
    module = build_meta(kind, size, eps, affine=affine)
    if "running_var" in obj:
        variance = tensor(obj, "running_var", (size,))
    else:  # version 1 of the class kept 1 / sqrt(var + eps); what it does when it reads such a file
        std = tensor(obj, "running_std", (size,))
        variance = (std.double().pow(-2) - eps).to(std.dtype)
    fill(module, running_mean=tensor(obj, "running_mean", (size,)), running_var=variance)
    fill(module, num_batches_tracked=torch.tensor(0))
    if affine:
        fill(module, weight=tensor(obj, "weight", (size,)), bias=tensor(obj, "bias", (size,)))
    return module


def instance_norm(obj: TorchObject) -> nn.Module:
    """nn.InstanceNormalization of fast-neural-style: the statistics of each image, in evaluation too."""
    size = stored(obj, "weight").numel
    module = build_meta(nn.InstanceNorm2d, size, number(obj, "eps", 1e-5), affine=True)
    return fill(module, weight=tensor(obj, "weight", (size,)), bias=tensor(obj, "bias", (size,)))


def prelu(obj: TorchObject) -> nn.Module:
    """nn.PReLU: one slope where nOutputPlane is 0, else one for each plane."""
    planes = integer(obj, "nOutputPlane", 0)
    module = build_meta(PReLU, planes) if planes else build_meta(nn.PReLU)
    return fill(module, weight=tensor(obj, "weight", (planes or 1,)))


def mul(obj: TorchObject) -> nn.Module:
    """nn.Mul."""
    return fill(build_meta(Mul), weight=tensor(obj, "weight", (1,)))


def cmul(obj: TorchObject) -> nn.Module:
    """nn.CMul; `size` is that of the weight."""
    size = sizes(obj) if "size" in obj else list(stored(obj, "weight").shape)
    return fill(build_meta(CMul, *size), weight=tensor(obj, "weight", size))


def cadd(obj: TorchObject) -> nn.Module:
    """nn.CAdd; `size` is that of the bias."""
    size = sizes(obj) if "size" in obj else list(stored(obj, "bias").shape)
    return fill(build_meta(CAdd, *size), bias=tensor(obj, "bias", size))


def add(obj: TorchObject) -> nn.Module:
    """nn.Add: one number where it is `scalar`, else one for each element of a sample."""
    size = 1 if obj.get("scalar") else math.prod(stored(obj, "bias").shape)
    return fill(build_meta(CAdd, size), bias=tensor(obj, "bias", (size,)))


def add_constant_tensor(obj: TorchObject) -> nn.Module:
    """nn.AddConstant of a tensor: one number for each element of a sample."""
    if boolean(obj, "inplace", False):
        raise obj.error("an nn.AddConstant that adds a tensor in place is not supported")
    size = stored(obj, "constant_scalar").numel
    return fill(build_meta(CAdd, size), bias=tensor(obj, "constant_scalar", (size,)))
