"""From an image to what the network takes: the authors' way, or torchvision's for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from resnext.evaluation import DataError
from resnext.evaluation.data import Transform
from resnext.model import ResNeXt
from resnext.preprocess import RESIZE, SETTINGS, get_preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

CROP = 224  # the authors' single crop


class TorchvisionPreprocess:
    """What torchvision's `ImageClassification` does with a PIL image, to the bit, without torchvision.

    Converted to RGB, the shorter side to `resize` (bilinear, antialiased), cropped in the centre, normalised. Returns
    float32 (3, crop, crop); with `ten_crop` (10, 3, crop, crop): the corners and the centre, of the image and of its
    mirror image, as torchvision's `TenCrop` makes them.
    """

    def __init__(self, resize: int = RESIZE[CROP], crop: int = CROP, *, ten_crop: bool = False) -> None:
        self.resize, self.crop, self.ten_crop = resize, crop, ten_crop

    def __call__(self, image: Image) -> Tensor:
        from PIL.Image import Resampling, Transpose

        image = image.convert("RGB")
        short, long = sorted(image.size)
        scaled = int(self.resize * long / short)
        size = (self.resize, scaled) if image.width <= image.height else (scaled, self.resize)
        if image.size != size:
            image = image.resize(size, Resampling.BILINEAR)
        if not self.ten_crop:
            return self._crops(image, corners=False)[0]
        mirrored = image.transpose(Transpose.FLIP_LEFT_RIGHT)
        return torch.stack([*self._crops(image, corners=True), *self._crops(mirrored, corners=True)])

    def _crops(self, image: Image, *, corners: bool) -> list[Tensor]:
        right, bottom = image.width - self.crop, image.height - self.crop
        places = [(0, 0), (right, 0), (0, bottom), (right, bottom)] if corners else []
        places.append((round(right / 2), round(bottom / 2)))
        return [self._tensor(image.crop((x, y, x + self.crop, y + self.crop))) for x, y in places]

    def _tensor(self, image: Image) -> Tensor:
        values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        values = values.view(image.height, image.width, 3).permute(2, 0, 1).contiguous().float().div_(255)
        mean, std = (torch.tensor(value)[:, None, None] for value in SETTINGS["imagenet"])
        return values.sub_(mean).div_(std)


def choose_transform(
    model: ResNeXt, pipeline: str, crop: int | None = None, ten_crop: bool = False
) -> tuple[Transform, dict[str, Any]]:
    """The transform for a network's images, and what it is in words for the report.

    Raises DataError for options that do not go together with each other or with the network.
    """
    data_set = model.preprocessing
    if model.in_channels != 3:
        raise DataError(f"the network takes images of {model.in_channels} channels; expected 3 (RGB)")
    if data_set != "imagenet":
        given = (("--preprocess torchvision", pipeline == "torchvision"), ("--crop", crop), ("--ten-crop", ten_crop))
        for option, is_given in given:
            if is_given:
                raise DataError(
                    f"{option} is for ImageNet's networks, and this is one for {data_set.upper()}, which takes images "
                    "as they are; leave the option out"
                )
        return get_preprocess(data_set), {"pipeline": data_set}
    crop = CROP if crop is None else crop
    if crop not in RESIZE:
        raise DataError(f"--crop {crop}: expected {' or '.join(map(str, RESIZE))}")
    described = {"pipeline": pipeline, "resize": RESIZE[crop], "crop": crop, "ten_crop": ten_crop}
    if pipeline == "torchvision":
        return TorchvisionPreprocess(RESIZE[crop], crop, ten_crop=ten_crop), described
    return get_preprocess(data_set, crop=crop, ten_crop=ten_crop), described
