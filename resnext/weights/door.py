"""The one way from this package to `conversion`, which turns Torch7 files into weights."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "conversion"
_NAME = "resnext._conversion"


def conversion(module: str) -> ModuleType:
    """A module of our own `conversion`, such as `conversion("t7")`.

    It is found by its place beside this package, and imported under a name that nobody else uses (its own modules
    import each other relatively). So sys.path makes no difference, nor does another module called `conversion`, be it
    the user's or another checkout's.

    Raises ImportError, whose `name` says what is missing.
    """
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(_NAME, FOLDER / "__init__.py")
        if not FOLDER.is_dir() or spec is None:
            raise ImportError(f"no folder {FOLDER}", name=str(FOLDER))
        sys.modules.setdefault(_NAME, importlib.util.module_from_spec(spec))
    return importlib.import_module(f"{_NAME}.{module}")
