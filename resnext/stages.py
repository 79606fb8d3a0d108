"""The stages of ResNeXt: how many bottlenecks of which width, stride and dilation (table 1 of arXiv 1611.05431)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from resnext.blocks import BLOCKS, NormLayer
from resnext.checkpointing import CheckpointedSequential
from resnext.feature_info import Stage

EXPANSION = 4  # output channels of a bottleneck over its planes


def block_width(planes: int, base_width: int) -> int:
    """D, the channels of one path in a bottleneck of `planes`: floor(planes * base_width / 64)."""
    return planes * base_width // 64


def make_stages(
    layers: Sequence[int],
    cardinality: int,
    base_width: int,
    *,
    stem: str,
    shortcut: str,
    form: str,
    dilate: Sequence[bool],
    norm_layer: NormLayer,
    drop_path_rate: float,
) -> tuple[list[nn.Module], list[Stage]]:
    """The four stages (of CIFAR's networks the last is empty), and what maps the stem and they give."""
    channels, dilation, reduction = 64, 1, 4 if stem == "imagenet" else 1
    info = [Stage(channels, max(reduction // 2, 1), "relu")]
    rate, rise = 0.0, float(drop_path_rate) / max(sum(layers) - 1, 1)
    stages: list[nn.Module] = []
    for index, count in enumerate(layers):
        outputs = EXPANSION * 64 * 2**index
        width = block_width(64 * 2**index, base_width)
        stride = 2 if index > 0 else 1
        dilations = [dilation] * count
        if index > 0 and dilate[index - 1]:  # as in torchvision: the block that had the stride keeps the old dilation
            dilation, stride = dilation * stride, 1
            dilations[1:] = [dilation] * (count - 1)
        reduction *= stride
        blocks: list[nn.Module] = []
        for block_dilation in dilations:
            downsample = None
            if shortcut == "C" or channels != outputs:
                downsample = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), norm_layer(outputs))
            block = BLOCKS[form](
                channels,
                width,
                cardinality,
                outputs,
                stride=stride,
                dilation=block_dilation,
                norm_layer=norm_layer,
                downsample=downsample,
                drop_path=rate,
            )
            blocks.append(block)
            channels, stride, rate = outputs, 1, rate + rise
        stages.append(CheckpointedSequential(*blocks))
        info.append(Stage(channels, reduction, f"layer{index + 1}"))
    return stages + [nn.Identity()] * (4 - len(stages)), info
