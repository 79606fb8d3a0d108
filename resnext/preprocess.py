"""From an image to a network's input, exactly as the authors did it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnext.bicubic import taps
from resnext.pixels import to_pixels


class Settings(NamedTuple):
    """How a data set's images are normalised: mean and standard deviation of red, green, blue."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# datasets/imagenet.lua (pixel values 0 to 1), cifar10.lua and cifar100.lua (0 to 255) in facebookresearch/ResNeXt
SETTINGS = {
    "imagenet": Settings((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Settings((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    "cifar100": Settings((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
}
# crop -> shorter side: imagenet.lua; for 320 the paper's table 5, as in He et al., arXiv 1603.05027
RESIZE = {224: 256, 320: 320}


class Torch7Preprocess(nn.Module):
    """The official evaluation pipeline: the shorter side to `resize`, normalise, crop the centre.

    A PIL image or a uint8 tensor (3, H, W) -> float32 (3, crop, crop); (N, 3, H, W) -> (N, 3, crop, crop).
    `crop=None` keeps the whole image, for `TenCrop`.
    """

    def __init__(
        self,
        resize: int = 256,
        crop: int | None = 224,
        *,
        mean: Sequence[float] = SETTINGS["imagenet"].mean,
        std: Sequence[float] = SETTINGS["imagenet"].std,
    ) -> None:
        super().__init__()
        if resize < 1 or (crop is not None and not 1 <= crop <= resize):
            raise ValueError(f"resize {resize}, crop {crop}; expected a crop from 1 to resize")
        self.resize, self.crop = resize, crop
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            image = image if isinstance(image, Tensor) else to_pixels(image)
        height, width = image.shape[-2:]
        shorter = min(height, width)
        image = self._resize(image, -1, width, shorter)
        image = self._resize(image, -2, height, shorter)
        return (image - self.mean) / self.std

    def _resize(self, image: Tensor, dim: int, length: int, shorter: int) -> Tensor:
        scaled = length if shorter == self.resize else int(length / shorter * self.resize)
        crop = self.crop
        count = scaled if crop is None else crop
        start = math.ceil((scaled - count) / 2)
        indices, weights = taps(length, scaled, start, count, image.device)
        if dim == -2:
            weights = weights.unsqueeze(-1)
        total = image.index_select(dim, indices[0]) * weights[0]
        for k in range(1, 4):
            total = total + image.index_select(dim, indices[k]) * weights[k]
        return total


class CifarPreprocess(nn.Module):
    """Pixel values 0 to 255, normalised; no resize. (3, H, W) or (N, 3, H, W), or a PIL image, as `Torch7Preprocess`."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            image = image if isinstance(image, Tensor) else to_pixels(image)
        return (image - self.mean) / self.std


class TenCrop(nn.Module):
    """(…, 3, H, W) -> (…, 10, 3, crop, crop): centre, corners (top left, top right, bottom left, bottom right), of the
    image and then of its mirror image. `TenCrop` of datasets/transforms.lua."""

    def __init__(self, crop: int = 224) -> None:
        super().__init__()
        self.crop = crop

    def forward(self, image: Tensor) -> Tensor:
        crop = self.crop
        height, width = image.shape[-2:]
        bottom, right = height - crop, width - crop
        crops: list[Tensor] = []
        for picture in (image, image.flip(-1)):
            for top, left in (
                (math.ceil(bottom / 2), math.ceil(right / 2)),
                (0, 0),
                (0, right),
                (bottom, 0),
                (bottom, right),
            ):
                crops.append(picture[..., top : top + crop, left : left + crop])
        return torch.stack(crops, dim=-4)


def get_preprocess(data_set: str, *, crop: int | None = None, ten_crop: bool = False) -> nn.Module:
    """The preprocessing of "imagenet", "cifar10" or "cifar100".

    ImageNet's takes `crop`, 224 (default; shorter side 256) or 320 (shorter side 320), and `ten_crop`: ten crops of
    each image, (10, 3, crop, crop). Raises ValueError for anything else.
    """
    if data_set not in SETTINGS:
        raise ValueError(f"unknown data set {data_set!r}; expected {', '.join(SETTINGS)}")
    mean, std = SETTINGS[data_set]
    if data_set != "imagenet":
        if crop is not None or ten_crop:
            raise ValueError(f"{data_set} images are taken whole; crop and ten_crop are for imagenet")
        return CifarPreprocess(mean, std)
    crop = 224 if crop is None else crop
    if crop not in RESIZE:
        raise ValueError(f"crop {crop}; expected 224 or 320 (for any other: Torch7Preprocess(resize, crop))")
    if ten_crop:
        return nn.Sequential(Torch7Preprocess(RESIZE[crop], None), TenCrop(crop))
    return Torch7Preprocess(RESIZE[crop], crop)
