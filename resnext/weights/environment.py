"""The settings that users make through environment variables. No other module reads `RESNEXT_*`."""

from __future__ import annotations

import os

_TRUE = ("1", "true", "yes", "on")
_MAX_MEGABYTES = 4000  # six times the largest file that the authors published


def offline() -> bool:
    """`RESNEXT_OFFLINE`: nothing may be downloaded."""
    return _is_set("RESNEXT_OFFLINE")


def keep_t7() -> bool:
    """`RESNEXT_KEEP_T7`: the authors' Torch7 file stays in the cache after it has been converted."""
    return _is_set("RESNEXT_KEEP_T7")


def mirrors() -> list[str]:
    """`RESNEXT_MIRROR`: base URLs, separated by commas, that are tried before the published URLs."""
    return [base.strip() for base in os.environ.get("RESNEXT_MIRROR", "").split(",") if base.strip()]


def max_download() -> int:
    """`RESNEXT_MAX_DOWNLOAD`, in megabytes: the most bytes that a file of unknown size may have.

    Raises ValueError for anything but a number.
    """
    value = os.environ.get("RESNEXT_MAX_DOWNLOAD", "").strip() or str(_MAX_MEGABYTES)
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError(f"RESNEXT_MAX_DOWNLOAD={value}: expected a number of megabytes, e.g. {_MAX_MEGABYTES}")
    return int(value) * 10**6


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in _TRUE
