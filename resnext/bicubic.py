"""Torch7's bicubic resize (`image.scale(…, 'bicubic')`), which is neither Pillow's nor torchvision's.

Catmull-Rom, corners aligned, no antialiasing, no clamping: `scaleCubic_rowcol` in generic/image.c of torch/image.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plan(height: int, width: int, size: int, crop: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a resized image is made of, whose shorter side becomes `size`: rows and their weights, columns and theirs.

    Of the resized image the `crop` by `crop` pixels in the centre, or all (None). An image whose shorter side is `size`
    already is not touched.

    Each output row is the sum of four rows of the image, `rows[:, i]`, times their weights, `row_weights[:, i]`; and
    so are the columns. Indices int64, weights float32, all (4, count).
    """
    # In tensors rather than numbers: a graph that is exported once then does it for images of any size. On the CPU
    # whatever the default device is, as images are, and so that nothing waits for an accelerator.
    cpu = torch.device("cpu")
    high = torch.scalar_tensor(height, dtype=torch.float64, device=cpu)
    wide = torch.scalar_tensor(width, dtype=torch.float64, device=cpu)
    lengths = torch.stack([high, wide]).unsqueeze(-1)
    shorter = lengths.min()
    scaled = torch.where(shorter == size, lengths, (lengths / shorter * size).floor())  # scaled_length
    if crop is None:
        down = scaled_length(height, min(height, width), size)
        across = scaled_length(width, min(height, width), size)
        output = torch.arange(max(down, across), device=cpu).expand(2, -1)
    else:
        down, across = crop, crop
        output = ((scaled - crop) / 2).ceil() + torch.arange(crop, device=cpu)  # the official CenterCrop's offset
    indices, weights = taps(lengths, scaled, output)
    return indices[0, :, :down], weights[0, :, :down], indices[1, :, :across], weights[1, :, :across]


@functools.lru_cache(maxsize=64)  # most photographs have one of a few sizes
def plan_arrays(height: int, width: int, size: int, crop: int | None) -> tuple[NDArray[Any], ...]:
    """`plan` for numpy."""
    return tuple(table.numpy() for table in plan(height, width, size, crop))


def scaled_length(length: int, shorter: int, size: int) -> int:
    """A side of the resized image. The order of the operations is the official one: it decides what is rounded off."""
    return length if shorter == size else int(length / shorter * size)


def taps(lengths: Tensor, scaled: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """The four neighbours of samples of resized sides, and their weights.

    Sides before and after (sides, 1) and places of samples after (sides, count) -> places before and weights, both
    (sides, 4, count). What lies beyond the last sample is the last.
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


def span(indices: Tensor) -> tuple[int, int]:
    """The smallest of the indices (4, count), which is the first, and the largest, which is the last, plus one."""
    return int(indices[0, 0]), int(indices[-1, -1]) + 1


def weigh(samples: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """The sums along the last dimension but one: (…, length, n) of any type -> (…, count, n), float32."""
    indices, weights = indices.to(samples.device), weights.to(samples.device)
    near = samples.index_select(-2, indices.flatten()).float()
    return torch.unflatten(near, -2, indices.shape).mul_(weights.unsqueeze(-1)).sum(-3)  # of (…, 4, count, n)


def weigh_array(samples: NDArray[Any], indices: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """`weigh` for numpy, to the bit: (length, n) -> (count, n), float32."""
    near = samples.take(indices, axis=0).astype("float32", copy=False)
    near *= weights[..., None]
    return near.sum(axis=0)
