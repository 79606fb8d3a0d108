"""Which arguments a network takes. Each check names the argument, what was expected, and what came, with its type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn

from resnext.forms import FORMS

STEMS = ("imagenet", "cifar")
SHORTCUTS = ("B", "C")  # the official code's A (zero padding) doubles channels where a bottleneck needs them times four
POOLS = ("avg", "max", "avgmax", "catavgmax", "")

NormLayer = Callable[[int], nn.Module]


def check(name: str, value: Any, kind: Any, allowed: Callable[[Any], bool], expected: str) -> None:
    """Raise TypeError for an argument of another kind, and ValueError for a value that is not allowed."""
    if not isinstance(value, kind) or (isinstance(value, bool | str) and kind not in (bool, str)):
        got = type(value)
        of_module = "" if got.__module__ == "builtins" else f"{got.__module__}."  # numpy.bool is not bool
        raise TypeError(f"{name} {value!r} is of type {of_module}{got.__name__}; expected {expected}")
    if not allowed(value):
        raise ValueError(f"{name} {value!r}; expected {expected}")


def check_count(name: str, value: Any, least: int) -> None:
    """Raise TypeError or ValueError for anything but a whole number from `least` up."""
    check(name, value, Integral, lambda count: count >= least, f"a whole number, {least} or more")


def check_flag(name: str, value: Any) -> None:
    """Raise TypeError for anything but True and False."""
    check(name, value, bool, lambda _: True, "True or False")


def check_form(form: Any) -> None:
    """Raise TypeError or ValueError for anything but one of the three forms."""
    _check_choice("form", form, FORMS)


def check_body(
    layers: Any, cardinality: Any, base_width: Any, stem: Any, shortcut: Any, in_channels: Any, form: Any
) -> None:
    """Raise TypeError or ValueError for a shape that a `ResNeXt` cannot have."""

    def blocks(counts: Any) -> bool:
        return len(counts) in stages and all(isinstance(count, Integral) and int(count) >= 1 for count in counts)

    _check_choice("stem", stem, STEMS)
    _check_choice("shortcut", shortcut, SHORTCUTS)
    check_form(form)
    stages = (4,) if stem == "imagenet" else (3, 4)  # the authors' for CIFAR have three, other people's four too
    expected = f"the number of bottlenecks (1 or more) of {' or '.join(map(str, stages))} stages"
    check("layers", layers, Sequence, blocks, expected)
    check_count("cardinality", cardinality, 1)
    check_count("base_width", base_width, 1)
    check_count("in_channels", in_channels, 1)


def check_options(
    stages: int, form: str, dilate: Any, norm_layer: Any, zero_init_residual: Any, drop_path_rate: Any
) -> None:
    """Raise TypeError or ValueError for what a `ResNeXt` of that shape cannot be built with."""

    def flags(values: Any) -> bool:
        return len(values) == count and all(isinstance(value, bool) for value in values)

    count = stages - 1
    if dilate is not None:
        expected = f"{count} booleans, one for each stage after the first"
        check("replace_stride_with_dilation", dilate, Sequence, flags, expected)
    expected = "a callable that makes a module for a number of channels, such as torch.nn.BatchNorm2d"
    check("norm_layer", norm_layer, Callable, lambda _: True, expected)
    if form != "C" and not _is_per_channel(norm_layer):
        name = getattr(norm_layer, "__name__", norm_layer)
        raise ValueError(
            f"form={form!r} and norm_layer={name} cannot be combined: it normalises several channels together, which "
            "would make the forms different functions; use form='C'"
        )
    check_flag("zero_init_residual", zero_init_residual)
    if zero_init_residual and getattr(norm_layer(64), "weight", None) is None:
        name = getattr(norm_layer, "__name__", norm_layer)
        raise ValueError(
            f"zero_init_residual=True and norm_layer={name} cannot be combined: it has no weight to set to zero"
        )
    _check_rate("drop_path_rate", drop_path_rate)


def check_head(num_classes: Any, drop_rate: Any, global_pool: Any) -> None:
    """Raise TypeError or ValueError where classifier, dropout and pooling are impossible, by themselves or together."""
    check_count("num_classes", num_classes, 0)
    _check_rate("drop_rate", drop_rate)
    _check_choice("global_pool", global_pool, POOLS)
    if global_pool == "" and num_classes > 0:
        raise ValueError(
            f"global_pool='' and num_classes={num_classes} cannot be combined: a classifier needs pooled features; "
            "give num_classes=0 as well"
        )
    if global_pool == "" and drop_rate > 0:
        raise ValueError(f"global_pool='' and drop_rate={drop_rate} cannot be combined: dropout is for pooled features")


def check_indices(indices: Any, count: int, name: str = "out_indices") -> list[int]:
    """The chosen ones of `count` maps, ascending; negative indices count from the last. Raises as the others do."""
    expected = f"some of 0 to {count - 1} (or {-count} to -1)"
    check(name, indices, Iterable, lambda _: True, f"a sequence with {expected}")
    indices = list(indices)
    wrong = [index for index in indices if not isinstance(index, Integral) or not -count <= int(index) < count]
    if wrong or not indices:
        raise ValueError(f"{name} {tuple(indices)}; expected {expected}")
    return sorted({int(index) % count for index in indices})


def take_indices(indices: Any, count: int) -> list[int]:
    """As `check_indices`, for timm's functions: None means all maps, and a number n the last n."""
    last = count if indices is None else indices
    if not isinstance(last, Integral) or isinstance(last, bool):
        return check_indices(indices, count, "indices")
    if not 1 <= int(last) <= count:
        raise ValueError(f"indices {last}; expected a number of maps, 1 to {count}, or a sequence of their indices")
    return list(range(count - int(last), count))


def _check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    check(name, value, str, lambda choice: choice in known, f"one of {', '.join(each or repr('') for each in known)}")


def _check_rate(name: str, value: Any) -> None:
    check(name, value, Real, lambda rate: 0 <= rate < 1, "a probability from 0 up to, not including, 1")


def _is_per_channel(norm_layer: NormLayer) -> bool:
    """Whether a normalisation treats each channel by itself, and so gives the same however they are divided."""
    with torch.device("cpu"), torch.no_grad():
        norm = norm_layer(64)
        if hasattr(norm, "running_mean"):  # batch norm and its kind, whose training may need a GPU
            return True
        x = torch.linspace(0, 9, 512).sin().reshape(2, 64, 2, 2)
        changed = x.clone()
        changed[:, 0] += 1
        return torch.equal(norm(x)[:, 1:], norm(changed)[:, 1:])
