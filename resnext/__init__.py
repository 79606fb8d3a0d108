"""The original ResNeXt for PyTorch (Xie et al., arXiv 1611.05431). Building and loading a network needs torch only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnext import classes, explain, forms, preprocess
    from resnext.export.hub import from_pretrained, save_pretrained
    from resnext.export.save import save
    from resnext.inference import aoti
    from resnext.inference.optimize import optimize
    from resnext.model import ResNeXt
    from resnext.weights.files import WeightsError
    from resnext.zoo import create, from_checkpoint, list_models

__version__ = "0.1.0"
__all__ = [
    "ResNeXt",
    "WeightsError",
    "aoti",
    "classes",
    "create",
    "explain",
    "forms",
    "from_checkpoint",
    "from_pretrained",
    "list_models",
    "optimize",
    "preprocess",
    "save",
    "save_pretrained",
]

# The module of each public name. It is imported on first use, so that tools that need no network do not wait for torch,
# and users who only build a network do not wait for the compilers.
_HOME = {
    "ResNeXt": "model",
    "WeightsError": "weights.files",
    "aoti": "inference",
    "create": "zoo",
    "from_checkpoint": "zoo",
    "list_models": "zoo",
    "optimize": "inference.optimize",
    "from_pretrained": "export.hub",
    "save": "export.save",
    "save_pretrained": "export.hub",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'resnext' has no attribute {name!r}")
    if name not in _HOME:
        return importlib.import_module(f"resnext.{name}")
    home = importlib.import_module(f"resnext.{_HOME[name]}")
    value = getattr(home, name, None) or importlib.import_module(f"{home.__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
