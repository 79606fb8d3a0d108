"""What errors of others say, for messages of one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of its message; the name of its class where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
