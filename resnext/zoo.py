"""The networks by name, and the functions that build and load them."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from resnext.architecture import IMAGENET_LAYERS, Architecture
from resnext.arguments import NormLayer, check, check_count, check_flag, check_form
from resnext.classes import class_names
from resnext.forms import FORMS
from resnext.model import ResNeXt
from resnext.weights.loading import AUTHORS_WEIGHTS, load
from resnext.weights.pretrained import resolve_pretrained
from resnext.weights.records import get_record

_CARDINALITY_AND_WIDTH = ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))  # table 2 of the paper: about the same cost

_CIFAR_DEPTH = 29  # the only one in the paper


def _cifar(depth: int, cardinality: int, base_width: int) -> Architecture:
    return Architecture(((depth - 2) // 9,) * 3, cardinality, base_width, stem="cifar", num_classes=10)


_FAMILY = (
    *(Architecture(IMAGENET_LAYERS[50], *both) for both in _CARDINALITY_AND_WIDTH),
    *(Architecture(IMAGENET_LAYERS[101], *both) for both in (*_CARDINALITY_AND_WIDTH, (64, 4))),
    Architecture(IMAGENET_LAYERS[152], 32, 4),
    _cifar(_CIFAR_DEPTH, 8, 64),
    _cifar(_CIFAR_DEPTH, 16, 64),
)
_NAME = re.compile(r"resnext([1-9]\d*)_([1-9]\d*)x([1-9]\d*)d(_cifar4?)?(?:_type([A-Z]))?", re.ASCII)
ARCHITECTURES = {architecture.name: architecture for architecture in _FAMILY}


def list_models() -> list[str]:
    """The names of all networks, e.g. `resnext50_32x4d_typeC`: each network in the three forms."""
    return [f"{name}_type{form}" for name in ARCHITECTURES for form in FORMS]


def parse_name(name: str) -> tuple[str, str | None]:
    """`resnext50_32x4d_typeC` to (`resnext50_32x4d`, `C`); a name without a form gives None for it.

    Any depth, cardinality and width are taken, not only those of `list_models`. Raises ValueError, with the nearest
    known names, for anything that is not such a name, and TypeError for what is no text.
    """
    check("name", name, str, lambda _: True, "one of list_models()")
    match = _NAME.fullmatch(name)
    if match is None or match[5] not in (None, *FORMS):
        known = [*ARCHITECTURES, *list_models()]
        near = difflib.get_close_matches(name, known, 3) or list(ARCHITECTURES)
        raise ValueError(f"unknown architecture {name!r}; did you mean {', '.join(near)}?")
    return name.removesuffix(f"_type{match[5]}"), match[5]


def get_architecture(name: str) -> Architecture:
    """The architecture of a name, with or without its form: one of `list_models`, or of another cardinality and width.

    Depths 50, 101 and 152 are ImageNet's, 29 is CIFAR's; `from_checkpoint` builds the networks of files, of any depth.
    Raises ValueError, which lists names, for any other.
    """
    base, _ = parse_name(name)
    if base in ARCHITECTURES:
        return ARCHITECTURES[base]
    match = _NAME.fullmatch(base)
    depth, cardinality, width = map(int, match.groups()[:3]) if match else (0, 0, 0)
    if match and not match[4]:
        if depth in IMAGENET_LAYERS:
            return Architecture(IMAGENET_LAYERS[depth], cardinality, width)
        if depth == _CIFAR_DEPTH:
            return _cifar(depth, cardinality, width)
    near = difflib.get_close_matches(base, ARCHITECTURES, 3) or list(ARCHITECTURES)[:3]
    raise ValueError(
        f"unknown architecture {name!r}; available: {', '.join(ARCHITECTURES)}, and any cardinality and width in the "
        f"depths {', '.join(map(str, IMAGENET_LAYERS))} (ImageNet) and {_CIFAR_DEPTH} (CIFAR); "
        f"did you mean {', '.join(near)}?"
    )


# Arguments of `create` and `from_checkpoint` that are handed to the network, and their defaults.
_DEFAULTS = {
    "features_only": False,
    "out_indices": None,
    "replace_stride_with_dilation": None,
    "norm_layer": None,
    "zero_init_residual": False,
    "drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "global_pool": None,
}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _suggest_keywords(function: _Function) -> _Function:
    """The same function; its TypeError for an unknown keyword says which one may be meant."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*arguments: Any, **options: Any) -> Any:
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(known)}"
                raise TypeError(f"{function.__name__} has no option {name}; {hint}")
        return function(*arguments, **options)

    return checked  # type: ignore[return-value]


@_suggest_keywords
def create(
    name: str,
    pretrained: bool = False,
    progress: bool = True,
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    form: str | None = None,
    shortcut: str = "B",
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    replace_stride_with_dilation: Sequence[bool] | None = None,
    norm_layer: NormLayer | None = None,
    zero_init_residual: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str | None = None,
    ema: bool | None = None,
) -> ResNeXt:
    """Build a network by its name, with or without weights: one of `list_models()`, or another cardinality and width.

    Any `resnext<depth>_<C>x<d>d` of depth 50, 101 or 152 (ImageNet) or 29 (CIFAR) is a name, such as
    `resnext101_32x8d`. The form may be left out of it: `resnext50_32x4d` is `resnext50_32x4d_typeC` unless `form` says
    otherwise.

    Args:
        pretrained: load the authors' weights (CC BY-NC 4.0).
        progress: show a progress bar where something is downloaded.
        weights: path or URL of a `.pth`, `.safetensors` or Torch7 `.t7` file to load instead, of any form: weights,
            a training checkpoint, or the file of another port of ResNeXt (docs/checkpoints.md). "DEFAULT" and
            "IMAGENET1K_V1", torchvision's names, mean the authors' weights.
        num_classes: number of logits, 0 for none; by default that of the weights, else of the paper's data set. If the
            weights have another number, the body is loaded, the classifier is new, and a warning says so.
        in_channels: channels of the input image. Weights for 3 channels are adapted: summed for 1 channel, so that a
            grey image gives what it would give as RGB; else repeated in turn and scaled by 3 / in_channels.
        form: "A", "B" or "C" of the paper's figure 3.
        shortcut: "B" or "C", the shortcut type of the official code.
        features_only: leave out the head and return the maps of the stages, as a list; `feature_info` describes them.
        out_indices: which maps, with `features_only`: 0 is the stem's, 1 to 4 the stages'; default: all.
        replace_stride_with_dilation: for each stage after the first, whether its stride becomes dilation.
        norm_layer: makes a normalisation layer for a number of channels; default: `torch.nn.BatchNorm2d`.
        zero_init_residual: each bottleneck starts as its shortcut only.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last bottleneck; it rises linearly from 0 at the first.
        global_pool: "avg" (default), "max", "avgmax" (their mean), "catavgmax" (both: the classifier has twice the
            features), or "" for none.
        ema: with a training checkpoint as `weights`: True for the moving average of the weights, False for the weights
            themselves. By default the average where the file has one, as timm does; a warning says so.

    Returns:
        The model, in training mode as torchvision's builders return theirs: call `eval()` before using it. It is on
        torch's default device.

    Raises:
        ValueError, TypeError: an unknown name or keyword, or arguments that are impossible, by themselves or together;
            before anything is downloaded.
        resnext.WeightsError: weights that are not available, or that are not those of this network.
    """
    given = _given(locals())
    if isinstance(weights, str) and weights in AUTHORS_WEIGHTS:
        pretrained, weights = True, None
    _check_flags(features_only, ema, pretrained=pretrained, progress=progress)
    architecture = get_architecture(name)
    named_form = parse_name(name)[1]
    if form is not None and named_form not in (None, form):
        raise ValueError(f"{name} and form={form!r} cannot be combined; leave one of them out")
    if pretrained and shortcut != "B":
        raise ValueError(
            f"pretrained=True and shortcut={shortcut!r} cannot be combined: the authors' weights are of shortcut type B"
        )
    if pretrained and global_pool == "catavgmax" and num_classes in (None, architecture.num_classes):
        raise ValueError(
            "pretrained=True and global_pool='catavgmax' cannot be combined: the authors' classifier takes the average "
            "only; another num_classes makes a new one"
        )
    _check_together(given, num_classes, pretrained, weights, ema)
    form = (named_form or "C") if form is None else form
    wanted = replace(
        architecture,
        num_classes=architecture.num_classes if num_classes is None else num_classes,
        in_channels=in_channels,
        shortcut=shortcut,
    )
    if not pretrained and weights is None:
        return wanted.build(form=form, **given)
    # What cannot be built is refused before anything is downloaded; one bottleneck for each stage shows it.
    replace(wanted, layers=(1,) * len(wanted.layers)).build_empty(form=form, **given)
    model = load(
        resolve_pretrained(architecture.name, progress=progress) if weights is None else weights,
        wanted,
        _builder(form, given),
        num_classes=num_classes,
        in_channels=in_channels,
        progress=progress,
        published=weights is None,
        ema=ema,
    )
    if pretrained:
        record = get_record(architecture.name)
        model.preprocessing, model.license = record.preprocessing, record.license
        names = class_names(record.preprocessing)
        model.classes = list(names) if model.num_classes == len(names) else None
    return model


@_suggest_keywords
def from_checkpoint(
    path: str | os.PathLike[str],
    *,
    progress: bool = True,
    num_classes: int | None = None,
    in_channels: int | None = None,
    form: str = "C",
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    replace_stride_with_dilation: Sequence[bool] | None = None,
    norm_layer: NormLayer | None = None,
    zero_init_residual: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str | None = None,
    ema: bool | None = None,
) -> ResNeXt:
    """The network that a checkpoint holds: depth, cardinality, width, stem and classes are read off the file.

    Args:
        path: path or URL of a `.pth`, `.safetensors` or Torch7 `.t7` file, of any form: weights, a training checkpoint,
            or the file of another port of ResNeXt (docs/checkpoints.md).
        progress: show a progress bar where something is downloaded.
        num_classes: as in `create`.
        in_channels: as in `create`; by default that of the file.
        form: of the model, "A", "B" or "C"; that of the file does not matter.
        features_only, out_indices, replace_stride_with_dilation, norm_layer, zero_init_residual, drop_rate,
            drop_path_rate, global_pool, ema: as in `create`.

    Raises ValueError and TypeError as `create` does, resnext.WeightsError where the file is not that of a ResNeXt.
    """
    given = _given(locals())
    _check_flags(features_only, ema, progress=progress)
    check_form(form)
    for name, count, least in (("num_classes", num_classes, 0), ("in_channels", in_channels, 1)):
        if count is not None:
            check_count(name, count, least)
    _check_together(given, num_classes, False, path, ema)
    return load(
        path,
        build=_builder(form, given),
        num_classes=num_classes,
        in_channels=in_channels,
        progress=progress,
        ema=ema,
    )


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The options that differ from their defaults."""

    def is_default(name: str) -> bool:
        value = arguments[name]  # an array would answer `==` for each of its values
        return value is None or (isinstance(value, bool | int | float) and value == _DEFAULTS[name])

    return {name: arguments[name] for name in _DEFAULTS if not is_default(name)}


def _check_flags(features_only: Any, ema: Any, **flags: Any) -> None:
    for name, value in flags.items():
        if isinstance(value, str | os.PathLike):
            raise TypeError(
                f"{name} {value!r}; expected True or False: a file with weights is given as weights={value!r}"
            )
        check_flag(name, value)
    check_flag("features_only", features_only)
    if ema is not None:
        check_flag("ema", ema)


def _check_together(
    given: Mapping[str, Any], num_classes: int | None, pretrained: bool, weights: Any, ema: bool | None
) -> None:
    """Raise ValueError, which names both, for two arguments that cannot be combined."""
    official = "pretrained=True" if pretrained else None
    file = None if weights is None else f"weights={str(weights) if isinstance(weights, os.PathLike) else weights!r}"
    features = "features_only=True" if given.get("features_only") else None
    classes = f"num_classes={num_classes}" if num_classes else None
    shown = {name: f"{name}={value!r}" for name, value in given.items()}
    for first, second, why in (
        (official, file, "give one of them"),
        (official or file, shown.get("zero_init_residual"), "the weights overwrite what it would set"),
        (features, classes, "there is no classifier"),
        (features, shown.get("drop_rate"), "dropout comes before the classifier, and there is none"),
        (features, shown.get("global_pool"), "the maps are not pooled"),
        (None if file else "no weights=", None if ema is None else f"ema={ema}", "it chooses among those of a file"),
        (None if features else "features_only=False", shown.get("out_indices"), "it says which maps to return"),
    ):
        if first and second:
            raise ValueError(f"{first} and {second} cannot be combined: {why}")


def _builder(form: str, options: Mapping[str, Any]) -> Callable[[Architecture], ResNeXt] | None:
    """How `load` makes the network: on the meta device, or in full where the layers are not our own."""
    if form == "C" and not options:
        return None
    return functools.partial(
        Architecture.build if "norm_layer" in options else Architecture.build_empty, form=form, **options
    )
