"""From a PIL image to a tensor of pixel values, as the official code's loader (`image.load(path, 3, 'float')`) had it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def to_pixels(image: Any) -> Tensor:
    """A PIL image as (3, H, W): uint8, or float32 between 0 and 255 where it has 16 bits.

    Raises TypeError for anything else, ValueError for an image whose pixels have no known range.
    """
    try:
        from PIL.Image import Image
    except ImportError:
        pass
    else:
        if isinstance(image, Image):
            return _planes(image)
    raise TypeError(f"expected a PIL image or a uint8 tensor (3, H, W) or (N, 3, H, W); got {type(image).__name__}")


def _planes(image: Image) -> Tensor:
    import numpy as np

    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):  # the official loader keeps all 16 bits
        values = torch.from_numpy(np.array(image).astype(np.float32))
        if values.numel() and not 0 <= float(values.min()) <= float(values.max()) <= 65535:
            raise ValueError(f"image of mode {image.mode} with values outside 0 to 65535; convert it to 8 bits first")
        return (values * (255 / 65535)).expand(3, -1, -1)
    if image.mode in ("P", "PA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")  # straight to RGB would warn about the transparency that is dropped
    if image.mode != "RGB":
        try:
            image = image.convert("RGB")
        except ValueError:
            raise ValueError(f"image of mode {image.mode}; expected one that Pillow converts to RGB") from None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
