"""The networks by name, and the functions that build and load them."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from resnext.architecture import IMAGENET_LAYERS, Architecture
from resnext.forms import FORMS
from resnext.model import ResNeXt
from resnext.options import check_options
from resnext.weights.loading import AUTHORS_WEIGHTS, load
from resnext.weights.pretrained import resolve_pretrained
from resnext.weights.records import get_record

_CARDINALITY_AND_WIDTH = ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))  # table 2 of the paper: about the same cost


def _cifar(depth: int, cardinality: int, base_width: int) -> Architecture:
    return Architecture(((depth - 2) // 9,) * 3, cardinality, base_width, stem="cifar", num_classes=10)


_FAMILY = (
    *(Architecture(IMAGENET_LAYERS[50], *both) for both in _CARDINALITY_AND_WIDTH),
    *(Architecture(IMAGENET_LAYERS[101], *both) for both in (*_CARDINALITY_AND_WIDTH, (64, 4))),
    Architecture(IMAGENET_LAYERS[152], 32, 4),
    _cifar(29, 8, 64),
    _cifar(29, 16, 64),
)
_NAME = re.compile(r"resnext(\d+)_(\d+)x(\d+)d(_cifar)?(?:_type([A-Z]))?")
ARCHITECTURES = {architecture.name: architecture for architecture in _FAMILY}


def list_models() -> list[str]:
    """Names that `create` takes, e.g. `resnext50_32x4d_typeC`: every network in the three forms."""
    return [f"{name}_type{form}" for name in ARCHITECTURES for form in FORMS]


def parse_name(name: str) -> tuple[str, str | None]:
    """`resnext50_32x4d_typeC` to (`resnext50_32x4d`, `C`); the form may be absent.

    Any depth, cardinality and width may be named, not those of `list_models` alone. Raises ValueError with the nearest
    known names for anything that is not such a name.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[5] not in (None, *FORMS):
        known = [*ARCHITECTURES, *list_models()]
        near = difflib.get_close_matches(name, known, 3) or list(ARCHITECTURES)
        raise ValueError(f"unknown architecture {name!r}; did you mean {', '.join(near)}?")
    return name.removesuffix(f"_type{match[5]}"), match[5]


def get_architecture(name: str) -> Architecture:
    """The architecture of a name of `list_models`, with or without its form.

    Raises ValueError that names what is available.
    """
    base, _ = parse_name(name)
    if base not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; available: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[base]


def create(
    name: str,
    *,
    pretrained: bool = False,
    progress: bool = True,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    form: str | None = None,
    **options: Any,
) -> ResNeXt:
    """Build a network of `list_models()` by name, with or without weights.

    Args:
        name: e.g. `resnext50_32x4d_typeC`; the form may be left out.
        pretrained: load the authors' weights.
        progress: show a progress bar where something is downloaded.
        weights: path or URL of a `.pth`, `.safetensors` or Torch7 `.t7` file to load instead, of any form; "DEFAULT"
            and "IMAGENET1K_V1", torchvision's names, mean the authors' weights.
        num_classes: number of logits, 0 for none; by default that of the weights, else of the paper's data set. If the
            weights have another number, the body is loaded, the classifier is new, and a warning says so.
        in_channels: channels of the input image. Weights for 3 channels are adapted: summed for 1 channel, so that a
            grey image gives what it would give as RGB; else repeated in turn and scaled by 3 / in_channels.
        form: "A", "B" or "C" of the paper's figure 3, where the name does not say it; default: "C".
        features_only: leave out the head and return the maps of the stages, as a list; `feature_info` describes them.
        out_indices: which maps, with `features_only`: 0 is the stem's, 1 to 4 the stages'; default: all.
        options: other arguments of `ResNeXt` that do not contradict the name: `shortcut`,
            `replace_stride_with_dilation`, `norm_layer`, `zero_init_residual`, `drop_rate`, `drop_path_rate`,
            `global_pool`.

    Returns:
        The model, in training mode as torchvision's builders return theirs: call `eval()` before using it.

    Raises:
        ValueError: unknown name, or options that cannot be combined.
        TypeError: unknown option.
        WeightsError: weights that cannot be had, or that are not those of this network.
    """
    if isinstance(weights, str) and weights in AUTHORS_WEIGHTS:
        pretrained, weights = True, None
    architecture = get_architecture(name)
    named_form = parse_name(name)[1]
    if form is not None and named_form not in (None, form):
        raise ValueError(f"{name} and form={form!r} cannot be combined; leave one of them out")
    options = check_options(name, pretrained, weights, num_classes, options)
    form = form or named_form or "C"
    architecture = replace(architecture, in_channels=in_channels, shortcut=options.pop("shortcut", "B"))
    if not pretrained and weights is None:
        if num_classes is not None:
            architecture = replace(architecture, num_classes=num_classes)
        return architecture.build(form=form, **options)
    if pretrained and options:  # what cannot be built is refused before anything is downloaded
        classes = architecture.num_classes if num_classes is None else num_classes
        replace(architecture, num_classes=classes).build_empty(form=form, **options)
    path = resolve_pretrained(architecture.name, progress=progress) if weights is None else weights
    model = load(
        path,
        architecture,
        _builder(form, options),
        num_classes=num_classes,
        in_channels=in_channels,
        progress=progress,
        published=weights is None,
    )
    if pretrained:
        model.preprocessing = get_record(architecture.name).preprocessing
    return model


def from_checkpoint(
    path: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    form: str = "C",
    progress: bool = True,
    **options: Any,
) -> ResNeXt:
    """The network that a checkpoint holds: depth, cardinality, width, stem and classes are read off the file.

    Args:
        path: path or URL of a `.pth`, `.safetensors` or Torch7 `.t7` file, of any form.
        num_classes: as in `create`.
        in_channels: as in `create`; by default that of the file.
        form: of the model, "A", "B" or "C"; that of the file does not matter.
        progress: show a progress bar where something is downloaded.
        options: as in `create`.

    Raises ValueError and TypeError as `create`, WeightsError where the file is not that of a ResNeXt.
    """
    options = check_options("from_checkpoint", False, path, num_classes, options)
    build = _builder(form, options)
    return load(path, build=build, num_classes=num_classes, in_channels=in_channels, progress=progress)


def _builder(form: str, options: Mapping[str, Any]) -> Callable[[Architecture], ResNeXt] | None:
    """How `load` makes the network: without weights, or in full where the layers are not our own."""
    if form == "C" and not options:
        return None
    return functools.partial(
        Architecture.build if "norm_layer" in options else Architecture.build_empty, form=form, **options
    )
