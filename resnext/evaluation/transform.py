"""From an image to what the network takes: the authors' way, or torchvision's for comparison."""

from __future__ import annotations

from typing import Any

from resnext.evaluation import DataError
from resnext.evaluation.data import Transform
from resnext.model import ResNeXt
from resnext.preprocess import RESIZE, Preprocessing, TorchvisionPreprocess, get_preprocess

CROP = 224  # the authors' single crop


def choose_transform(
    model: ResNeXt, pipeline: str, crop: int | None = None, ten_crop: bool = False
) -> tuple[Transform, dict[str, Any]]:
    """The transform for a network's images, and its description for the report.

    Raises DataError for options that do not fit each other or the network.
    """
    own = model.preprocessing
    if model.in_channels != 3:
        raise DataError(f"the network takes images of {model.in_channels} channels; expected 3 (RGB)")
    if own != "imagenet":
        given = (("--preprocess torchvision", pipeline == "torchvision"), ("--crop", crop), ("--ten-crop", ten_crop))
        for option, is_given in given:
            if is_given:
                why = (
                    f"this is one for {own.upper()}, which takes images as they are"
                    if isinstance(own, str)
                    else "these weights come with preprocessing of their own, which is used"
                )
                raise DataError(f"{option} is for ImageNet's networks, and {why}; leave the option out")
        return get_preprocess(own), {"pipeline": own} if isinstance(own, str) else Preprocessing.of(own).as_dict()
    crop = CROP if crop is None else crop
    if crop not in RESIZE:
        raise DataError(f"--crop {crop}: expected {' or '.join(map(str, RESIZE))}")
    described = {"pipeline": pipeline, "resize": RESIZE[crop], "crop": crop, "ten_crop": ten_crop}
    if pipeline == "torchvision":
        return TorchvisionPreprocess(RESIZE[crop], crop, ten_crop=ten_crop), described
    return get_preprocess(own, crop=crop, ten_crop=ten_crop), described
