"""Grouped convolutions with fewer, wider groups: zeros between the paths leave the function as it is."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from resnext.inference.fold import FoldedConv, FoldedResNeXt

FACTORS = (1, 2, 4, 8, 16)


def widen(conv: FoldedConv, factor: int) -> FoldedConv:
    """The same convolution with 1/factor as many groups, `factor` times as wide.

    Raises ValueError where `factor` does not divide the number of groups.
    """
    if factor < 1 or conv.groups % factor:
        raise ValueError(f"{conv.groups} groups cannot be joined by {factor}; expected a divisor")
    assert conv.bias is not None
    outputs, width = conv.weight.shape[:2]
    weight = conv.weight.new_zeros(outputs, factor, width, *conv.weight.shape[2:])
    rows = torch.arange(outputs, device=weight.device)
    weight[rows, rows * conv.groups // outputs % factor] = conv.weight.detach()
    weight = weight.flatten(1, 2).contiguous(memory_format=torch.channels_last)
    return FoldedConv(weight, conv.bias.detach(), conv.relu, conv, conv.groups // factor)


def widen_fastest(network: FoldedResNeXt, example: Tensor, repeats: int = 10) -> None:
    """Give every grouped convolution the width that is fastest on the device of `example` (N, C, H, W), by measuring.

    Convolutions of the same shape are measured once.
    """
    inputs: dict[str, Tensor] = {}
    grouped = {name: m for name, m in network.named_modules() if isinstance(m, FoldedConv) and m.groups > 1}
    handles = [
        conv.register_forward_pre_hook(lambda _, arguments, name=name: inputs.__setitem__(name, arguments[0]))
        for name, conv in grouped.items()
    ]
    network(example)
    for handle in handles:
        handle.remove()
    best: dict[tuple[object, ...], int] = {}
    for name, conv in grouped.items():
        x = inputs[name]
        key = (tuple(x.shape), tuple(conv.weight.shape), conv.stride, conv.dilation)
        if key not in best:
            times = {
                factor: _seconds(widen(conv, factor), x, repeats) for factor in FACTORS if conv.groups % factor == 0
            }
            best[key] = min(times, key=times.__getitem__)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, widen(conv, best[key]))


def _seconds(module: nn.Module, x: Tensor, repeats: int) -> float:
    """The best of a few runs, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        _wait(x.device)
        started = time.perf_counter()
        module(x)
        _wait(x.device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
