"""Where weights come from: records, cache, download, and reading files safely."""

from __future__ import annotations

_LONGEST = 2000  # characters of a message: a name in a damaged file can be as long as the file


def printable(text: str) -> str:
    """Text for one line of a terminal: what does not print is escaped, the length limited."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: _LONGEST + 1])
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
