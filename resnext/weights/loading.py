"""Loads the weights of a file into a network of any form and with any number of classes and input channels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from resnext.architecture import Architecture, check_shapes
from resnext.forms import convert_state_dict, find_form
from resnext.model import ResNeXt, ResNeXtFeatures, make_classifier
from resnext.weights.download import is_url
from resnext.weights.files import Contents, WeightsError, first_line, on_cpu, read_weights, warn
from resnext.weights.layouts import LayoutError, read_layout
from resnext.weights.pretrained import fetch
from resnext.weights.records import Kept, read_kept

AUTHORS_WEIGHTS = ("DEFAULT", "IMAGENET1K_V1")  # names of the published weights, as in torchvision's builders


def load(
    weights: str | os.PathLike[str],
    expected: Architecture | None = None,
    build: Callable[..., ResNeXt] | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    progress: bool = True,
    published: bool = False,
    ema: bool | None = None,
) -> ResNeXt:
    """A model with the weights of a file or URL, on the default device; nothing is initialised only to be overwritten.

    Args:
        weights: as `weights` of `resnext.create`.
        expected: the network that the file must hold, in any number of classes and input channels.
        build: makes the network of an architecture, in any form and with options: without weights (on the meta device),
            or with them where its layers hold values that no file has. Default: form C without options.
        num_classes, in_channels: those of the model; by default those of the file.
        progress: show a progress bar where something is downloaded.
        published, ema: as of `read_weights`.

    Raises WeightsError where the file does not hold such a network, ValueError where the network that `build` makes
    cannot take its weights, and TypeError where `weights` is no path.
    """
    path = _find_file(weights, progress)
    device = torch.get_default_device()
    with on_cpu():
        model = _load(path, expected, build, num_classes, in_channels, published, ema)
    return model.to(device)


def _find_file(weights: str | os.PathLike[str], progress: bool) -> str:
    if isinstance(weights, Mapping):
        raise TypeError(
            "weights: expected a path or URL, got a state_dict; build without weights, then load_state_dict"
        )
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(f"weights: expected a path or URL, got {type(weights).__name__}")
    if weights in AUTHORS_WEIGHTS:
        raise WeightsError(f"{weights!r} is not a file; for the authors' weights: create(name, pretrained=True)")
    if is_url(weights):
        return str(fetch(str(weights), progress=progress))
    in_folder = os.path.join(weights, "model.safetensors")  # as save_pretrained writes it
    return in_folder if os.path.isfile(in_folder) else os.fspath(weights)


def _load(
    path: str,
    expected: Architecture | None,
    build: Callable[..., ResNeXt] | None,
    num_classes: int | None,
    in_channels: int | None,
    published: bool,
    ema: bool | None,
) -> ResNeXt:
    contents = read_weights(path, published=published, ema=ema)
    state_dict, found, model = recognise(path, contents, expected)
    remarks = list(contents.remarks)
    if in_channels not in (None, found.in_channels) and found.in_channels != 3:
        raise WeightsError(
            f"{path}: expected weights for 3 or {in_channels} channels, got weights for {found.in_channels}; "
            f"give in_channels={found.in_channels}"
        )
    wanted = replace(
        found,
        num_classes=found.num_classes if num_classes is None else num_classes,
        in_channels=found.in_channels if in_channels is None else in_channels,
    )
    kept = Kept() if published else read_kept(path, found)
    given = getattr(build, "keywords", {})  # comes before what is kept
    options = {} if given.get("features_only") else {k: v for k, v in kept.options.items() if k not in given}
    if build is not None:
        model = build(wanted, **options).float()
    elif wanted != found or options:
        model = wanted.build_empty(**options)
    _fit_pooling(model, _shapes(state_dict))
    if wanted.in_channels != found.in_channels:
        state_dict["conv1.weight"] = _adapt_channels(state_dict["conv1.weight"], wanted.in_channels)
    if isinstance(model.fc, nn.Identity):
        state_dict = {name: value for name, value in state_dict.items() if not name.startswith("fc.")}
        if found.num_classes == 0 and num_classes is None and not isinstance(model, ResNeXtFeatures):
            remarks.append("no classifier: the network gives pooled features; num_classes=N adds a new one")
    elif wanted.num_classes != found.num_classes:
        head = make_classifier(model.head_hidden_size, wanted.num_classes).float()
        state_dict |= {f"fc.{name}": value.detach() for name, value in head.named_parameters()}
        remarks.append(
            f"has {found.num_classes or 'no'} classes, {wanted.num_classes} were asked for: "
            "the body is loaded, the classifier (fc) is new and untrained"
        )
    elif state_dict["fc.weight"].shape[1] != model.head_hidden_size:
        raise ValueError(
            f"global_pool={model.global_pool!r} and the classifier of {path} cannot be combined: it takes "
            f"{state_dict['fc.weight'].shape[1]} features, not {model.head_hidden_size}; load the weights without "
            f"global_pool, then call reset_classifier(num_classes, {model.global_pool!r})"
        )
    if remarks:
        warn(f"{path}{' ' if remarks[0].startswith('has ') else ': '}{'; '.join(remarks)}")
    _fill(model, convert_state_dict(state_dict, "C", model.form), path)
    model.preprocessing, model.license = kept.preprocessing or found.data_set, kept.license
    if wanted.num_classes == found.num_classes:
        model.classes = kept.classes
    return model


def recognise(
    path: str, contents: Contents, expected: Architecture | None = None
) -> tuple[dict[str, Tensor], Architecture, ResNeXt]:
    """The weights in form C, what network they are of, and that network, empty.

    Raises WeightsError for any but that of `expected`, and what is no ResNeXt.
    """
    state_dict = contents.state_dict
    try:
        if (form := find_form(state_dict)) != "C":
            state_dict = convert_state_dict(state_dict, form, "C")
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: {first_line(error)}") from None
    try:
        found, model = _build(_shapes(state_dict))
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that torch cannot build
        raise WeightsError(f"{path}: {_reason(contents.state_dict) or first_line(error)}") from None
    if expected is not None:
        expected = replace(expected, num_classes=found.num_classes, in_channels=found.in_channels)
        if differences := _differences(expected, found):
            raise WeightsError(
                f"{path}: expected the weights of {expected.name}, got those of {found.name} ({differences}); "
                "resnext.from_checkpoint builds the network that a file holds"
            )
    return state_dict, found, model


def _build(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Architecture, ResNeXt]:
    """The architecture with these entries, and its network, empty. Raises ValueError or RuntimeError."""
    found = Architecture.from_shapes(shapes)
    model = found.build_empty()
    _fit_pooling(model, shapes)
    check_shapes(shapes, _shapes(model.state_dict()), found.name)
    return found, model


def _reason(state_dict: Mapping[str, Tensor]) -> str:
    """What makes these entries another network than a ResNeXt, or "" where their order and shapes do not tell."""
    try:
        read_layout(state_dict)
    except LayoutError as error:
        return str(error)
    return ""


def _fit_pooling(model: ResNeXt, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A classifier with twice the usual inputs was trained on average and maximum: so `model` pools both."""
    doubled = shapes.get("fc.weight", ())[1:] == (2 * model.num_features,)
    if doubled and model.global_pool == "avg" and not isinstance(model.fc, nn.Identity):
        model.reset_classifier(model.num_classes, "catavgmax")


def _shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state_dict.items()}


def _differences(expected: Architecture, found: Architecture) -> str:
    return ", ".join(
        f"{field.name} {getattr(found, field.name)}, expected {getattr(expected, field.name)}"
        for field in fields(Architecture)
        if getattr(found, field.name) != getattr(expected, field.name)
    )


def _adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """The weight (64, C, kH, kW) of the first convolution for images of another number of channels.

    One channel: summed, so that a grey image gives what it would give three times over. More: repeated in turn, and
    scaled so that the sums over constant channels stay.
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    have = weight.shape[1]
    return weight.repeat(1, -(-channels // have), 1, 1)[:, :channels] * (have / channels)


def _fill(model: ResNeXt, state_dict: dict[str, Tensor], path: str) -> None:
    """Load every weight that the model takes; it may lack whole stages, and the counters of batch norms."""
    wanted = _shapes(model.state_dict())
    for name in [name for name in state_dict if name not in wanted]:
        stage_left_out = isinstance(getattr(model, name.split(".")[0]), nn.Identity)
        if stage_left_out or name.endswith(".num_batches_tracked"):  # which a frozen batch norm lacks
            del state_dict[name]
    try:
        check_shapes(_shapes(state_dict), wanted, "this network")
    except ValueError as error:
        raise ValueError(
            f"norm_layer={type(model.bn1).__name__} and {path} cannot be combined: "
            f"its weights are those of batch norms ({error})"
        ) from None
    model.load_state_dict(state_dict, strict=True, assign=model.conv1.weight.is_meta)
