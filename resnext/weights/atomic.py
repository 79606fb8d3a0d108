"""Files that appear under their name whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A hidden name beside `path`, ending in `suffix`, to write to; on leaving, the file takes the place of `path`.

    Where an exception ends the block, the hidden file is deleted and what lay at `path` stays. Raises OSError.
    """
    temporary = path.with_name(f".writing-{secrets.token_hex(8)}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
