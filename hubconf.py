"""torch.hub entry points: `torch.hub.load('org/resnext', 'resnext50_32x4d_typeC', pretrained=True)`."""

from functools import partial as _partial
from inspect import getdoc as _getdoc
from pathlib import Path as _Path

import resnext as _resnext

_here, _found = _Path(__file__).resolve().parent / "resnext", getattr(_resnext, "__file__", None)
if _found is None or _Path(_found).resolve().parent != _here:
    raise ImportError(
        f"expected the package resnext of {_here}, but another one is loaded: {_found or _resnext}; "
        "load this repository in a new Python process, or use that package by itself"
    )

dependencies = ["torch"]


# What follows the first paragraph of every entry's documentation.
_HELP = f"""
Input: images as float (N, in_channels, H, W), H and W from 32 px up. Output: logits (N, num_classes).

Args:
{(_getdoc(_resnext.create) or "").partition("Args:")[2].strip(chr(10))}

Source: Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv 1611.05431, figure 3. Form A
sums paths of 1x1, 3x3, 1x1; form B concatenates paths of 1x1, 3x3 before one 1x1; form C is 1x1, grouped 3x3, 1x1, the
fastest. With the same weights, and batch norm, the three are the same function.
"""


def _entry(name: str, summary: str) -> "_partial[_resnext.ResNeXt]":
    entry = _partial(_resnext.create, name)
    entry.__doc__ = f"{summary}\n{_HELP}"
    return entry


def _imagenet(name: str, depth_and_width: str, millions: float, error: float) -> "_partial[_resnext.ResNeXt]":
    return _entry(
        name,
        f"{depth_and_width}, form {name[-1]}, {millions} M parameters; "
        f"top-1 error reported by the authors: {error} % on ImageNet, 224 px.",
    )


resnext50_32x4d_typeA = _imagenet("resnext50_32x4d_typeA", "ResNeXt-50 (32x4d)", 25.0, 22.2)  # noqa: N816
resnext50_32x4d_typeB = _imagenet("resnext50_32x4d_typeB", "ResNeXt-50 (32x4d)", 25.0, 22.2)  # noqa: N816
resnext50_32x4d_typeC = _imagenet("resnext50_32x4d_typeC", "ResNeXt-50 (32x4d)", 25.0, 22.2)  # noqa: N816
resnext101_32x4d_typeA = _imagenet("resnext101_32x4d_typeA", "ResNeXt-101 (32x4d)", 44.2, 21.2)  # noqa: N816
resnext101_32x4d_typeB = _imagenet("resnext101_32x4d_typeB", "ResNeXt-101 (32x4d)", 44.2, 21.2)  # noqa: N816
resnext101_32x4d_typeC = _imagenet("resnext101_32x4d_typeC", "ResNeXt-101 (32x4d)", 44.2, 21.2)  # noqa: N816
resnext101_64x4d_typeA = _imagenet("resnext101_64x4d_typeA", "ResNeXt-101 (64x4d)", 83.5, 20.4)  # noqa: N816
resnext101_64x4d_typeB = _imagenet("resnext101_64x4d_typeB", "ResNeXt-101 (64x4d)", 83.5, 20.4)  # noqa: N816
resnext101_64x4d_typeC = _imagenet("resnext101_64x4d_typeC", "ResNeXt-101 (64x4d)", 83.5, 20.4)  # noqa: N816
resnext29_8x64d_typeC = _entry(  # noqa: N816
    "resnext29_8x64d_typeC", "ResNeXt-29 (8x64d) for CIFAR, 32 px, 10 classes by default. No weights were published."
)
resnext29_16x64d_typeC = _entry(  # noqa: N816
    "resnext29_16x64d_typeC", "ResNeXt-29 (16x64d) for CIFAR, 32 px, 10 classes by default. No weights were published."
)
from_checkpoint = _resnext.from_checkpoint
