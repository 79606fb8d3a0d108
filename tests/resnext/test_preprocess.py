"""The preprocessing: against Torch7's own output and its C code written down once more; of images of every kind (grey,
transparent, CMYK, 16 bits, rotated); as a part of a script, an exported graph or a model."""

import io
import math
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.export import Dim

from resnext.model import ResNeXt
from resnext.preprocess import (
    SETTINGS,
    CifarPreprocess,
    Preprocessing,
    TenCrop,
    Torch7Preprocess,
    TorchvisionPreprocess,
    get_preprocess,
)
from tests.helpers.pictures import make_images
from tests.helpers.recorded import FIXTURES, SHARED

IMAGES = sorted((FIXTURES / "preprocess").glob("*.png"))
LARGE = SHARED.parent / "preprocess"
LIMIT = 2e-6  # in units of pixel values from 0 to 1
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in SETTINGS["imagenet"])


def pixels_of(path):
    """(3, H, W), read in another way than by the code under test."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def random_image(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def as_pil(tensor):
    return Image.fromarray(tensor.permute(1, 2, 0).numpy())


def error(got, expected):
    """The largest difference between two normalised images, in units of pixel values from 0 to 1."""
    assert got.dtype == expected.dtype == torch.float32
    assert got.shape == expected.shape
    return ((got - expected) * STD).abs().max().item()


def scale_cubic(image, side, axis):
    """`scaleCubic_rowcol` of torch/image for all rows (or columns) at once; a float32 array (3, H, W)."""
    source = np.moveaxis(image, axis, 0)
    length, f = len(source), np.float32
    if side == length:
        return image
    target = np.empty((side, *source.shape[1:]), f)
    scale = f(length - 1) if side == 1 else f(length - 1) / f(side - 1)
    for i in range(side - 1):
        position = f(i) * scale
        left = int(position)
        t = position - f(left)
        p1 = source[left]
        p2 = source[left + 1] if left + 1 < length else p1  # one pixel: C reads beyond it, and multiplies by t = 0
        p0 = source[left - 1] if left > 0 else 2 * p1 - p2
        p3 = source[left + 2] if left + 2 < length else 2 * p2 - p1
        a1 = -f(0.5) * p0 + f(0.5) * p2
        a2 = p0 - f(2.5) * p1 + f(2) * p2 - f(0.5) * p3
        a3 = -f(0.5) * p0 + f(1.5) * p1 - f(1.5) * p2 + f(0.5) * p3
        target[i] = p1 + t * (a1 + t * (a2 + a3 * t))
    target[side - 1] = source[length - 1]
    return np.moveaxis(target, 0, axis)


def official(tensor, resize, crop):
    """Scale, ColorNormalize and CenterCrop of the official transforms.lua."""
    image = tensor.numpy().astype(np.float32) * np.float32(1 / 255)
    height, width = image.shape[1:]
    if not ((width <= height and width == resize) or (height <= width and height == resize)):
        if width < height:
            new_height, new_width = int(height / width * resize), resize
        else:
            new_height, new_width = resize, int(width / height * resize)
        image = scale_cubic(scale_cubic(image, new_width, 2), new_height, 1)
    image = (torch.from_numpy(np.ascontiguousarray(image)) - MEAN) / STD
    if crop is None:
        return image
    top, left = (math.ceil((side - crop) / 2) for side in image.shape[1:])
    return image[:, top : top + crop, left : left + crop]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_torch7s_own_output_on_tiny_images(path):
    with np.load(path.with_suffix(".npz")) as arrays:
        expected = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    expected["scale64"] = (expected["scale64"] - MEAN) / STD
    for key, (resize, crop) in {"crop56": (64, 56), "scale72_crop65": (72, 65), "scale64": (64, None)}.items():
        transform = Torch7Preprocess(resize, crop)
        with Image.open(path) as image:
            assert error(transform(image), expected[key]) < LIMIT
        assert error(transform(pixels_of(path)), expected[key]) < LIMIT


def test_torch7s_own_output_on_images_of_the_usual_size():
    if not LARGE.exists():
        pytest.skip("the images of the usual size are not part of the repository")
    paths = sorted(LARGE.glob("*.png"))
    assert paths
    for path in paths:
        with np.load(path.with_suffix(".npz")) as arrays, Image.open(path) as image:
            assert error(get_preprocess("imagenet")(image), torch.from_numpy(arrays["crop224"])) < LIMIT


# One pixel each way, enlarged, reduced, far from square, almost square, the shorter side as it should be, and so long
# that positions are wrong unless they are rounded to float32.
SIZES = [
    (1, 1),
    (1, 7),
    (9, 1),
    (2, 3),
    (3, 2),
    (37, 23),
    (40, 200),
    (150, 8),
    (71, 73),
    (101, 72),
    (72, 72),
    (90, 999),
]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_official_code_on_odd_sizes(height, width):
    image = random_image(height, width)
    for resize, crop in ((72, 65), (72, None), (64, 1), (1, 1)):
        assert error(Torch7Preprocess(resize, crop)(image), official(image, resize, crop)) < LIMIT


@pytest.mark.parametrize(("height", "width"), [(17, 7), (7, 34), (61, 7), (49, 54), (55, 49), (49, 99)])
def test_the_longer_side_in_floating_point(height, width):
    """17 / 7 * 49 is below 119, and 54 / 49 * 49 would be below 54 if such an image were touched."""
    image = random_image(height, width)
    for crop in (48, 49, None):
        assert error(Torch7Preprocess(49, crop)(image), official(image, 49, crop)) < LIMIT


@pytest.mark.parametrize("crop", [33, None])
@pytest.mark.parametrize(
    ("height", "width"), [(61, 45), (45, 61), (40, 52), (13, 17), (300, 200), (1500, 1300), (7, 6000)]
)  # the larger ones are resized in bands: of several rows, and of one
def test_every_way_in_gives_the_same_bits(height, width, crop):
    transform = Torch7Preprocess(40, crop)
    image, other = random_image(height, width), random_image(height, width, seed=1)
    expected = transform(image)
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as numpy has a picture
    for got in (transform(as_pil(image)), transform(strided)):
        assert torch.equal(got, expected)
        assert got.is_contiguous()
    assert torch.equal(transform(torch.stack([other, image])), torch.stack([transform(other), expected]))
    assert expected.is_contiguous()


def test_a_batch_of_none():
    assert Torch7Preprocess(40, 33)(torch.empty(0, 3, 50, 60, dtype=torch.uint8)).shape == (0, 3, 33, 33)


def test_the_image_stays_as_it_was():
    image = random_image(40, 50)
    before, picture = image.clone(), as_pil(image)
    for transform in (Torch7Preprocess(40, 33), get_preprocess("cifar10")):
        transform(image)
        transform(picture)
        assert torch.equal(image, before)
        assert picture.tobytes() == as_pil(before).tobytes()


def test_what_the_crop_leaves_out_is_not_computed():
    wide = torch.tensor([7], dtype=torch.uint8).expand(3, 64, 2**26)  # resized as a whole it would take 26 GB
    assert torch.equal(Torch7Preprocess(64, 32)(wide), Torch7Preprocess(64, 32)(wide[..., :99]))
    boxes = []

    class Recorded(Image.Image):
        def crop(self, box):
            boxes.append(box)
            return super().crop(box)

    picture = as_pil(random_image(64, 4000))
    picture.__class__ = Recorded
    Torch7Preprocess(64, 32)(picture)
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    assert (max(rights) - min(lefts), max(bottoms) - min(tops)) == (32 + 3, 32 + 3)  # with the neighbours


def test_other_defaults():
    """A default type or device is the user's affair; what comes out is the same as ever."""
    image, transform = random_image(40, 50), Torch7Preprocess(40, 33)
    expected = transform(image)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(transform(image), expected)
            assert torch.equal(transform(as_pil(image)), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_own_statistics():
    image = random_image(40, 50)
    plain = Torch7Preprocess(40, 33, mean=(0, 0, 0), std=(1, 1, 1))(image)
    assert (plain * 255 - image[:, 4:37, 9:42]).abs().max() < 1e-4
    assert error(Torch7Preprocess(40, 33)(image), (plain - MEAN) / STD) < LIMIT


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(name):
    """cifar10.lua and cifar100.lua: ColorNormalize alone, of values from 0 to 255."""
    mean, std = {
        "cifar10": ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
        "cifar100": ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    }[name]
    images = torch.stack([random_image(32, 32, seed) for seed in range(3)])
    expected = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    transform = get_preprocess(name)
    assert isinstance(transform, CifarPreprocess)
    assert torch.equal(transform(images), expected)
    assert torch.equal(transform(images[1]), expected[1])
    assert torch.equal(transform(as_pil(images[2])), expected[2])


def test_ten_crops():
    """By hand, in the order of transforms.lua: centre, corners by rows; the mirror image, its centre and corners."""
    image = torch.arange(3 * 6 * 8, dtype=torch.float32).view(3, 6, 8)
    offsets = [(2, 3), (0, 0), (0, 5), (3, 0), (3, 5)]  # ceil((6 - 3) / 2), ceil((8 - 3) / 2)
    expected = [part[:, y : y + 3, x : x + 3] for part in (image, image.flip(2)) for y, x in offsets]
    assert torch.equal(TenCrop(3)(image), torch.stack(expected))
    batch = torch.stack([image, -image])
    assert torch.equal(TenCrop(3)(batch), torch.stack([torch.stack(expected), -torch.stack(expected)]))


def test_imagenets_pipelines():
    for crop, resize in ((None, 256), (224, 256), (320, 320)):
        single = get_preprocess("imagenet", crop=crop)
        whole, ten = get_preprocess("imagenet", crop=crop, ten_crop=True)
        assert (single.resize, single.crop) == (resize, crop or 224)
        assert (whole.resize, whole.crop, ten.crop) == (resize, None, crop or 224)
    image = random_image(70, 50)
    crops = get_preprocess("imagenet", ten_crop=True)(as_pil(image))
    assert crops.shape == (10, 3, 224, 224)
    assert torch.equal(crops[0], get_preprocess("imagenet")(image))
    assert torch.equal(crops[4], Torch7Preprocess(256, None)(image)[:, -224:, -224:])
    assert torch.equal(get_preprocess("imagenet", ten_crop=True)(torch.stack([image, image]))[1], crops)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["imagenet21k"], {}, "unknown data set 'imagenet21k'; expected imagenet, cifar10, cifar100"),
        (["imagenet"], {"crop": 288}, r"crop 288; the authors tested at 224 and 320 \(for another: Torch7Preprocess"),
        (["cifar10"], {"crop": 32}, "images of cifar10 are taken whole; crop and ten_crop are for imagenet"),
        (["cifar100"], {"ten_crop": True}, "images of cifar100 are taken whole"),
    ],
)
def test_pipelines_that_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        get_preprocess(*arguments, **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Torch7Preprocess(64, 65), "resize 64, crop 65; expected a crop from 1 to resize"),
        (lambda: Torch7Preprocess(64, 0), "resize 64, crop 0; expected a crop from 1 to resize"),
        (lambda: Torch7Preprocess(0, None), "resize 0, crop None; expected"),
        (lambda: Torch7Preprocess(mean=(0.5, 0.5)), r"mean \(0.5, 0.5\), std .*; expected three numbers each"),
        (lambda: CifarPreprocess((1, 2, 3), (1, 0, 1)), "std above 0"),
        (lambda: TenCrop(0), "crop 0; expected 1 or more"),
    ],
)
def test_modules_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- images of every kind ---

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
        (RGB.permute(1, 2, 0).numpy() / 255, "an array of float64; expected uint8"),
        (None, r"expected a PIL image, a path, an array \(H, W, 3\), .*; got NoneType"),
        ([RGB, None], "got NoneType"),
    ],
)
@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_what_is_no_image(name, image, message):
    with pytest.raises(TypeError, match=message):
        get_preprocess(name)(image)


@pytest.mark.parametrize("name", ["imagenet", "cifar10"])
def test_every_kind_of_image_gives_the_same_bits(name, tmp_path):
    pixels = RGB.permute(1, 2, 0).numpy()
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    preprocess = get_preprocess(name)
    expected = preprocess(RGB)
    reverse = np.ascontiguousarray(pixels[::-1])[::-1]  # negative strides
    reverse.flags.writeable = False
    kinds = [Image.open(path), path, str(path), pixels, reverse, RGB]
    for image in kinds:
        assert torch.equal(preprocess(image), expected)
    for images in (kinds, tuple(kinds)):
        assert torch.equal(preprocess(images), expected.expand(len(kinds), -1, -1, -1))
    assert preprocess([path]).shape == (1, *expected.shape)


def test_a_list_may_hold_images_of_any_size_for_imagenet_and_of_one_for_cifar():
    images = [RGB, RGB[:, 1:]]
    batch = get_preprocess("imagenet")(images)
    assert torch.equal(batch[1], get_preprocess("imagenet")(images[1]))
    with pytest.raises(
        ValueError, match=r"images that become inputs of \d+ x \d+, \d+ x \d+ pixels; expected one size"
    ):
        get_preprocess("cifar10")(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "an empty list; expected one image or more"),
        ([RGB[None]], "a list with batches in it; expected a list of single images"),
        ([[RGB]], "a list with batches in it"),
        (np.zeros((8, 8), np.uint8), r"an array of shape \[8, 8\]; expected \(H, W, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"an array of shape \[3, 8, 8\]; expected \(H, W, 3\)"),
    ],
)
def test_lists_and_arrays_that_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        get_preprocess("imagenet")(images)


def test_files_that_are_no_image(tmp_path):
    preprocess = get_preprocess("imagenet")
    with pytest.raises(FileNotFoundError, match=r"image\.jpg"):
        preprocess(tmp_path / "image.jpg")
    with pytest.raises(ValueError, match=": expected the file of an image"):
        preprocess(tmp_path)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.jpg: expected an image that Pillow reads"):
        preprocess(str(tmp_path / "text.jpg"))


def test_an_image_smaller_than_ten_crops():
    with pytest.raises(ValueError, match=r"an image of shape \[3, 256, 223\]; expected 224 pixels or more each way"):
        get_preprocess("imagenet", ten_crop=True)[1](torch.zeros(3, 256, 223))


# --- as a part of something else ---

MODULES = {
    "crop": lambda: Torch7Preprocess(40, 33),
    "whole": lambda: Torch7Preprocess(40, None),
    "ten crops": lambda: nn.Sequential(Torch7Preprocess(40, None), TenCrop(33)),
    "cifar10": lambda: get_preprocess("cifar10"),
    "in a model": lambda: nn.Sequential(Torch7Preprocess(40, 33), nn.Conv2d(3, 4, 3)),
}
BATCH = torch.stack([random_image(47, 61), random_image(47, 61, seed=1)])


@pytest.fixture(params=MODULES)
def module(request):
    torch.manual_seed(0)
    return MODULES[request.param]().eval()


def test_no_state(module):
    assert [key for key in module.state_dict() if "weight" not in key and "bias" not in key] == []
    assert list(module.buffers()) == []


def test_half_precision_rounds_nothing():
    module = Torch7Preprocess(40, 33)
    expected = module(BATCH)
    assert torch.equal(module.half()(BATCH), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(BATCH), expected)


@pytest.mark.parametrize("crop", [33, None])
def test_the_default_device_changes_nothing(crop):
    """As where a model is set up under `torch.device(…)`: images are on the CPU."""
    module = Torch7Preprocess(40, crop)
    expected = module(BATCH)
    with torch.device("meta"):
        assert torch.equal(module(BATCH), expected)


def test_pickled(module):
    with torch.inference_mode():
        assert torch.equal(pickle.loads(pickle.dumps(module))(BATCH), module(BATCH))


def test_a_sequence_takes_pil_images():
    module = MODULES["in a model"]()
    with torch.inference_mode():
        assert torch.equal(module(as_pil(BATCH[0])), module(BATCH[0]))


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
def test_scripted(module, tmp_path):
    torch.jit.script(module).save(tmp_path / "module.pt")
    scripted = torch.jit.load(tmp_path / "module.pt")
    with torch.inference_mode():
        for image in (BATCH, BATCH[0], random_image(80, 40), random_image(9, 30)):
            assert torch.equal(scripted(image), module(image))
    for image in (BATCH / 255, BATCH[:, :2]):
        with pytest.raises(torch.jit.Error, match=r"expected uint8|expected \(3, H, W\)"):
            scripted(image)


@pytest.mark.parametrize("name", ["ten crops", "in a model"])
def test_exported(name):
    module = MODULES[name]()
    exported = torch.export.export(module, (BATCH,)).module()
    with torch.inference_mode():
        assert torch.equal(exported(BATCH), module(BATCH))


def test_exported_for_images_of_any_size(tmp_path):
    module = MODULES["crop"]()
    dynamic = ({0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    torch.export.save(torch.export.export(module, (BATCH,), dynamic_shapes=dynamic), tmp_path / "module.pt2")
    exported = torch.export.load(tmp_path / "module.pt2").module()
    for height, width in ((47, 61), (61, 47), (50, 50), (40, 80), (80, 40), (7, 90), (300, 200)):
        images = torch.stack([random_image(height, width, seed) for seed in range(3)])
        assert torch.equal(exported(images), module(images))


def test_the_device_is_the_images():
    for module in (MODULES["crop"](), MODULES["cifar10"]()):
        assert module(BATCH.to("meta")).device.type == "meta"


# --- other settings than the authors' ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (256, 256), (256, 257), (640, 480), (100, 33)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_torchvision_pipeline_to_the_bit(torchvision, size, mode):
    from torchvision.transforms._presets import ImageClassification

    image = next(make_images(1, size)).convert(mode)
    expected = ImageClassification(crop_size=224)(image.convert("RGB"))
    assert torch.equal(TorchvisionPreprocess()(image), expected)


def test_torchvision_ten_crop_to_the_bit(torchvision):
    from torchvision.transforms import functional
    from torchvision.transforms._presets import ImageClassification

    image = next(make_images(1, (353, 300)))
    resized = functional.resize(image, [256])
    expected = torch.stack(
        [ImageClassification(crop_size=224, resize_size=224)(crop) for crop in functional.ten_crop(resized, 224)]
    )
    assert torch.equal(TorchvisionPreprocess(ten_crop=True)(image), expected)


def test_torchvision_pipeline_of_other_settings(torchvision):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    image, values = next(make_images(1, (90, 71))), {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}
    theirs = ImageClassification(crop_size=64, resize_size=70, interpolation=InterpolationMode.BICUBIC, **values)
    ours = Preprocessing("torchvision", 70, 64, "bicubic", **values).make()
    assert torch.equal(ours(image), theirs(image))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(ours(tensor), theirs(image))
    assert torch.equal(ours(torch.stack([tensor, tensor.flip(-1)]))[0], theirs(image))
    with pytest.raises(TypeError, match="uint8"):
        ours(tensor.float())


@pytest.mark.parametrize("name", SETTINGS)
def test_names_of_the_authors_settings(name):
    settings = Preprocessing.of(name)
    image = random_image(40, 50)
    assert torch.equal(get_preprocess(settings)(image), get_preprocess(name)(image))
    assert settings.name == name
    assert Preprocessing.of(settings.as_dict()) == settings


def test_settings_of_a_network():
    model = ResNeXt((1, 1, 1, 1), cardinality=2, base_width=4, num_classes=3)
    model.preprocessing = Preprocessing(resize=36, crop=32)
    image = random_image(40, 50)
    assert torch.equal(model.preprocess(image), Torch7Preprocess(36, 32)(image))
    assert model.preprocessing.name is None
    model.preprocessing = {"pipeline": "cifar", "mean": [1, 2, 3], "std": [4, 5, 6]}
    assert torch.equal(model.preprocess(image), CifarPreprocess((1, 2, 3), (4, 5, 6))(image))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"pipeline": "caffe"}, ValueError, "pipeline 'caffe'; expected one of torch7, torchvision, cifar"),
        ({"interpolation": "bilinear"}, ValueError, "interpolation 'bilinear'; expected bicubic for torch7"),
        ({"pipeline": "torchvision", "interpolation": 3}, ValueError, "expected bilinear or bicubic for torchvision"),
        ({"pipeline": "cifar", "crop": 32}, ValueError, "resize and crop do not go with the pipeline cifar"),
        ({"resize": 64, "crop": 65}, ValueError, "resize 64, crop 65; expected a crop from 1 to resize"),
        ({"resize": 10**9, "crop": 10**9}, ValueError, "4096 px at most"),
        ({"resize": 64.0, "crop": 64}, TypeError, "expected whole numbers of pixels"),
        ({"resize": True, "crop": True}, TypeError, "expected whole numbers of pixels"),
        ({"mean": [0.5, 0.5]}, ValueError, "expected three numbers each"),
        ({"std": [math.nan, 1, 1]}, ValueError, "expected three numbers each"),
        ({"size": 64}, TypeError, "unexpected keyword"),
        ("imagenet21k", ValueError, "unknown data set 'imagenet21k'"),
        (64, TypeError, "preprocessing 64; expected a name"),
    ],
)
def test_settings_that_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Preprocessing.of(settings)


def test_crops_are_for_the_authors_networks():
    with pytest.raises(ValueError, match="it has its own crop; crop and ten_crop are for imagenet"):
        get_preprocess(Preprocessing(resize=72, crop=64), crop=320)
    with pytest.raises(ValueError, match="resize 8, crop 9; expected a crop from 1 to resize"):
        TorchvisionPreprocess(8, 9)
    with pytest.raises(ValueError, match="interpolation 'nearest'; expected bilinear or bicubic"):
        TorchvisionPreprocess(interpolation="nearest")
