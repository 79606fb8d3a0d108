"""Torch7's bicubic resize: `image.scale(…, 'bicubic')`, which is neither Pillow's nor torchvision's."""

from __future__ import annotations

import torch
from torch import Tensor


def taps(length: int, scaled: int, start: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which 4 samples of `length` make each of `count` output samples from `start` on, of `scaled`; and their weights.

    Returns (4, count) and (4, count). As in `scaleCubic_rowcol` of torch/image's generic/image.c.
    """
    step = torch.full((), (length - 1) / max(scaled - 1, 1), dtype=torch.float32, device=device)
    output = torch.arange(start, start + count, device=device)
    position = output * step  # in float32, as there: where a sample lies decides between its neighbours
    left = position.long()
    t = position - left
    last = output == scaled - 1
    left = torch.where(last, length - 1, left)
    t = torch.where(last, 0.0, t)

    w0 = ((-0.5 * t + 1.0) * t - 0.5) * t
    w1 = (1.5 * t - 2.5) * t * t + 1.0
    w2 = ((-1.5 * t + 2.0) * t + 0.5) * t
    w3 = (0.5 * t - 0.5) * t * t
    zero = torch.zeros_like(t)
    first, final = left == 0, left + 2 >= length  # a neighbour outside: 2 * p1 - p2, or 2 * p2 - p1
    before, after = torch.where(first, w0, zero), torch.where(final, w3, zero)
    weights = torch.stack([w0 - before, w1 + 2 * before - after, w2 - before + 2 * after, w3 - after])
    indices = left + torch.arange(-1, 3, device=device).unsqueeze(1)
    return indices.clamp(0, length - 1), weights
