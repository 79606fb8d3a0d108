"""Loads the weights of a file into a network of any form and with any number of classes and input channels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from resnext.architecture import Architecture, check_shapes
from resnext.forms import convert_state_dict, find_form
from resnext.model import ResNeXt, make_classifier
from resnext.weights.download import is_url
from resnext.weights.files import WeightsError, first_line, on_cpu, read_state_dict, warn
from resnext.weights.pretrained import fetch

AUTHORS_WEIGHTS = ("DEFAULT", "IMAGENET1K_V1")  # names of the published weights, as in torchvision's builders


def load(
    weights: str | os.PathLike[str],
    expected: Architecture | None = None,
    build: Callable[[Architecture], ResNeXt] | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    progress: bool = True,
    published: bool = False,
) -> ResNeXt:
    """A model with the weights of a file or URL, on the default device; nothing is initialised only to be overwritten.

    Args:
        weights: as `weights` of `resnext.create`.
        expected: the network that the file must hold, in any number of classes and input channels.
        build: makes the network of an architecture, in any form and with options: without weights (on the meta device),
            or with them where its layers hold values that no file has. Default: form C without options.
        num_classes, in_channels: those of the model; by default those of the file.
        progress: show a progress bar where something is downloaded.
        published: as of `read_state_dict`.

    Raises WeightsError where the file does not hold such a network, ValueError where the network that `build` makes
    cannot take its weights, and TypeError where `weights` is no path.
    """
    path = _find_file(weights, progress)
    device = torch.get_default_device()
    with on_cpu():
        model = _load(path, expected, build, num_classes, in_channels, published)
    return model.to(device)


def _find_file(weights: str | os.PathLike[str], progress: bool) -> str:
    if isinstance(weights, Mapping):
        raise TypeError(
            "weights: expected a path or URL, got a state_dict; build without weights, then load_state_dict"
        )
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(f"weights: expected a path or URL, got {type(weights).__name__}")
    if weights in AUTHORS_WEIGHTS:
        raise WeightsError(f"{weights!r} is no file; for the authors' weights: create(name, pretrained=True)")
    if is_url(weights):
        return str(fetch(str(weights), progress=progress))
    return os.fspath(weights)


def _load(
    path: str,
    expected: Architecture | None,
    build: Callable[[Architecture], ResNeXt] | None,
    num_classes: int | None,
    in_channels: int | None,
    published: bool,
) -> ResNeXt:
    state_dict, found, model = _read(path, expected, published)
    if in_channels not in (None, found.in_channels) and found.in_channels != 3:
        raise WeightsError(
            f"{path}: expected weights for 3 or {in_channels} channels, got some for {found.in_channels}; "
            f"give in_channels={found.in_channels}"
        )
    wanted = replace(
        found,
        num_classes=found.num_classes if num_classes is None else num_classes,
        in_channels=found.in_channels if in_channels is None else in_channels,
    )
    if build is not None:
        model = build(wanted).float()
    elif wanted != found:
        model = wanted.build_empty()
    if wanted.in_channels != found.in_channels:
        state_dict["conv1.weight"] = _adapt_channels(state_dict["conv1.weight"], wanted.in_channels)
    if isinstance(model.fc, nn.Identity):
        del state_dict["fc.weight"], state_dict["fc.bias"]
    elif wanted.num_classes != found.num_classes:
        head = make_classifier(model.num_features, wanted.num_classes).float()
        state_dict |= {f"fc.{name}": value.detach() for name, value in head.named_parameters()}
        warn(
            f"{path} has {found.num_classes} classes, {wanted.num_classes} were asked for: "
            "the body is loaded, the classifier (fc) is new and untrained"
        )
    _fill(model, convert_state_dict(state_dict, "C", model.form), path)
    model.preprocessing = found.data_set
    return model


def _read(path: str, expected: Architecture | None, published: bool) -> tuple[dict[str, Tensor], Architecture, ResNeXt]:
    """The weights of a file in form C, what network they are of, and that network, empty."""
    state_dict = read_state_dict(path, published=published)
    try:
        if (form := find_form(state_dict)) != "C":
            state_dict = convert_state_dict(state_dict, form, "C")
        shapes = _shapes(state_dict)
        found = Architecture.from_shapes(shapes)
        if expected is not None:
            expected = replace(expected, num_classes=found.num_classes, in_channels=found.in_channels)
            if differences := _differences(expected, found):
                raise ValueError(f"expected the weights of {expected.name}, got those of {found.name} ({differences})")
        model = found.build_empty()
        check_shapes(shapes, _shapes(model.state_dict()), found.name)
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that torch cannot build
        raise WeightsError(f"{path}: {first_line(error)}") from None
    return state_dict, found, model


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
            f"norm_layer={type(model.bn1).__name__} and the weights of {path} contradict each other: "
            f"they are of batch norms ({error})"
        ) from None
    model.load_state_dict(state_dict, strict=True, assign=model.conv1.weight.is_meta)
