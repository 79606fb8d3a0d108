"""Architectures: everything that fixes a network's shapes, its name, and how to recognise it from its weights."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from resnext.forms import convert_state_dict
from resnext.model import EXPANSION, ResNeXt, ResNeXtFeatures, block_width, data_set

IMAGENET_LAYERS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_DOWNSAMPLE = re.compile(r"layer\d\.[1-9]\d*\.downsample\.0\.weight")  # in a block that is not the first of its stage


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of a network; the arguments of `ResNeXt`."""

    layers: tuple[int, ...] = IMAGENET_LAYERS[50]
    cardinality: int = 32
    base_width: int = 4
    stem: str = "imagenet"
    shortcut: str = "B"
    num_classes: int = 1000
    in_channels: int = 3

    @property
    def depth(self) -> int:
        """Convolutions on the longest path and the classifier: three for each bottleneck, and two."""
        return 3 * sum(self.layers) + 2

    @property
    def name(self) -> str:
        """`resnext50_32x4d`; classes, shortcut type and input channels are not in the name.

        `_cifar` tells a CIFAR network from the ImageNet network of the same depth (101 is 9n + 2 as well); `_cifar4`
        one of four stages from both.
        """
        suffix = ""
        if self.stem == "cifar":
            suffix = "_cifar4" if len(self.layers) == 4 else "_cifar" if self.depth in IMAGENET_LAYERS else ""
        return f"resnext{self.depth}_{self.cardinality}x{self.base_width}d{suffix}"

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that the authors report figures for."""
        return 224 if self.stem == "imagenet" else 32

    @property
    def parameters(self) -> int:
        """The number of trained values."""
        return sum(parameter.numel() for parameter in self.build_empty().parameters())

    def multiply_adds(self, image_size: int | None = None) -> int:
        """Multiplications in the convolutions and the classifier for one square image; the paper's FLOPs."""
        size = image_size or self.image_size
        if self.stem == "imagenet":
            size = _half(size)
            total = size**2 * 64 * self.in_channels * 7**2
            size = _half(size)
        else:
            total = size**2 * 64 * self.in_channels * 3**2
        channels = 64
        for stage, count in enumerate(self.layers):
            planes = 64 * 2**stage
            path, outputs = block_width(planes, self.base_width), planes * EXPANSION
            width = path * self.cardinality
            for block in range(count):
                before, size = size, _half(size) if stage > 0 and block == 0 else size
                total += before**2 * channels * width + size**2 * width * (path * 3**2 + outputs)
                if channels != outputs or self.shortcut == "C":
                    total += size**2 * channels * outputs
                channels = outputs
        return total + channels * self.num_classes

    @property
    def data_set(self) -> str:
        """The data set that the authors trained such a network on: "imagenet", "cifar10" or "cifar100"."""
        return data_set(self.stem, self.num_classes)

    def build(self, *, features_only: bool = False, **options: Any) -> ResNeXt:
        """A new model with the official initialisation: a `ResNeXtFeatures` if `features_only`, else a `ResNeXt`.

        `options` are the arguments of these classes that are not fields of an architecture, such as `form`.
        """
        shape = {field.name: getattr(self, field.name) for field in fields(self)}
        if features_only:
            del shape["num_classes"]
            return ResNeXtFeatures(**shape, **options)
        return ResNeXt(**shape, **options)

    def build_empty(self, **options: Any) -> ResNeXt:
        """A model without weights (on the meta device), for `load_state_dict(..., assign=True)`."""
        with torch.device("meta"):
            return self.build(**options)

    @classmethod
    def of(cls, model: ResNeXt) -> Architecture:
        """The architecture of a network of any form. Raises ValueError for one without a classifier."""
        state_dict = convert_state_dict(model.state_dict(), model.form, "C")
        return cls.from_shapes({name: tuple(value.shape) for name, value in state_dict.items()})

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
        """The architecture of a state_dict with these names and shapes, read off a few of them.

        Raises ValueError where one of these is missing. `check_shapes` tells whether the others fit.
        """
        try:
            stem, middle = shapes["conv1.weight"], shapes["layer1.0.conv2.weight"]
            headless = not any(name.startswith("fc.") for name in shapes)
            return cls(
                layers=tuple(filter(None, (_blocks(stage, shapes) for stage in range(1, 5)))),
                cardinality=middle[0] // middle[1],
                base_width=middle[1],
                stem="imagenet" if stem[2] == 7 else "cifar",
                shortcut="C" if any(map(_DOWNSAMPLE.fullmatch, shapes)) else "B",
                num_classes=0 if headless else shapes["fc.weight"][0],
                in_channels=stem[1],
            )
        except (KeyError, IndexError, ZeroDivisionError) as error:
            detail = f"no entry {error}" if isinstance(error, KeyError) else "an entry of the wrong shape"
            raise ValueError(f"not the weights of a ResNeXt: {detail}") from None


def check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raise ValueError, with the differences, unless a state_dict has the expected names and shapes."""
    missing = [key for key in expected if key not in shapes]
    left_over = [key for key in shapes if key not in expected]
    wrong = [f"{k} is {tuple(shapes[k])}, expected {s}" for k, s in expected.items() if k in shapes and shapes[k] != s]
    problems = [
        f"{what}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for what, keys in (("missing", missing), ("left over", left_over), ("wrong shape", wrong))
        if keys
    ]
    if problems:
        raise ValueError(f"not the weights of {name}: {'; '.join(problems)}")


def _half(size: int) -> int:
    return (size + 1) // 2  # the size after a padded convolution of stride 2


def _blocks(stage: int, names: Container[str]) -> int:
    return next(block for block in itertools.count() if f"layer{stage}.{block}.conv1.weight" not in names)
