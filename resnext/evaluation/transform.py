"""From an image to what the network takes: the authors' way, or torchvision's for comparison."""

from __future__ import annotations

import importlib.util
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
    """What torchvision's `ImageClassification` does with a PIL image.

    The image becomes RGB, its shorter side `resize` (bilinear, antialiased); the centre is cropped and normalised.
    Returns float32 (3, crop, crop); with `ten_crop` (10, 3, crop, crop), the crops of torchvision's `TenCrop`.
    """

    def __init__(self, resize: int = RESIZE[CROP], crop: int = CROP, *, ten_crop: bool = False) -> None:
        self.resize, self.crop, self.ten_crop = resize, crop, ten_crop

    def __call__(self, image: Image) -> Tensor:
        from torchvision.transforms import functional

        image = functional.resize(image.convert("RGB"), [self.resize])
        crops = functional.ten_crop(image, self.crop) if self.ten_crop else [functional.center_crop(image, self.crop)]
        tensors = [functional.normalize(functional.to_tensor(crop), *SETTINGS["imagenet"]) for crop in crops]
        return torch.stack(tensors) if self.ten_crop else tensors[0]


def choose_transform(
    model: ResNeXt, pipeline: str, crop: int | None = None, ten_crop: bool = False
) -> tuple[Transform, dict[str, Any]]:
    """The transform for a network's images, and its description for the report.

    Raises DataError for options that do not fit each other or the network.
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
        if importlib.util.find_spec("torchvision") is None:
            raise DataError("--preprocess torchvision needs the torchvision package: pip install torchvision")
        return TorchvisionPreprocess(RESIZE[crop], crop, ten_crop=ten_crop), described
    return get_preprocess(data_set, crop=crop, ten_crop=ten_crop), described
