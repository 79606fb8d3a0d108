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
        weights (str): path or URL of a .pth, .safetensors or Torch7 .t7 file to load instead.
        num_classes (int): number of logits; by default that of the weights, else of the data set in the paper. Where
            the weights have another number, the body is loaded, the classifier is new, and a warning says so.
        in_channels (int): channels of the input image.
        shortcut (str): "B" or "C", the shortcut type of the official code.

    Raises:
        resnext.WeightsError: weights that cannot be had, or that are not those of this network.

    Source: Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv 1611.05431. The block is
    form C of figure 3: 1x1, grouped 3x3, 1x1.
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


resnext50_32x4d_typeC = _entry(  # noqa: N816
    "resnext50_32x4d_typeC", "ResNeXt-50 (32x4d), 25.0 M parameters; reported top-1 error 22.2 % on ImageNet, 224 px."
)
resnext101_32x4d_typeC = _entry(  # noqa: N816
    "resnext101_32x4d_typeC", "ResNeXt-101 (32x4d), 44.2 M parameters; reported top-1 error 21.2 % on ImageNet, 224 px."
)
resnext101_64x4d_typeC = _entry(  # noqa: N816
    "resnext101_64x4d_typeC", "ResNeXt-101 (64x4d), 83.5 M parameters; reported top-1 error 20.4 % on ImageNet, 224 px."
)
resnext29_8x64d_typeC = _entry(  # noqa: N816
    "resnext29_8x64d_typeC", "ResNeXt-29 (8x64d) for CIFAR, 32 px, 10 classes by default. No weights were published."
)
resnext29_16x64d_typeC = _entry(  # noqa: N816
    "resnext29_16x64d_typeC", "ResNeXt-29 (16x64d) for CIFAR, 32 px, 10 classes by default. No weights were published."
)
from_checkpoint = _resnext.from_checkpoint
