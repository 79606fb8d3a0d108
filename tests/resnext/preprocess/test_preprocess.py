"""The preprocessing, held against Torch7's own output and against its C code written down once more."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from resnext import preprocess
from resnext.preprocess import SETTINGS, CifarPreprocess, TenCrop, Torch7Preprocess, get_preprocess
from tests.conftest import FIXTURES, SHARED

TINY = sorted((FIXTURES / "preprocess").glob("*.png"))
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


@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
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


@pytest.mark.parametrize("band", [preprocess.BAND, 500, 1])
def test_every_way_in_gives_the_same_bits(band, monkeypatch):
    monkeypatch.setattr(preprocess, "BAND", band)
    transform = Torch7Preprocess(40, 33)
    for height, width in ((61, 45), (45, 61), (40, 52), (13, 17), (300, 200)):
        image, other = random_image(height, width), random_image(height, width, seed=1)
        expected = transform(image)
        strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as numpy has a picture
        for got in (transform(as_pil(image)), transform(strided)):
            assert torch.equal(got, expected)
            assert got.is_contiguous()
        assert torch.equal(transform(torch.stack([other, image])), torch.stack([transform(other), expected]))
        assert expected.is_contiguous()
    assert transform(torch.empty(0, 3, 50, 60, dtype=torch.uint8)).shape == (0, 3, 33, 33)


def test_the_image_stays_as_it_was():
    image = random_image(40, 50)
    before, picture = image.clone(), as_pil(image)
    for transform in (Torch7Preprocess(40, 33), get_preprocess("cifar10")):
        transform(image)
        transform(picture)
        assert torch.equal(image, before)
        assert picture.tobytes() == as_pil(before).tobytes()


def test_what_the_crop_leaves_out_is_not_computed(monkeypatch):
    shapes = []
    for name in ("weigh", "weigh_array"):
        function = getattr(preprocess, name)
        monkeypatch.setattr(
            preprocess, name, lambda *given, function=function: shapes.append(given[0].shape) or function(*given)
        )
    image, kept = random_image(64, 4000), 32 + 3  # with the neighbours
    Torch7Preprocess(64, 32)(image)
    assert shapes == [(3, 64, kept), (kept, 3 * 32)]
    shapes.clear()
    Torch7Preprocess(64, 32)(as_pil(image))
    assert shapes == [(kept, kept * 3), (kept, 3 * 32)]


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
