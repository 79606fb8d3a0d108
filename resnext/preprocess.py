"""From an image to what a network takes, exactly as the authors did it.

The same weights lose about half a point of accuracy under another resize. Sources: datasets/imagenet.lua, cifar10.lua,
cifar100.lua and transforms.lua of facebookresearch/ResNeXt; generic/image.c of torch/image.

The modules have no parameters and no buffers: nothing in a state_dict, nothing that `.half()` could round. They can be
pickled, and, for tensors, scripted and exported, by themselves or as the first part of an `nn.Sequential`.
"""

from __future__ import annotations

import errno
import functools
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


class Settings(NamedTuple):
    """Mean and standard deviation of red, green and blue over a data set."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


SETTINGS = {
    "imagenet": Settings((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # of values from 0 to 1
    "cifar10": Settings((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),  # of values from 0 to 255
    "cifar100": Settings((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
}
IMAGENET = SETTINGS["imagenet"]

# Crop -> shorter side. 224: imagenet.lua. 320: the paper's table 5 tests "as in" He et al., Identity Mappings in Deep
# Residual Networks (arXiv 1603.05027), who take 320 px crops of images whose shorter side is 320.
RESIZE = {224: 256, 320: 320}

_LARGEST = 4096  # pixels of the side of an input: settings may come from a file that a stranger made
# of each pipeline, its own first
_INTERPOLATIONS = {"torch7": ("bicubic",), "torchvision": ("bilinear", "bicubic"), "cifar": (None,)}

_BAND = 5000  # pixels of a PIL image that are resized at a time: 250 kB with their neighbours


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network that was not trained as the authors' were.

    `model.preprocessing` is such a value or the name of the authors' own; `resnext.save` keeps it with the weights.

    Args:
        pipeline: "torch7" (`Torch7Preprocess`), "torchvision" (`TorchvisionPreprocess`, which is timm's as well) or
            "cifar" (`CifarPreprocess`: images are taken whole).
        resize: the shorter side in pixels; None for "cifar".
        crop: side of the crop in the centre, at most `resize`; None for "cifar".
        interpolation: "bicubic" for "torch7"; "bilinear" or "bicubic" (antialiased) for "torchvision"; None for
            "cifar".
        mean, std: of red, green and blue, of values from 0 to 1; for "cifar", from 0 to 255. Default: ImageNet's; for
            "cifar", CIFAR-10's.

    What is left out is as the authors (for "torchvision": as torchvision) have it for 224 px. Raises TypeError and
    ValueError for what makes no sense.
    """

    pipeline: str = "torch7"
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.pipeline not in _INTERPOLATIONS:
            raise ValueError(f"pipeline {self.pipeline!r}; expected one of {', '.join(_INTERPOLATIONS)}")
        whole = self.pipeline == "cifar"
        usual = SETTINGS["cifar10" if whole else "imagenet"]
        mean, std = _check_settings(self.mean or usual.mean, self.std or usual.std)
        known = _INTERPOLATIONS[self.pipeline]
        filled = {
            "resize": self.resize if whole or self.resize is not None else 256,
            "crop": self.crop if whole or self.crop is not None else 224,
            "interpolation": known[0] if self.interpolation is None else self.interpolation,
            "mean": tuple(mean),
            "std": tuple(std),
        }
        for name, value in filled.items():
            object.__setattr__(self, name, value)
        if self.interpolation not in known:
            expected = " or ".join(str(name) for name in known)
            raise ValueError(f"interpolation {self.interpolation!r}; expected {expected} for {self.pipeline}")
        sizes = (self.crop, self.resize)
        if whole:
            if sizes != (None, None):
                raise ValueError("resize and crop do not go with the pipeline cifar, which takes images whole")
        elif not all(type(size) is int for size in sizes):
            raise TypeError(f"resize {self.resize!r}, crop {self.crop!r}; expected whole numbers of pixels")
        elif not 1 <= self.crop <= self.resize <= _LARGEST:  # type: ignore[operator]
            raise ValueError(
                f"resize {self.resize}, crop {self.crop}; expected a crop from 1 to resize, and {_LARGEST} px at most"
            )

    @classmethod
    def of(cls, preprocessing: str | Preprocessing | Mapping[str, Any]) -> Preprocessing:
        """The settings that a name of the authors', a value of this class or a mapping of its arguments stands for.

        Raises TypeError and ValueError for anything else.
        """
        if isinstance(preprocessing, Preprocessing):
            return preprocessing
        if isinstance(preprocessing, str):
            if preprocessing not in SETTINGS:
                raise ValueError(
                    f"unknown data set {preprocessing!r}; expected {', '.join(SETTINGS)}, or a Preprocessing"
                )
            whole = preprocessing != "imagenet"
            return cls(
                "cifar" if whole else "torch7", mean=SETTINGS[preprocessing].mean, std=SETTINGS[preprocessing].std
            )
        if not isinstance(preprocessing, Mapping):
            raise TypeError(f"preprocessing {preprocessing!r}; expected a name, a Preprocessing or its arguments")
        return cls(**preprocessing)

    @property
    def name(self) -> str | None:
        """The name in `SETTINGS` if these are the authors' settings, else None."""
        return next((name for name in SETTINGS if Preprocessing.of(name) == self), None)

    def as_dict(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def make(self) -> nn.Module:
        """The pipeline as a module."""
        if self.pipeline == "cifar":
            return CifarPreprocess(self.mean, self.std)
        assert self.resize is not None
        assert self.crop is not None
        if self.pipeline == "torch7":
            return Torch7Preprocess(self.resize, self.crop, mean=self.mean, std=self.std)
        assert self.interpolation is not None
        return TorchvisionPreprocess(self.resize, self.crop, self.interpolation, mean=self.mean, std=self.std)


def get_preprocess(
    preprocessing: str | Preprocessing | Mapping[str, Any], *, crop: int | None = None, ten_crop: bool = False
) -> nn.Module:
    """The evaluation pipeline of a network, by its `preprocessing`.

    Args:
        preprocessing: "imagenet", "cifar10" or "cifar100" for the authors' own, or other settings.
        crop: for "imagenet" only: 224 (shorter side 256), which is the default, or 320 (shorter side 320).
        ten_crop: for "imagenet" only: ten crops of each image, (10, 3, crop, crop) or (N, 10, 3, crop, crop); the
            official code (train.lua) adds up their logits.

    Raises ValueError for anything else, TypeError as `Preprocessing` does.
    """
    if preprocessing != "imagenet":
        settings = Preprocessing.of(preprocessing)
        if crop is not None or ten_crop:
            how = (
                f"images of {preprocessing} are taken whole"
                if isinstance(preprocessing, str)
                else "it has its own crop"
            )
            raise ValueError(f"{how}; crop and ten_crop are for imagenet")
        return settings.make()
    crop = 224 if crop is None else crop
    if crop not in RESIZE:
        raise ValueError(
            f"crop {crop}; the authors tested at 224 and 320 (for another: Torch7Preprocess(resize, crop))"
        )
    if ten_crop:
        return nn.Sequential(Torch7Preprocess(RESIZE[crop], None), TenCrop(crop))
    return Torch7Preprocess(RESIZE[crop], crop)


class Torch7Preprocess(nn.Module):
    """ImageNet's evaluation pipeline: the shorter side to `resize`, the centre cropped, normalised.

    Takes a PIL image, a path, or an array (H, W, 3) or tensor (3, H, W) of uint8. Returns float32 (3, crop, crop); of a
    tensor (N, 3, H, W) or a list of images, of any sizes, (N, 3, crop, crop). It is within 1e-6 of Torch7's own result
    in units of pixel values from 0 to 1, and has the same bits whatever it takes, scripted or exported. What the crop
    leaves out is not computed.

    Exported with a crop it takes images of any size if H and W are marked as dynamic; without one, of one size.

    Args:
        resize: the shorter side; the longer is floor(longer / shorter * resize). An image that has it is not touched.
        crop: side of the crop, at most `resize`; None keeps all, for `TenCrop`: (3, H', W').
        mean, std: of red, green and blue, of values from 0 to 1.

    Raises ValueError for arguments or an image that make no sense, TypeError for anything but an image of 8-bit values.
    """

    def __init__(
        self,
        resize: int = 256,
        crop: int | None = 224,
        *,
        mean: Sequence[float] = IMAGENET.mean,
        std: Sequence[float] = IMAGENET.std,
    ) -> None:
        super().__init__()
        if not 1 <= (resize if crop is None else crop) <= resize:
            raise ValueError(f"resize {resize}, crop {crop}; expected a crop from 1 to resize, or None for no crop")
        self.resize, self.crop = resize, crop
        self.mean, self.std = _check_settings(mean, std)

    def forward(self, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            return _forward_other(self, image)
        _check_tensor(image)
        rows, row_weights, columns, column_weights = _plan(image.size(-2), image.size(-1), self.resize, self.crop)
        if not torch.compiler.is_compiling():
            left, right = _span(columns)  # numbers, which an exported graph would keep for images of any size
            image, columns = image[..., left:right], columns - left
        planes = _weigh(image, rows, row_weights)  # (…, 3, crop, W)
        side = planes.flatten(0, -2).t().contiguous()  # (W, … * 3 * crop): columns, now one value beside the other
        pixels = _weigh(side, columns, column_weights).t().contiguous()
        shape = image.shape[:-2] + (rows.size(1), columns.size(1))  # noqa: RUF005 (TorchScript)
        return _normalise(pixels.view(shape).div_(255), self.mean, self.std)

    def _forward_pil(self, image: object) -> Tensor:
        """The same sums for a PIL image, in numpy and a few rows at a time.

        For one image torch's threads take longer to wake than to work, much longer on a busy machine; and blocks of
        memory that are too large for the C library to keep take longer to fetch than to fill.
        """
        import numpy as np

        image = _check_pil(image)
        rows, row_weights, columns, column_weights = _plan_arrays(image.height, image.width, self.resize, self.crop)
        left, right, count = int(columns[0, 0]), int(columns[-1, -1]) + 1, rows.shape[1]
        pixels = np.empty((3, count, columns.shape[1]), np.float32)
        step = max(1, _BAND // (right - left))
        for band in (slice(first, first + step) for first in range(0, count, step)):
            top, bottom = int(rows[0, band][0]), int(rows[-1, band][-1]) + 1
            kept = _to_pixels(image.crop((left, top, right, bottom)))  # with the channels last
            lines = _weigh_array(kept.reshape(bottom - top, -1), rows[:, band] - top, row_weights[:, band])
            side = np.ascontiguousarray(lines.T).reshape(right - left, -1)  # (W, 3 * step)
            pixels[:, band] = _weigh_array(side, columns - left, column_weights).T.reshape(3, -1, columns.shape[1])
        pixels /= 255
        pixels -= np.array(self.mean, np.float32)[:, None, None]
        pixels /= np.array(self.std, np.float32)[:, None, None]
        return torch.from_numpy(pixels)

    def extra_repr(self) -> str:
        return f"resize={self.resize}, crop={self.crop}"


class CifarPreprocess(nn.Module):
    """CIFAR's evaluation pipeline: pixel values from 0 to 255, normalised; no resize, no crop.

    Takes what `Torch7Preprocess` takes, but the images of a list must be of one size. Returns float32 (3, H, W) or
    (N, 3, H, W).

    Args:
        mean, std: of red, green and blue, of values from 0 to 255.

    Raises as `Torch7Preprocess` does.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = _check_settings(mean, std)

    def forward(self, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            return _forward_other(self, image)
        _check_tensor(image)
        return _normalise(image.float(), self.mean, self.std)

    def _forward_pil(self, image: object) -> Tensor:
        pixels = _to_pixels(_check_pil(image)).transpose(2, 0, 1).astype("float32", order="C")
        return _normalise(torch.from_numpy(pixels), self.mean, self.std)

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"


class TorchvisionPreprocess(nn.Module):
    """What torchvision's `ImageClassification` does with a PIL image, to the bit, without torchvision.

    Converted to RGB, the shorter side to `resize` (antialiased), cropped in the centre, normalised. Takes what
    `Torch7Preprocess` takes. Returns float32 (3, crop, crop) or (N, 3, crop, crop). Pillow resizes, so it can neither
    be scripted nor exported.

    Args:
        resize: the shorter side.
        crop: side of the crop, at most `resize`.
        interpolation: "bilinear" as in torchvision, or "bicubic" as in most networks of timm.
        mean, std: of red, green and blue, of values from 0 to 1.
        ten_crop: give (…, 10, 3, crop, crop): the corners and the centre, of the image and of its mirror image, as
            torchvision's `TenCrop` makes them.

    Raises as `Torch7Preprocess` does.
    """

    def __init__(
        self,
        resize: int = 256,
        crop: int = 224,
        interpolation: str = "bilinear",
        *,
        mean: Sequence[float] = IMAGENET.mean,
        std: Sequence[float] = IMAGENET.std,
        ten_crop: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= crop <= resize:
            raise ValueError(f"resize {resize}, crop {crop}; expected a crop from 1 to resize")
        if interpolation not in _INTERPOLATIONS["torchvision"]:
            raise ValueError(f"interpolation {interpolation!r}; expected bilinear or bicubic")
        self.resize, self.crop, self.interpolation, self.ten_crop = resize, crop, interpolation, ten_crop
        self.mean, self.std = _check_settings(mean, std)

    def forward(self, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor):
            return _forward_other(self, image)
        from PIL.Image import fromarray

        _check_tensor(image)
        pictures = image.cpu().unsqueeze(0) if image.dim() == 3 else image.cpu()
        made = [self._forward_pil(fromarray(picture.permute(1, 2, 0).contiguous().numpy())) for picture in pictures]
        return (made[0] if image.dim() == 3 else torch.stack(made)).to(image.device)

    def _forward_pil(self, picture: object) -> Tensor:
        from PIL.Image import Resampling, Transpose

        image = _check_pil(picture).convert("RGB")
        short, long = sorted(image.size)
        scaled = int(self.resize * long / short)
        size = (self.resize, scaled) if image.width <= image.height else (scaled, self.resize)
        if image.size != size:
            image = image.resize(size, Resampling[self.interpolation.upper()])
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
        return _normalise(values, self.mean, self.std)

    def extra_repr(self) -> str:
        return f"resize={self.resize}, crop={self.crop}, interpolation={self.interpolation}"


class TenCrop(nn.Module):
    """The official `TenCrop`: centre, top left, top right, bottom left, bottom right; then of the mirror image.

    (…, 3, H, W), resized and normalised -> (…, 10, 3, crop, crop). Raises ValueError for an image smaller than `crop`.
    """

    def __init__(self, crop: int = 224) -> None:
        super().__init__()
        if crop < 1:
            raise ValueError(f"crop {crop}; expected 1 or more")
        self.crop = crop

    def forward(self, image: Tensor) -> Tensor:
        crop = self.crop
        bottom, right = image.size(-2) - crop, image.size(-1) - crop
        if bottom < 0 or right < 0:
            raise ValueError(f"an image of shape {list(image.shape)}; expected {crop} pixels or more each way")
        corners = [((bottom + 1) // 2, (right + 1) // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        crops: list[Tensor] = []
        for picture in [image, image.flip(-1)]:
            for top, left in corners:
                crops.append(picture[..., top : top + crop, left : left + crop])
        return torch.stack(crops, -4)

    def extra_repr(self) -> str:
        return f"crop={self.crop}"


def _check_settings(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    checked = [float(value) for value in mean], [float(value) for value in std]
    sound = [len(values) for values in checked] == [3, 3] and all(map(math.isfinite, (*checked[0], *checked[1])))
    if not sound or not min(checked[1]) > 0:
        raise ValueError(f"mean {tuple(mean)}, std {tuple(std)}; expected three numbers each, std above 0")
    return checked


def _check_tensor(image: Tensor) -> None:
    if image.dtype != torch.uint8:
        raise TypeError(f"a tensor of {image.dtype}; expected uint8, pixel values from 0 to 255")
    if image.dim() not in (3, 4) or image.size(-3) != 3 or image.size(-2) < 1 or image.size(-1) < 1:
        raise ValueError(f"a tensor of shape {list(image.shape)}; expected (3, H, W) or (N, 3, H, W)")


def _forward_other(preprocess: Any, image: object) -> Tensor:
    """What a module makes of anything but a tensor: a list of images, an array, a path or a PIL image."""
    result: Tensor
    if isinstance(image, list | tuple):
        return _forward_list(preprocess, image)
    numpy = sys.modules.get("numpy")  # who has an array has imported it
    if numpy is not None and isinstance(image, numpy.ndarray):
        if image.dtype != numpy.uint8:
            raise TypeError(f"an array of {image.dtype}; expected uint8, pixel values from 0 to 255")
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an array of shape {list(image.shape)}; expected (H, W, 3)")
        result = preprocess(torch.from_numpy(image.transpose(2, 0, 1).copy()))
    else:
        result = preprocess._forward_pil(_open(image) if isinstance(image, str | os.PathLike) else image)
    return result


def _forward_list(preprocess: Any, images: Sequence[object]) -> Tensor:
    """A batch, of a list of single images. Raises ValueError where they are none, and where their sizes differ."""
    for image in images:
        if isinstance(image, list | tuple) or (isinstance(image, Tensor) and image.dim() == 4):
            raise ValueError("a list with batches in it; expected a list of single images")
    if not images:
        raise ValueError("an empty list; expected one image or more")
    results = [preprocess(image) for image in images]
    if len(sizes := {tuple(result.shape[-2:]) for result in results}) > 1:
        found = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ValueError(f"images that become inputs of {found} pixels; expected one size for a batch")
    return torch.stack(results)


def _normalise(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """(…, 3, H, W), in place."""
    means = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
    deviations = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
    return pixels.sub_(means).div_(deviations)


# --- Torch7's bicubic resize: image.scale(…, 'bicubic'), `scaleCubic_rowcol` in generic/image.c of torch/image. ---
# Catmull-Rom, corners aligned, no antialiasing, no clamping: neither Pillow's nor torchvision's.


def _plan(height: int, width: int, size: int, crop: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows and their weights, columns and theirs, of an image that is resized so that its shorter side is `size`.

    Only for the `crop` by `crop` pixels in the centre, or for all pixels (None). An image whose shorter side is already
    `size` is not resized.

    Each output row is the sum of four rows of the image, `rows[:, i]`, times their weights, `row_weights[:, i]`; the
    same holds for columns. Indices int64, weights float32, all (4, count).
    """
    # In tensors rather than numbers: a graph that is exported once then does it for images of any size. On the CPU
    # whatever the default device is, as images are, and so that nothing waits for an accelerator.
    cpu = torch.device("cpu")
    high = torch.scalar_tensor(height, dtype=torch.float64, device=cpu)
    wide = torch.scalar_tensor(width, dtype=torch.float64, device=cpu)
    lengths = torch.stack([high, wide]).unsqueeze(-1)
    shorter = lengths.min()
    scaled = torch.where(shorter == size, lengths, (lengths / shorter * size).floor())  # _scaled_length
    if crop is None:
        down = _scaled_length(height, min(height, width), size)
        across = _scaled_length(width, min(height, width), size)
        output = torch.arange(max(down, across), device=cpu).expand(2, -1)
    else:
        down, across = crop, crop
        output = ((scaled - crop) / 2).ceil() + torch.arange(crop, device=cpu)  # the official CenterCrop's offset
    indices, weights = _neighbours(lengths, scaled, output)
    return indices[0, :, :down], weights[0, :, :down], indices[1, :, :across], weights[1, :, :across]


@functools.lru_cache(maxsize=64)  # most photographs have one of a few sizes
def _plan_arrays(height: int, width: int, size: int, crop: int | None) -> tuple[NDArray[Any], ...]:
    """`_plan` for numpy."""
    return tuple(table.numpy() for table in _plan(height, width, size, crop))


def _scaled_length(length: int, shorter: int, size: int) -> int:
    """A side of the resized image. The order of the operations is the official one: it decides what is rounded off."""
    return length if shorter == size else int(length / shorter * size)


def _neighbours(lengths: Tensor, scaled: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """The four neighbours of samples of resized sides, and their weights.

    Sides before and after (sides, 1) and places of samples after (sides, count) -> places before and weights, both
    (sides, 4, count). A place beyond the last sample stands for the last.
    """
    # In float32, as there: between which samples an output lies is decided by its rounding.
    step = ((lengths - 1) / (scaled - 1)).float()
    position = torch.where(output < scaled - 1, output.float() * step, (lengths - 1).float())  # the last is a copy
    left = position.floor()
    t = (position - left).unsqueeze(1)
    left, lengths = left.unsqueeze(1), lengths.unsqueeze(1)

    # the weights of the neighbours at -1, 0, 1 and 2 as polynomials in t, the constant first
    catmull_rom = [[0.0, -0.5, 1.0, -0.5], [1.0, 0.0, -2.5, 1.5], [0.0, 0.5, 2.0, -1.5], [0.0, 0.0, -0.5, 0.5]]
    c = torch.tensor(catmull_rom, dtype=torch.float32, device=t.device).t().unsqueeze(-1)  # (power, neighbour, 1)
    weights = ((c[3] * t + c[2]) * t + c[1]) * t + c[0]
    # a neighbour outside is 2 * p1 - p2 before the first sample, 2 * p2 - p1 after the last
    before, after = weights[:, :1] * (left < 1), weights[:, 3:] * (left + 2 >= lengths)
    outside = torch.tensor([[-1.0, 2.0, -1.0, 0.0], [0.0, -1.0, 2.0, -1.0]], dtype=torch.float32, device=t.device)
    weights = weights + outside[0].unsqueeze(-1) * before + outside[1].unsqueeze(-1) * after

    neighbours = left + torch.arange(-1, 3, device=t.device).unsqueeze(-1)
    return torch.minimum(neighbours.clamp(min=0), lengths - 1).long(), weights


def _span(indices: Tensor) -> tuple[int, int]:
    """The smallest of the indices (4, count), which is the first, and the largest, which is the last, plus one."""
    return int(indices[0, 0]), int(indices[-1, -1]) + 1


def _weigh(samples: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """The sums along the last dimension but one: (…, length, n) of any type -> (…, count, n), float32."""
    indices, weights = indices.to(samples.device), weights.to(samples.device)
    near = samples.index_select(-2, indices.flatten()).float()
    return torch.unflatten(near, -2, indices.shape).mul_(weights.unsqueeze(-1)).sum(-3)  # of (…, 4, count, n)


def _weigh_array(samples: NDArray[Any], indices: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """`_weigh` for numpy, to the bit: (length, n) -> (count, n), float32."""
    near = samples.take(indices, axis=0).astype("float32", copy=False)
    near *= weights[..., None]
    return near.sum(axis=0)


# --- PIL images, as the official loader reads them: image.load(path, 3, 'float') of Torch7. ---

_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of 16-bit grey, by version, format and byte order
# On the way to RGB: alpha that is multiplied in is taken out; a palette's would raise a warning when it is dropped.
_STRAIGHT = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}


def _check_pil(image: object) -> Image:
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
    raise TypeError(
        "expected a PIL image, a path, an array (H, W, 3), a tensor (3, H, W) or (N, 3, H, W) of uint8, or a list; "
        f"got {type(image).__name__}"
    )


def _open(path: str | os.PathLike[str]) -> Image:
    """The image in a file. Raises ValueError, which names the file, and FileNotFoundError."""
    from PIL import Image

    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    if not os.path.isfile(path):  # a pipe would keep us waiting
        raise ValueError(f"{os.fspath(path)}: expected the file of an image")
    try:
        with Image.open(path) as image:
            image.load()
        return image
    except Exception as error:  # damaged images raise errors of many kinds
        raise ValueError(f"{os.fspath(path)}: expected an image that Pillow reads ({error})") from None


def _to_pixels(image: Image) -> NDArray[Any]:
    """(H, W, 3), uint8; float32 from 0 to 255 where the image has 16 bits.

    As the official loader does it: grey becomes three equal channels, alpha is dropped (not composited), a palette
    becomes its colours, 16-bit grey keeps all its bits, and a rotation in the EXIF data is ignored. Of 16-bit colour
    Pillow keeps the upper 8 bits. Where the official loader fails or gives nonsense, the result is what a person
    expects: CMYK becomes the colours that are meant, and alpha beside grey or in a palette is dropped.

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
