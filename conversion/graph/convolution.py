"""Convolutions, spatial (2 dimensions) and volumetric (3), and their transposes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..t7 import TorchObject
from .registry import builds, filled, has, stored

KERNEL = {2: "kH kW", 3: "kT kH kW"}
STRIDE = {2: "dH dW", 3: "dT dH dW"}
DILATION = {2: "dilationH dilationW", 3: "dilationT dilationH dilationW"}


def padding(obj: TorchObject, dims: int) -> tuple[int, ...]:
    """padT, padH and padW. Older files have `padding` for both height and width, or nothing."""
    both = obj.integer("padding", 0, minimum=0)
    return obj.integers("padH padW" if dims == 2 else "padT padH padW", both, minimum=0)


def with_bias(obj: TorchObject, weight: Tensor, outputs: int) -> dict[str, Tensor]:
    """The tensors of a layer whose bias may be missing."""
    return {"weight": weight, "bias": stored(obj, "bias", (outputs,))} if has(obj, "bias") else {"weight": weight}


@builds("nn.SpatialConvolution", "nn.SpatialConvolutionMM", "nn.SpatialDilatedConvolution", dims=2)
@builds("cudnn.SpatialConvolution", dims=2)
@builds("nn.VolumetricConvolution", "nn.VolumetricDilatedConvolution", "cudnn.VolumetricConvolution", dims=3)
def _convolution(obj: TorchObject, dims: int) -> nn.Module:
    """Only cudnn's have groups. The oldest nn.SpatialConvolutionMM have no dW and dH; their stride is 1."""
    inputs, outputs, groups, kernel = _planes(obj, dims)
    tensors = with_bias(obj, stored(obj, "weight", (outputs, inputs // groups, *kernel)), outputs)
    return filled(
        nn.Conv2d if dims == 2 else nn.Conv3d,
        inputs,
        outputs,
        kernel,
        obj.integers(STRIDE[dims], 1, minimum=1),
        padding(obj, dims),
        obj.integers(DILATION[dims], 1, minimum=1),
        groups=groups,
        bias="bias" in tensors,
        tensors=tensors,
    )


@builds("nn.SpatialFullConvolution", "cudnn.SpatialFullConvolution", dims=2)
@builds("nn.VolumetricFullConvolution", "cudnn.VolumetricFullConvolution", dims=3)
def _full_convolution(obj: TorchObject, dims: int) -> nn.Module:
    """Transposed convolution; `adj` is PyTorch's output_padding."""
    inputs, outputs, groups, kernel = _planes(obj, dims)
    if dims == 3 and "adjW" not in obj:  # an early version, with other names and the planes of the weight swapped
        weight = stored(obj, "weight", (outputs, inputs, *kernel)).transpose(0, 1).contiguous()
        pads: Any = obj.integers("pT pH pW", 0, minimum=0) if "pW" in obj else padding(obj, dims)
    else:
        weight, pads = stored(obj, "weight", (inputs, outputs // groups, *kernel)), padding(obj, dims)
    tensors = with_bias(obj, weight, outputs)
    return filled(
        nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d,
        inputs,
        outputs,
        kernel,
        obj.integers(STRIDE[dims], minimum=1),
        pads,
        obj.integers("adjH adjW" if dims == 2 else "adjT adjH adjW", 0, minimum=0),
        groups=groups,
        bias="bias" in tensors,
        tensors=tensors,
    )


def _planes(obj: TorchObject, dims: int) -> tuple[int, int, int, tuple[int, ...]]:
    """Input planes, output planes, groups, kernel."""
    inputs, outputs, groups = obj.integer("nInputPlane"), obj.integer("nOutputPlane"), obj.integer("groups", 1)
    kernel = obj.integers(KERNEL[dims])
    if min(groups, inputs, outputs, *kernel) < 1 or inputs % groups or outputs % groups:
        raise obj.error(f"{inputs} to {outputs} planes with kernel {kernel} in {groups} groups is no convolution")
    return inputs, outputs, groups, kernel
