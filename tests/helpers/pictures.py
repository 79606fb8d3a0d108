"""Images for the tests."""

import io

import torch
from PIL import Image

SIZES = ((40, 33), (32, 32), (32, 32), (64, 48))  # width, height


def make_images(count, size=(32, 32), seed=0):
    """Smooth noise in colour, each image another; `size` is width and height."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        values = torch.randint(0, 256, (4 * 4 * 3,), generator=generator, dtype=torch.uint8)
        yield Image.frombytes("RGB", (4, 4), bytes(values.tolist())).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="PNG"):
    """The bytes of an image's file."""
    with io.BytesIO() as file:
        image.save(file, kind)
        return file.getvalue()


def make_photos(folder):
    """Images of several sizes; neighbours that are alike go through the network together."""
    folder.mkdir()
    for number, size in enumerate(SIZES):
        next(make_images(1, size, seed=number)).save(folder / f"{number}.png")
    return folder
