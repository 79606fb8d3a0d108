"""From an image to what a network takes, exactly as the authors did it.

The same weights lose about half a point under another resize. Sources: datasets/imagenet.lua, cifar10.lua,
cifar100.lua and transforms.lua of facebookresearch/ResNeXt. What becomes of grey, transparent, CMYK, 16-bit and rotated
images says `resnext.pixels.to_pixels`.

The modules have no parameters and no buffers: nothing in a state_dict, nothing that `.half()` could round. They can be
pickled; and scripted and exported, for tensors, alone or as the first part of an `nn.Sequential`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnext.bicubic import plan, plan_arrays, span, weigh, weigh_array
from resnext.pixels import check_pil, to_pixels


class Settings(NamedTuple):
    """Mean and standard deviation of red, green and blue over a data set."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


SETTINGS = {
    "imagenet": Settings((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # of values from 0 to 1
    "cifar10": Settings((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),  # of values from 0 to 255
    "cifar100": Settings((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
}
IMAGENET = SETTINGS["imagenet"]

# Crop -> shorter side. 224: imagenet.lua. 320: the paper's table 5 tests "as in" He et al., Identity Mappings in Deep
# Residual Networks (arXiv 1603.05027), who take 320 px crops of images whose shorter side is 320.
RESIZE = {224: 256, 320: 320}


BAND = 5000  # pixels of a PIL image that are weighed at a time: 250 kB with their neighbours


class Torch7Preprocess(nn.Module):
    """ImageNet's evaluation pipeline: the shorter side to `resize`, the centre cropped, normalised.

    Takes a PIL image, a uint8 tensor (3, H, W), or a batch (N, 3, H, W). Returns float32 (3, crop, crop), or (N, 3,
    crop, crop): within 1e-6 of Torch7's own result in units of pixel values from 0 to 1; the same bits whichever of the
    three it takes, scripted or exported. What the crop leaves out is not computed.

    Exported with a crop it takes images of any size if H and W are marked as dynamic; without one, of one size.

    Args:
        resize: the shorter side; the longer is floor(longer / shorter * resize). An image that has it is not touched.
        crop: side of the crop, at most `resize`; None keeps all, for `TenCrop`: (3, H', W').
        mean, std: of red, green and blue, of values from 0 to 1.

    Raises ValueError for arguments or an image that cannot be, TypeError for anything but an image of 8-bit values.
    """

    def __init__(
        self,
        resize: int = 256,
        crop: int | None = 224,
        *,
        mean: Sequence[float] = IMAGENET.mean,
        std: Sequence[float] = IMAGENET.std,
    ) -> None:
        super().__init__()
        if not 1 <= (resize if crop is None else crop) <= resize:
            raise ValueError(f"resize {resize}, crop {crop}; expected a crop from 1 to resize, or None for no crop")
        self.resize, self.crop = resize, crop
        self.mean, self.std = _check_settings(mean, std)

    def forward(self, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            return self._forward_pil(image)
        _check_tensor(image)
        rows, row_weights, columns, column_weights = plan(image.size(-2), image.size(-1), self.resize, self.crop)
        if not torch.compiler.is_compiling():
            left, right = span(columns)  # numbers, which an exported graph would keep for images of any size
            image, columns = image[..., left:right], columns - left
        planes = weigh(image, rows, row_weights)  # (…, 3, crop, W)
        side = planes.flatten(0, -2).t().contiguous()  # (W, … * 3 * crop): columns, now one value beside the other
        pixels = weigh(side, columns, column_weights).t().contiguous()
        shape = image.shape[:-2] + (rows.size(1), columns.size(1))  # noqa: RUF005 (TorchScript)
        return _normalise(pixels.view(shape).div_(255), self.mean, self.std)

    def _forward_pil(self, image: object) -> Tensor:
        """The same sums for a PIL image, in numpy and a few rows at a time.

        For one image torch's threads take longer to wake than to work, much longer on a busy machine; and blocks of
        memory that are too large for the C library to keep take longer to fetch than to fill.
        """
        import numpy as np

        image = check_pil(image)
        rows, row_weights, columns, column_weights = plan_arrays(image.height, image.width, self.resize, self.crop)
        left, right, count = int(columns[0, 0]), int(columns[-1, -1]) + 1, rows.shape[1]
        pixels = np.empty((3, count, columns.shape[1]), np.float32)
        step = max(1, BAND // (right - left))
        for band in (slice(first, first + step) for first in range(0, count, step)):
            top, bottom = int(rows[0, band][0]), int(rows[-1, band][-1]) + 1
            kept = to_pixels(image.crop((left, top, right, bottom)))  # with the channels last
            lines = weigh_array(kept.reshape(bottom - top, -1), rows[:, band] - top, row_weights[:, band])
            side = np.ascontiguousarray(lines.T).reshape(right - left, -1)  # (W, 3 * step)
            pixels[:, band] = weigh_array(side, columns - left, column_weights).T.reshape(3, -1, columns.shape[1])
        pixels /= 255
        pixels -= np.array(self.mean, np.float32)[:, None, None]
        pixels /= np.array(self.std, np.float32)[:, None, None]
        return torch.from_numpy(pixels)

    def extra_repr(self) -> str:
        return f"resize={self.resize}, crop={self.crop}"


class CifarPreprocess(nn.Module):
    """CIFAR's evaluation pipeline: pixel values from 0 to 255, normalised; no resize, no crop.

    Takes a PIL image, a uint8 tensor (3, H, W), or a batch (N, 3, H, W); returns float32 of that shape.

    Args:
        mean, std: of red, green and blue, of values from 0 to 255.

    Raises as `Torch7Preprocess` does.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = _check_settings(mean, std)

    def forward(self, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            pixels = to_pixels(check_pil(image)).transpose(2, 0, 1).astype("float32", order="C")
            return _normalise(torch.from_numpy(pixels), self.mean, self.std)
        _check_tensor(image)
        return _normalise(image.float(), self.mean, self.std)

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"


class TenCrop(nn.Module):
    """The official `TenCrop`: centre, top left, top right, bottom left, bottom right; then of the mirror image.

    (…, 3, H, W), resized and normalised -> (…, 10, 3, crop, crop). Raises ValueError for an image smaller than `crop`.
    """

    def __init__(self, crop: int = 224) -> None:
        super().__init__()
        if crop < 1:
            raise ValueError(f"crop {crop}; expected 1 or more")
        self.crop = crop

    def forward(self, image: Tensor) -> Tensor:
        crop = self.crop
        bottom, right = image.size(-2) - crop, image.size(-1) - crop
        if bottom < 0 or right < 0:
            raise ValueError(f"an image of shape {list(image.shape)}; expected {crop} pixels or more each way")
        corners = [((bottom + 1) // 2, (right + 1) // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        crops: list[Tensor] = []
        for picture in [image, image.flip(-1)]:
            for top, left in corners:
                crops.append(picture[..., top : top + crop, left : left + crop])
        return torch.stack(crops, -4)

    def extra_repr(self) -> str:
        return f"crop={self.crop}"


def get_preprocess(data_set: str, *, crop: int | None = None, ten_crop: bool = False) -> nn.Module:
    """The authors' evaluation pipeline for networks that were trained on "imagenet", "cifar10" or "cifar100".

    Args:
        data_set: one of those.
        crop: ImageNet alone: 224 (shorter side 256), which is the default, or 320 (shorter side 320).
        ten_crop: ImageNet alone: ten crops of each image, (10, 3, crop, crop) or (N, 10, 3, crop, crop); the official
            code (train.lua) adds up their logits.

    Raises ValueError for anything else.
    """
    if data_set not in SETTINGS:
        raise ValueError(f"unknown data set {data_set!r}; expected {', '.join(SETTINGS)}")
    if data_set != "imagenet":
        if crop is not None or ten_crop:
            raise ValueError(f"images of {data_set} are taken whole; crop and ten_crop are for imagenet")
        return CifarPreprocess(*SETTINGS[data_set])
    crop = 224 if crop is None else crop
    if crop not in RESIZE:
        raise ValueError(
            f"crop {crop}; the authors tested at 224 and 320 (for another: Torch7Preprocess(resize, crop))"
        )
    if ten_crop:
        return nn.Sequential(Torch7Preprocess(RESIZE[crop], None), TenCrop(crop))
    return Torch7Preprocess(RESIZE[crop], crop)


def _check_settings(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    checked = [float(value) for value in mean], [float(value) for value in std]
    if [len(values) for values in checked] != [3, 3] or not min(checked[1]) > 0:
        raise ValueError(f"mean {tuple(mean)}, std {tuple(std)}; expected three numbers each, std above 0")
    return checked


def _check_tensor(image: Tensor) -> None:
    if image.dtype != torch.uint8:
        raise TypeError(f"a tensor of {image.dtype}; expected uint8, pixel values from 0 to 255")
    if image.dim() not in (3, 4) or image.size(-3) != 3 or image.size(-2) < 1 or image.size(-1) < 1:
        raise ValueError(f"a tensor of shape {list(image.shape)}; expected (3, H, W) or (N, 3, H, W)")


def _normalise(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """(…, 3, H, W), in place."""
    means = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
    deviations = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
    return pixels.sub_(means).div_(deviations)
