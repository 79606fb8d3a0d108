"""The pixel values of a PIL image, as the official code's loader has them: `image.load(path, 3, 'float')` of Torch7."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

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


def to_pixels(image: Image) -> NDArray[Any]:
    """(H, W, 3), uint8; float32 from 0 to 255 where the image has 16 bits.

    As the official loader does it: grey becomes three equal channels, alpha is dropped (not composited), a palette
    becomes its colours, grey of 16 bits counts with all of them, a rotation in the EXIF data is left alone. Of colour
    with 16 bits Pillow keeps the upper 8. What a person expects, where the official loader fails or gives nonsense:
    CMYK becomes the colours that are meant, alpha beside grey or in a palette is dropped.

    Raises ValueError for values without a known range: floating-point, or integers beyond 16 bits.
    """
    import numpy as np

    if image.mode in _DEEP:
        values = np.asarray(image.convert("I"))
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"an image of mode {image.mode} with values from {values.min()} to {values.max()}; expected 0 to 65535"
            )
        grey = values.astype(np.float32) * np.float32(255 / 65535)
        return np.broadcast_to(grey[..., np.newaxis], (*grey.shape, 3))
    if image.mode == "F":
        raise ValueError("an image of mode F; floating-point values have no known range, convert it to 8 bits first")
    if image.mode != "RGB":
        image = image.convert(_STRAIGHT.get(image.mode, image.mode)).convert("RGB")
    return np.asarray(image)
