"""torch.hub entry points: `torch.hub.load('org/resnext', 'resnext50_32x4d_typeC', pretrained=True)`."""

from collections.abc import Callable as _Callable
from os import PathLike as _PathLike
from typing import Any as _Any

import resnext as _resnext

dependencies = ["torch"]

_ARGUMENTS = """
    Input: images as float (N, in_channels, H, W), H and W from 32 px up. Output: logits (N, num_classes).

    Args:
        pretrained (bool): load the authors' weights (CC BY-NC 4.0).
        progress (bool): show a progress bar where something is downloaded.
        weights (str): path or URL of a .pth, .safetensors or Torch7 .t7 file to load instead, of any form.
        num_classes (int): number of logits, 0 for none; by default that of the weights, else of the data set in the
            paper. Where the weights have another number, the body is loaded, the classifier is new, and a warning says
            so.
        in_channels (int): channels of the input image. Weights for 3 channels are summed for 1 channel; else repeated
            in turn and scaled by 3 / in_channels.
        features_only (bool): return the maps of the stages as a list; `feature_info` tells channels and reduction.
        out_indices (tuple of int): which maps, with features_only: 0 is the stem's, 1 to 4 the stages'.
        shortcut (str): "B" or "C", the shortcut type of the official code.
        replace_stride_with_dilation (list of bool): for each stage after the first, dilation in place of its stride.
        norm_layer (callable): makes a normalisation layer of so many channels.
        zero_init_residual (bool): start with each bottleneck as its shortcut alone.
        drop_rate, drop_path_rate (float): dropout ahead of the classifier; stochastic depth.
        global_pool (str): "avg", "max", "avgmax", or "" for none.

    Raises:
        ValueError: options that cannot be combined.
        resnext.WeightsError: weights that cannot be had, or that are not those of this network.

    Source: Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv 1611.05431, figure 3. Form A
    sums paths of 1x1, 3x3, 1x1; form B concatenates paths of 1x1, 3x3 ahead of one 1x1; form C is 1x1, grouped 3x3,
    1x1, the fastest. With the same weights the three are the same function.
    """


def _entry(name: str, summary: str) -> _Callable[..., _resnext.ResNeXt]:
    def entry(
        pretrained: bool = False,
        progress: bool = True,
        *,
        weights: str | _PathLike[str] | None = None,
        num_classes: int | None = None,
        in_channels: int = 3,
        **options: _Any,
    ) -> _resnext.ResNeXt:
        return _resnext.create(
            name,
            pretrained=pretrained,
            progress=progress,
            weights=weights,
            num_classes=num_classes,
            in_channels=in_channels,
            **options,
        )

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{summary}\n{_ARGUMENTS}"
    return entry


def _imagenet(name: str, depth_and_width: str, millions: float, error: float) -> _Callable[..., _resnext.ResNeXt]:
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
