"""Architectures: what they are, what they are called, how to build one, and how to recognise one from its weights."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from resnext.checkpoint import WeightsError, read_state_dict
from resnext.model import ResNeXt
from resnext.weights import fetch, resolve_pretrained

IMAGENET_LAYERS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_NAME = re.compile(r"resnext(\d+)_(\d+)x(\d+)d(_cifar)?(?:_type([A-Z]))?")


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
        """`resnext50_32x4d`; classes, shortcut type and input channels do not show.

        `_cifar` tells a CIFAR network from the ImageNet network of the same depth (101 is 9n + 2 as well).
        """
        ambiguous = self.stem == "cifar" and self.depth in IMAGENET_LAYERS
        return f"resnext{self.depth}_{self.cardinality}x{self.base_width}d" + ("_cifar" if ambiguous else "")

    def build(self) -> ResNeXt:
        """A new model with the official initialisation."""
        return ResNeXt(
            self.layers,
            cardinality=self.cardinality,
            base_width=self.base_width,
            stem=self.stem,
            shortcut=self.shortcut,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
        )

    def build_empty(self) -> ResNeXt:
        """A model without weights (on the meta device), for `load_state_dict(..., assign=True)`."""
        with torch.device("meta"):
            return self.build()

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
        """The architecture that a state_dict of these names and shapes belongs to, read off a few of them.

        Raises ValueError where those few are not there. Whether all the rest fits is for `check_shapes` to say.
        """
        try:
            stem, middle, head = shapes["conv1.weight"], shapes["layer1.0.conv2.weight"], shapes["fc.weight"]
            return cls(
                layers=tuple(filter(None, (_blocks(stage, shapes) for stage in range(1, 5)))),
                cardinality=middle[0] // middle[1],
                base_width=middle[1],
                stem="imagenet" if stem[2] == 7 else "cifar",
                shortcut="C" if "layer1.1.downsample.0.weight" in shapes else "B",
                num_classes=head[0],
                in_channels=stem[1],
            )
        except (KeyError, IndexError, ZeroDivisionError) as error:
            detail = f"no entry {error}" if isinstance(error, KeyError) else "an entry of the wrong shape"
            raise ValueError(f"not the weights of a ResNeXt: {detail}") from None


def check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raise ValueError with every difference between the names and shapes of a state_dict and those expected."""
    missing = [key for key in expected if key not in shapes]
    left_over = [key for key in shapes if key not in expected]
    wrong = [f"{k} is {tuple(shapes[k])}, expected {s}" for k, s in expected.items() if k in shapes and shapes[k] != s]
    problems = [
        f"{what}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("left over", left_over), ("wrong shape", wrong))
        if keys
    ]
    if problems:
        raise ValueError(f"not the weights of {name}: {'; '.join(problems)}")


def _blocks(stage: int, names: Container[str]) -> int:
    return next(block for block in itertools.count() if f"layer{stage}.{block}.conv1.weight" not in names)


def _cifar(depth: int, cardinality: int, base_width: int) -> Architecture:
    return Architecture(((depth - 2) // 9,) * 3, cardinality, base_width, stem="cifar", num_classes=10)


_PUBLISHED = (
    Architecture(IMAGENET_LAYERS[50], 32, 4),
    Architecture(IMAGENET_LAYERS[101], 32, 4),
    Architecture(IMAGENET_LAYERS[101], 64, 4),
    _cifar(29, 8, 64),
    _cifar(29, 16, 64),
)
ARCHITECTURES = {architecture.name: architecture for architecture in _PUBLISHED}


def list_models() -> list[str]:
    """Names that `create` takes and the hub offers, e.g. `resnext50_32x4d_typeC`."""
    return [f"{name}_typeC" for name in ARCHITECTURES]


def parse_name(name: str) -> tuple[str, str | None]:
    """`resnext50_32x4d_typeC` to (`resnext50_32x4d`, `C`); the form may be absent.

    Any depth, cardinality and width may be named, not those of `list_models` alone. Raises ValueError with the nearest
    known names for anything that is not such a name.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[5] not in (None, "C"):
        known = [*ARCHITECTURES, *list_models()]
        near = difflib.get_close_matches(name, known, 3) or list_models()
        raise ValueError(f"unknown architecture {name!r}; did you mean {', '.join(near)}?")
    return name.removesuffix(f"_type{match[5]}"), match[5]


def get_architecture(name: str) -> Architecture:
    """The architecture of a name of `list_models`, with or without its form.

    Raises ValueError that names what is available.
    """
    base, _ = parse_name(name)
    if base not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; available: {', '.join(list_models())}")
    return ARCHITECTURES[base]


def create(
    name: str,
    *,
    pretrained: bool = False,
    progress: bool = True,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    **options: Any,
) -> ResNeXt:
    """Build a network of `list_models()` by name, with or without weights.

    Args:
        name: e.g. `resnext50_32x4d_typeC`; the form may be left out.
        pretrained: load the authors' weights.
        progress: show a progress bar where something is downloaded.
        weights: path or URL of a `.pth`, `.safetensors` or Torch7 `.t7` file to load instead.
        num_classes: number of logits; by default that of the weights, else of the paper's data set. If the weights
            have another number, the body is loaded, the classifier is new, and a warning says so.
        in_channels: channels of the input image.
        options: other arguments of `ResNeXt` that do not contradict the name: `shortcut`.

    Returns:
        The model, in training mode as torchvision's builders return theirs: call `eval()` before using it.

    Raises:
        ValueError: unknown name, or options that contradict each other.
        TypeError: unknown option.
        WeightsError: weights that cannot be had, or that are not those of this network.
    """
    architecture = get_architecture(name)
    unknown = set(options) - {"shortcut"}
    if unknown:
        expected = "num_classes, in_channels or shortcut"
        raise TypeError(f"{name} has no option {', '.join(sorted(unknown))}; expected {expected}")

    if pretrained and weights is not None:
        raise ValueError(f"pretrained=True and weights={os.fspath(weights)!r} contradict each other; give one of them")
    architecture = replace(architecture, in_channels=in_channels, **options)
    if pretrained:
        weights = resolve_pretrained(architecture.name, progress=progress)
    if weights is None:
        return replace(architecture, num_classes=num_classes or architecture.num_classes).build()
    return _load(weights, architecture, num_classes, progress)


def from_checkpoint(path: str | os.PathLike[str], *, num_classes: int | None = None, progress: bool = True) -> ResNeXt:
    """The network that a checkpoint holds: depth, cardinality, width, stem and classes are read off the file.

    Args:
        path: path or URL of a `.pth`, `.safetensors` or Torch7 `.t7` file.
        num_classes: as in `create`.
        progress: show a progress bar where something is downloaded.

    Raises WeightsError where the file is not that of a ResNeXt.
    """
    return _load(path, None, num_classes, progress)


def _load(
    path: str | os.PathLike[str], expected: Architecture | None, num_classes: int | None, progress: bool
) -> ResNeXt:
    """A model with the weights of a file or URL. Nothing is initialised that the file overwrites."""
    if isinstance(path, str) and "://" in path:
        path = fetch(path, progress=progress)
    state_dict = read_state_dict(path)
    shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
    try:
        found = Architecture.from_shapes(shapes)
        if expected is None:
            expected = found
        else:
            expected = replace(expected, num_classes=found.num_classes)
            if differences := _differences(expected, found):
                raise ValueError(f"expected the weights of {expected.name}, got those of {found.name} ({differences})")
        wanted = replace(expected, num_classes=num_classes or found.num_classes)
        model = wanted.build_empty()
        if wanted.num_classes != found.num_classes:
            head = nn.Linear(model.fc.in_features, wanted.num_classes)
            nn.init.zeros_(head.bias)
            state_dict |= {"fc.weight": head.weight.detach(), "fc.bias": head.bias.detach()}
            shapes |= {"fc.weight": tuple(head.weight.shape), "fc.bias": tuple(head.bias.shape)}
            warnings.warn(
                f"{os.fspath(path)} has {found.num_classes} classes, {wanted.num_classes} were asked for: "
                "the body is loaded, the classifier (fc) is new and untrained",
                stacklevel=3,
            )
        check_shapes(shapes, {k: tuple(v.shape) for k, v in model.state_dict().items()}, wanted.name)
    except ValueError as error:
        raise WeightsError(f"{os.fspath(path)}: {error}") from None
    model.load_state_dict(state_dict, strict=True, assign=True)
    return model


def _differences(expected: Architecture, found: Architecture) -> str:
    return ", ".join(
        f"{field.name} {getattr(found, field.name)}, expected {getattr(expected, field.name)}"
        for field in fields(Architecture)
        if getattr(found, field.name) != getattr(expected, field.name)
    )
