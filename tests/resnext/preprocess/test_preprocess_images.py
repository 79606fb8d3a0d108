"""Images of every kind: grey, transparent, in a palette, CMYK, 16 bits, rotated; and what is no image at all."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from resnext.preprocess import CifarPreprocess, Torch7Preprocess, get_preprocess
from tests.resnext.preprocess.test_preprocess import as_pil, random_image

HEIGHT, WIDTH = 13, 18
RGB = random_image(HEIGHT, WIDTH)
GREY = RGB[:1].expand(3, -1, -1)
# pixel values as they are: the shorter side as it should be, nothing cropped, nothing normalised
values = Torch7Preprocess(HEIGHT, None, mean=(0, 0, 0), std=(1, 1, 1))
plain = CifarPreprocess(mean=(0, 0, 0), std=(1, 1, 1))


def same(image, expected, tolerance=1e-4):
    """Whether the pixel values (0 to 255) that count of an image are these, without a warning on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resized, as_it_is = values(image) * 255, plain(image)
    return max((got - expected).abs().max() for got in (resized, as_it_is)) <= tolerance


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def png(bits, colour, rows):
    """A PNG file, written by hand: Pillow writes neither grey with 16 bits and alpha nor colour with 16 bits."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts)))


def test_colour_and_grey():
    assert same(saved(as_pil(RGB), "PNG"), RGB)
    for image in (Image.fromarray(RGB[0].numpy()), saved(Image.fromarray(RGB[0].numpy()), "PNG")):
        assert image.mode == "L"
        assert same(image, GREY)


def test_black_and_white():
    bits = RGB[0] > 127
    image = saved(Image.fromarray(bits.numpy()), "PNG")
    assert image.mode == "1"
    assert same(image, (bits * 255).expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped(mode):
    """Not composited: what is hidden counts, as in the official loader."""
    image = as_pil(RGB) if mode == "RGBA" else Image.fromarray(RGB[0].numpy())
    image.putalpha(Image.fromarray(random_image(HEIGHT, WIDTH, seed=1)[0].numpy()))
    assert image.mode == mode
    assert same(image, RGB if mode == "RGBA" else GREY)
    assert same(saved(image, "PNG"), RGB if mode == "RGBA" else GREY)


@pytest.mark.parametrize(("mode", "straight"), [("RGBa", "RGBA"), ("La", "LA")])
def test_alpha_that_is_multiplied_in_is_taken_out(mode, straight):
    image = as_pil(RGB).convert("L") if mode == "La" else as_pil(RGB)
    image.putalpha(200)
    image = image.convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = torch.from_numpy(np.array(image.convert(straight).convert("RGB"))).permute(2, 0, 1)
        assert (values(image) * 255 - expected).abs().max() < 1e-4


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 10))])
def test_palette(transparency):
    """The colours; a colour that is meant to be transparent is one like any other."""
    numbers = RGB[0] % 16
    colours = random_image(1, 16, seed=2)[:, 0]
    image = Image.fromarray(numbers.numpy(), "L").convert("P")
    image.putdata(numbers.flatten().tolist())
    image.putpalette(colours.t().flatten().tolist())
    image = saved(image, "PNG", **({} if transparency is None else {"transparency": transparency}))
    assert image.mode == "P"
    assert ("transparency" in image.info) == (transparency is not None)
    assert same(image, colours[:, numbers.long()])
    if transparency is not None:
        assert same(image.convert("PA"), colours[:, numbers.long()])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_colour_that_stands_for_transparent(mode):
    image = as_pil(RGB) if mode == "RGB" else Image.fromarray(RGB[0].numpy())
    transparency = tuple(RGB[:, 3, 3].tolist()) if mode == "RGB" else int(RGB[0, 3, 3])
    image = saved(image, "PNG", transparency=transparency)
    assert "transparency" in image.info
    assert same(image, RGB if mode == "RGB" else GREY)


def test_cmyk():
    """The colours that are meant, which a JPEG holds inverted. Torch7 would take C, M and Y for R, G and B."""
    colour = torch.tensor([200, 90, 30]).view(3, 1, 1).expand_as(RGB)
    image = as_pil(colour.to(torch.uint8)).convert("CMYK")
    assert same(image, colour, tolerance=1)
    reopened = saved(image, "JPEG", quality=100)
    assert reopened.mode == "CMYK"
    assert same(reopened, colour, tolerance=4)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB"])
def test_other_colour_spaces(mode):
    image = as_pil(RGB).convert(mode)
    assert same(image, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def test_grey_of_16_bits_counts_with_all_of_them():
    """Divided by 65535, as the official loader does it; rounded to 8 bits it would be off by up to 1 / 510."""
    deep = RGB[0].to(torch.int32) * 256 + RGB[1]
    expected = (deep / 65535 * 255).expand(3, -1, -1)
    image = png(16, 0, deep.numpy().astype(">u2"))
    assert image.mode.startswith("I")
    assert same(image, expected)
    for mode, kind in (("I;16", "<u2"), ("I;16B", ">u2"), ("I", "=i4")):
        data = deep.numpy().astype(kind).tobytes()
        assert same(Image.frombytes(mode, (WIDTH, HEIGHT), data), expected)
    resized = Torch7Preprocess(HEIGHT - 3, HEIGHT - 4)
    difference = resized(image) - resized((expected.round()).to(torch.uint8))
    assert 1e-4 < difference.abs().max() < 1e-2


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_of_colour_and_alpha_with_16_bits_pillow_keeps_the_upper_8(colour, channels):
    upper = torch.cat([RGB, RGB[:1]])[:channels].permute(1, 2, 0)
    image = png(16, colour, (upper.to(torch.int32) * 256 + 77).numpy().astype(">u2"))
    assert same(image, RGB if channels > 2 else GREY)


def test_a_rotation_in_the_exif_data_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    picture = as_pil(RGB)
    straight, turned = saved(picture, "JPEG"), saved(picture, "JPEG", exif=exif)
    assert turned.getexif()[0x0112] == 6
    assert torch.equal(values(turned), values(straight))
    assert values(turned).shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (20, 20), 0.5), "mode F; floating-point values have no known range"),
        (Image.new("I", (20, 20), 70000), "mode I with values from 70000 to 70000; expected 0 to 65535"),
        (Image.new("I", (20, 20), -1), "mode I with values from -1 to -1"),
        (Image.new("RGB", (0, 20)), "an image of 0 x 20 pixels; expected 1 or more each way"),
        (RGB[:1], r"a tensor of shape \[1, 13, 18\]; expected \(3, H, W\) or \(N, 3, H, W\)"),
        (RGB.permute(1, 2, 0), r"a tensor of shape \[13, 18, 3\]"),
        (RGB[0], r"a tensor of shape \[13, 18\]"),
        (RGB[None, None], r"a tensor of shape \[1, 1, 3, 13, 18\]"),
        (RGB[:, :0], r"a tensor of shape \[3, 0, 18\]"),
    ],
)
@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_images_that_are_refused(name, image, message):
    with pytest.raises(ValueError, match=message):
        get_preprocess(name)(image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 255, "a tensor of torch.float32; expected uint8, pixel values from 0 to 255"),
        (RGB.long(), "a tensor of torch.int64; expected uint8"),
        (RGB.permute(1, 2, 0).numpy(), r"expected a PIL image, or a uint8 tensor \(3, H, W\) .*; got ndarray"),
        ("image.jpg", "got str"),
        (None, "got NoneType"),
    ],
)
@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_what_is_no_image(name, image, message):
    with pytest.raises(TypeError, match=message):
        get_preprocess(name)(image)


def test_an_image_smaller_than_ten_crops():
    with pytest.raises(ValueError, match=r"an image of shape \[3, 256, 223\]; expected 224 pixels or more each way"):
        get_preprocess("imagenet", ten_crop=True)[1](torch.zeros(3, 256, 223))
