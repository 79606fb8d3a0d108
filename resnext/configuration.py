"""What a ResNeXt may be made of, and which arguments contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

STEMS = ("imagenet", "cifar")
SHORTCUTS = ("B", "C")  # the official code's A (zero padding) doubles channels where a bottleneck needs them times four
FORMS = ("A", "B", "C")
POOLS = ("avg", "max", "avgmax", "")


def data_set(stem: str, num_classes: int) -> str:
    """What the authors trained such a network on: "imagenet", "cifar10" or "cifar100"."""
    if stem == "imagenet":
        return "imagenet"
    return "cifar100" if num_classes == 100 else "cifar10"


def check_count(name: str, value: Any, least: int) -> None:
    """Raise ValueError for anything but a whole number from `least` up."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} {value!r}; expected {least} or more")


def check_choice(what: str, choice: Any, known: Sequence[str]) -> None:
    """Raise ValueError for a choice that is not among those known."""
    if choice not in known:
        expected = ", ".join(name or "''" for name in known)
        raise ValueError(f"unknown {what} {choice!r}; expected one of {expected}")


def check_configuration(
    *,
    layers: Sequence[int],
    cardinality: int,
    base_width: int,
    stem: str,
    shortcut: str,
    num_classes: int,
    in_channels: int,
    form: str,
    replace_stride_with_dilation: Sequence[bool] | None,
    drop_rate: float,
    drop_path_rate: float,
    global_pool: str,
) -> None:
    """Raise ValueError for arguments of `ResNeXt` that cannot be built; says what was expected and what came."""
    check_choice("stem", stem, STEMS)
    check_choice("shortcut type", shortcut, SHORTCUTS)
    check_choice("form", form, FORMS)
    stages = 4 if stem == "imagenet" else 3
    if len(layers) != stages or any(count < 1 for count in layers):
        raise ValueError(f"layers {tuple(layers)}; expected the number of bottlenecks (1 or more) of {stages} stages")
    check_count("cardinality", cardinality, 1)
    check_count("base_width", base_width, 1)
    check_count("in_channels", in_channels, 1)
    for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if not isinstance(rate, Real) or not 0 <= rate < 1:
            raise ValueError(f"{name} {rate!r}; expected a probability from 0 up to, not including, 1")
    if replace_stride_with_dilation is not None and (
        not isinstance(replace_stride_with_dilation, Sequence) or len(replace_stride_with_dilation) != stages - 1
    ):
        raise ValueError(
            f"replace_stride_with_dilation {replace_stride_with_dilation!r}; expected {stages - 1} booleans, "
            "one for each stage after the first"
        )
    check_head(num_classes, drop_rate, global_pool)


def check_head(num_classes: int, drop_rate: float, global_pool: str) -> None:
    """Raise ValueError where classifier, dropout and pooling cannot be, or contradict each other."""
    check_count("num_classes", num_classes, 0)
    check_choice("global_pool", global_pool, POOLS)
    if global_pool == "" and num_classes > 0:
        raise ValueError(
            f"global_pool='' and num_classes={num_classes} contradict each other: a classifier needs pooled features; "
            "give num_classes=0 as well"
        )
    if global_pool == "" and drop_rate > 0:
        raise ValueError(
            f"global_pool='' and drop_rate={drop_rate} contradict each other: dropout is for pooled features"
        )
