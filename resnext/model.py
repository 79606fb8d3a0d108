"""ResNeXt (Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv 1611.05431).

Module names are torchvision's, so weights interchange with its `resnext50_32x4d` under `strict=True`. The layout is
that of the authors' code (facebookresearch/ResNeXt, models/resnext.lua).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEMS = ("imagenet", "cifar")
SHORTCUTS = ("B", "C")  # the official code's A (zero padding) doubles channels where a bottleneck needs them times four
EXPANSION = 4  # output channels of a bottleneck over its planes


def block_width(planes: int, base_width: int) -> int:
    """D, the channels of one path in a bottleneck of `planes`: floor(planes * base_width / 64)."""
    return planes * base_width // 64


class Bottleneck(nn.Module):
    """Form C of figure 3: 1x1, grouped 3x3 (which has the stride, as in the authors' code), 1x1; added to the shortcut.

    (N, in_channels, H, W) -> (N, 4 * planes, H/stride, W/stride). One group makes it the plain bottleneck of ResNet.
    """

    def __init__(
        self, in_channels: int, planes: int, stride: int, groups: int, base_width: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        width = block_width(planes, base_width) * groups
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, planes * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * EXPANSION)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNeXt(nn.Module):
    """ResNeXt of form C. (N, in_channels, H, W) -> logits (N, num_classes), for H and W from 32 up.

    Args:
        layers: bottlenecks per stage; (3, 4, 6, 3) is depth 50, (n, n, n) CIFAR's depth 9n + 2.
        cardinality: number of paths, C in the paper; `groups` of the 3x3 convolution.
        base_width: width of a path in the first stage, d in the paper's "32x4d".
        stem: "imagenet" (7x7, stride 2, max pooling) or "cifar" (3x3).
        shortcut: the official `-shortcutType`. "B": a 1x1 convolution where the shape changes, else identity;
            "C": always a convolution.
        num_classes: number of logits.
        in_channels: channels of the input image.

    Initialised as in the official code. Raises ValueError for a configuration that cannot be built.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        *,
        cardinality: int = 32,
        base_width: int = 4,
        stem: str = "imagenet",
        shortcut: str = "B",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _check_configuration(layers, cardinality, base_width, stem, shortcut, num_classes, in_channels)
        self.num_classes, self.in_channels = num_classes, in_channels
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()

        channels = 64
        stages: list[nn.Module] = []
        for index, count in enumerate(layers):
            planes = 64 * 2**index
            blocks: list[nn.Module] = []
            for block in range(count):
                stride = 2 if index > 0 and block == 0 else 1
                downsample = _shortcut(shortcut, channels, planes * EXPANSION, stride)
                blocks.append(Bottleneck(channels, planes, stride, cardinality, base_width, downsample))
                channels = planes * EXPANSION
            stages.append(nn.Sequential(*blocks))
        stages += [nn.Identity()] * (4 - len(stages))  # CIFAR's networks have no fourth stage
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

        # The authors pool 7x7 (CIFAR: 8x8), which is the same at 224 px (32 px), and cannot take another size.
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise everything as the official code does (ConvInit and BNInit in models/resnext.lua)."""
        if self.fc.weight.is_meta:  # nothing to fill; and normal_ on meta tensors imports sympy, a second or so
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kernel_height, kernel_width = module.kernel_size
                std = math.sqrt(2 / (kernel_width * kernel_height * module.out_channels))
                nn.init.normal_(module.weight, 0, std)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()  # weight 1, bias 0
        self.fc.reset_parameters()  # uniform within 1 / sqrt(inputs), as Torch7's own
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = self.avgpool(x)  # (N, C, 1, 1)
        x = torch.flatten(x, 1)
        return self.fc(x)


def _shortcut(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if kind == "C" or (kind == "B" and in_channels != out_channels):
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    return None


def _check_configuration(
    layers: Sequence[int],
    cardinality: int,
    base_width: int,
    stem: str,
    shortcut: str,
    num_classes: int,
    in_channels: int,
) -> None:
    if stem not in STEMS:
        raise ValueError(f"unknown stem {stem!r}; expected one of {', '.join(STEMS)}")
    if shortcut not in SHORTCUTS:
        raise ValueError(f"unknown shortcut type {shortcut!r}; expected one of {', '.join(SHORTCUTS)}")
    stages = 4 if stem == "imagenet" else 3
    if len(layers) != stages or any(count < 1 for count in layers):
        raise ValueError(f"layers {tuple(layers)}; expected the number of bottlenecks (1 or more) of {stages} stages")
    for name, value in (("cardinality", cardinality), ("base_width", base_width), ("num_classes", num_classes),
                        ("in_channels", in_channels)):  # fmt: skip
        if value < 1:
            raise ValueError(f"{name} {value}; expected 1 or more")
