"""The weights of a file into a network, whatever form, classes and channels are asked for."""

from __future__ import annotations

import os
import warnings
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from resnext.architecture import Architecture, check_shapes
from resnext.forms import convert_state_dict, find_form
from resnext.head import make_classifier
from resnext.model import ResNeXt
from resnext.weights.files import WeightsError, read_state_dict
from resnext.weights.pretrained import fetch


def load(
    path: str | os.PathLike[str],
    expected: Architecture | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    form: str = "C",
    progress: bool = True,
    **options: Any,
) -> ResNeXt:
    """A model with the weights of a file or URL, on the CPU. Nothing is initialised that the file overwrites.

    Args:
        path: as `weights` of `resnext.create`.
        expected: what the file must hold, but for the classes and the input channels.
        num_classes, in_channels: those of the model; by default those of the file.
        form: that of the model; the file's may be another.
        progress: show a progress bar where something is downloaded.
        options: as of `Architecture.build`.

    Raises WeightsError where the file is not that of such a network, and ValueError for options that contradict it.
    """
    if isinstance(path, str) and "://" in path:
        path = fetch(path, progress=progress)
    shown = os.fspath(path)
    state_dict, found, model = _read(path, expected)
    if in_channels not in (None, found.in_channels) and found.in_channels != 3:
        raise WeightsError(
            f"{shown}: expected weights for 3 or {in_channels} channels, got some for {found.in_channels}; "
            f"give in_channels={found.in_channels}"
        )
    wanted = replace(
        found,
        num_classes=found.num_classes if num_classes is None else num_classes,
        in_channels=found.in_channels if in_channels is None else in_channels,
    )
    if wanted != found or form != "C" or options:
        # in full where the layers are not our own: they may hold what is not in any file
        build = wanted.build if "norm_layer" in options else wanted.build_empty
        with torch.device("cpu"):
            model = build(form=form, **options).float()
    if wanted.in_channels != found.in_channels:
        state_dict["conv1.weight"] = _adapt_channels(state_dict["conv1.weight"], wanted.in_channels)
    if isinstance(model.fc, nn.Identity):
        del state_dict["fc.weight"], state_dict["fc.bias"]
    elif wanted.num_classes != found.num_classes:
        with torch.device("cpu"):
            head = make_classifier(model.num_features, wanted.num_classes).float()
        state_dict |= {f"fc.{name}": value.detach() for name, value in head.named_parameters()}
        warnings.warn(
            f"{shown} has {found.num_classes} classes, {wanted.num_classes} were asked for: "
            "the body is loaded, the classifier (fc) is new and untrained",
            stacklevel=3,
        )
    _fill(model, convert_state_dict(state_dict, "C", form), shown, options)
    model.preprocessing = found.data_set
    return model


def _read(
    path: str | os.PathLike[str], expected: Architecture | None
) -> tuple[dict[str, Tensor], Architecture, ResNeXt]:
    """The weights of a file in form C, what network they are of, and that network, empty."""
    state_dict = read_state_dict(path)
    try:
        if (form := find_form(state_dict)) != "C":
            state_dict = convert_state_dict(state_dict, form, "C")
        shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
        found = Architecture.from_shapes(shapes)
        if expected is not None:
            expected = replace(expected, num_classes=found.num_classes, in_channels=found.in_channels)
            if differences := _differences(expected, found):
                raise ValueError(f"expected the weights of {expected.name}, got those of {found.name} ({differences})")
        model = found.build_empty()
        check_shapes(shapes, {k: tuple(v.shape) for k, v in model.state_dict().items()}, found.name)
    except ValueError as error:
        raise WeightsError(f"{os.fspath(path)}: {error}") from None
    return state_dict, found, model


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


def _fill(model: ResNeXt, state_dict: dict[str, Tensor], shown: str, options: dict[str, Any]) -> None:
    """Load every weight that the model takes; what it must take and what may be left depends on its options."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in [name for name in state_dict if name not in wanted]:
        stage_left_out = "out_indices" in options and isinstance(getattr(model, name.split(".")[0]), nn.Identity)
        if stage_left_out or name.endswith(".num_batches_tracked"):  # which a frozen batch norm lacks
            del state_dict[name]
    try:
        check_shapes({name: tuple(value.shape) for name, value in state_dict.items()}, wanted, "this network")
    except ValueError as error:
        if "norm_layer" not in options:
            raise
        name = getattr(options["norm_layer"], "__name__", repr(options["norm_layer"]))
        raise ValueError(
            f"norm_layer={name} and the weights of {shown} contradict each other: they are of batch norms ({error})"
        ) from None
    model.load_state_dict(state_dict, strict=True, assign="norm_layer" not in options)
