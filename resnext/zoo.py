"""The networks by name, and the functions that build and load them."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from dataclasses import fields, replace
from typing import Any

from torch import nn

from resnext.architecture import IMAGENET_LAYERS, Architecture, check_shapes
from resnext.checkpoint import WeightsError, read_state_dict
from resnext.model import ResNeXt
from resnext.weights import fetch, resolve_pretrained


def _cifar(depth: int, cardinality: int, base_width: int) -> Architecture:
    return Architecture(((depth - 2) // 9,) * 3, cardinality, base_width, stem="cifar", num_classes=10)


_PUBLISHED = (
    Architecture(IMAGENET_LAYERS[50], 32, 4),
    Architecture(IMAGENET_LAYERS[101], 32, 4),
    Architecture(IMAGENET_LAYERS[101], 64, 4),
    _cifar(29, 8, 64),
    _cifar(29, 16, 64),
)
_NAME = re.compile(r"resnext(\d+)_(\d+)x(\d+)d(_cifar)?(?:_type([A-Z]))?")
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
    _check_num_classes(num_classes)
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
    _check_num_classes(num_classes)
    return _load(path, None, num_classes, progress)


def _check_num_classes(num_classes: int | None) -> None:
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes {num_classes}; expected 1 or more")


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
