"""Which options `create` and `from_checkpoint` take, and which of them cannot be combined."""

from __future__ import annotations

import os
from typing import Any

from resnext.arguments import check_count

_DEFAULTS: dict[str, Any] = {
    "shortcut": None,
    "features_only": False,
    "out_indices": None,
    "replace_stride_with_dilation": None,
    "norm_layer": None,
    "zero_init_residual": False,
    "drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "global_pool": None,
}


def check_options(
    what: str,
    pretrained: bool,
    weights: str | os.PathLike[str] | None,
    num_classes: int | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The options that are not at their defaults.

    Raises TypeError for an unknown one, and ValueError, which names both, for two that cannot be combined.
    """
    known = [name for name in _DEFAULTS if name != "shortcut" or what != "from_checkpoint"]  # a file tells it itself
    unknown = set(options) - set(known)
    if unknown:
        expected = ", ".join(("num_classes", "in_channels", "form", *known))
        raise TypeError(f"{what} has no option {', '.join(sorted(unknown))}; expected some of {expected}")
    if num_classes is not None:
        check_count("num_classes", num_classes, 0)
    given = {name: value for name, value in options.items() if not _is_default(name, value)}
    official = "pretrained=True" if pretrained else None
    path = os.fspath(weights) if isinstance(weights, (str, os.PathLike)) else type(weights)
    file = None if weights is None else f"weights={path!r}"
    features = "features_only=True" if given.get("features_only") else None
    classes = f"num_classes={num_classes}" if num_classes else None

    def shown(name: str) -> str | None:
        return f"{name}={given[name]!r}" if name in given else None

    for first, second, why in (
        (official, file, "give one of them"),
        (official or file, shown("zero_init_residual"), "the weights overwrite what it would set"),
        (features, classes, "there is no classifier"),
        (features, shown("drop_rate"), "dropout is ahead of the classifier, and there is none"),
        (features, shown("global_pool"), "the maps are not pooled"),
        ("features_only=False" if not features else None, shown("out_indices"), "it says which maps to return"),
        (official, given.get("shortcut") != "B" and shown("shortcut"), "the authors' weights are of shortcut type B"),
    ):
        if first and second:
            raise ValueError(f"{first} and {second} cannot be combined: {why}")
    return given


def _is_default(name: str, value: Any) -> bool:
    # not `==` alone: arrays answer it for each of their values
    return value is None or (isinstance(value, bool | int | float | str) and value == _DEFAULTS[name])
