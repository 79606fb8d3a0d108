"""What a ResNeXt may be made of, and which arguments contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

STEMS = ("imagenet", "cifar")
SHORTCUTS = ("B", "C")  # the official code's A (zero padding) doubles channels where a bottleneck needs them times four
FORMS = ("A", "B", "C")
POOLS = ("avg", "max", "avgmax", "")


def data_set(stem: str, num_classes: int) -> str:
    """What the authors trained such a network on: "imagenet", "cifar10" or "cifar100"."""
    if stem == "imagenet":
        return "imagenet"
    return "cifar100" if num_classes == 100 else "cifar10"


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
    for what, choice, known in (
        ("stem", stem, STEMS),
        ("shortcut type", shortcut, SHORTCUTS),
        ("form", form, FORMS),
        ("global_pool", global_pool, POOLS),
    ):
        if choice not in known:
            expected = ", ".join(name or "''" for name in known)
            raise ValueError(f"unknown {what} {choice!r}; expected one of {expected}")
    stages = 4 if stem == "imagenet" else 3
    if len(layers) != stages or any(count < 1 for count in layers):
        raise ValueError(f"layers {tuple(layers)}; expected the number of bottlenecks (1 or more) of {stages} stages")
    for name, value, least in (
        ("cardinality", cardinality, 1),
        ("base_width", base_width, 1),
        ("in_channels", in_channels, 1),
        ("num_classes", num_classes, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} {value!r}; expected {least} or more")
    for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name} {rate}; expected a probability from 0 up to, not including, 1")
    if replace_stride_with_dilation is not None and len(replace_stride_with_dilation) != stages - 1:
        raise ValueError(
            f"replace_stride_with_dilation {replace_stride_with_dilation!r}; expected {stages - 1} booleans, "
            "one for each stage after the first"
        )
    check_head(num_classes, drop_rate, global_pool)


def check_head(num_classes: int, drop_rate: float, global_pool: str) -> None:
    """Raise ValueError where classifier, dropout and pooling contradict each other."""
    if global_pool == "" and num_classes > 0:
        raise ValueError(
            f"global_pool='' and num_classes={num_classes} contradict each other: a classifier needs pooled features; "
            "give num_classes=0 as well"
        )
    if global_pool == "" and drop_rate > 0:
        raise ValueError(
            f"global_pool='' and drop_rate={drop_rate} contradict each other: dropout is for pooled features"
        )
