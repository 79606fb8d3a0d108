"""The pixel values of a PIL image, as the official code's loader has them: `image.load(path, 3, 'float')` of Torch7."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

_BAND = 2**17  # pixels that are copied at a time: Pillow needs several times the memory of what it hands out
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # how Pillow has 16-bit grey, by version, format and byte order
# On the way to RGB: alpha that is multiplied in is taken out; a palette's would raise a warning when it is dropped.
_STRAIGHT = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}


def check_pil(image: object) -> Image:
    """The image, if it is one of PIL's with a pixel or more. Raises TypeError, ValueError."""
    try:
        from PIL.Image import Image
    except ImportError:
        pass
    else:
        if isinstance(image, Image):
            if 0 in image.size:
                raise ValueError(f"an image of {image.width} x {image.height} pixels; expected 1 or more each way")
            return image
    raise TypeError(f"expected a PIL image, or a uint8 tensor (3, H, W) or (N, 3, H, W); got {type(image).__name__}")


def to_pixels(image: Image, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """(H, W, 3), uint8; float32 from 0 to 255 where the image has 16 bits. Of a box (left, top, right, bottom), or all.

    As the official loader does it: grey becomes three equal channels, alpha is dropped (not composited), a palette
    becomes its colours, grey of 16 bits counts with all of them, a rotation in the EXIF data is left alone. Of colour
    with 16 bits Pillow keeps the upper 8. What a person expects, where the official loader fails or gives nonsense:
    CMYK becomes the colours that are meant, alpha beside grey or in a palette is dropped.

    Raises ValueError for values without a known range: floating-point, or integers beyond 16 bits.
    """
    left, top, right, bottom = box or (0, 0, *image.size)
    deep = image.mode in _DEEP
    pixels = torch.empty(bottom - top, right - left, 3, dtype=torch.float32 if deep else torch.uint8)
    step = max(1, _BAND // (right - left))
    for row in range(top, bottom, step):
        band = image.crop((left, row, right, min(row + step, bottom)))
        pixels[row - top : row - top + step] = _sixteen_bits(band) if deep else _eight_bits(band)
    return pixels


def _sixteen_bits(image: Image) -> Tensor:
    values = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"an image of mode {image.mode} with values from {low} to {high}; expected 0 to 65535")
    return values.float().mul_(255 / 65535).view(image.height, image.width, 1)


def _eight_bits(image: Image) -> Tensor:
    if image.mode == "F":
        raise ValueError("an image of mode F; floating-point values have no known range, convert it to 8 bits first")
    if image.mode != "RGB":
        image = image.convert(_STRAIGHT.get(image.mode, image.mode)).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
