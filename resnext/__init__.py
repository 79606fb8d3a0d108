"""The original ResNeXt for PyTorch (Xie et al., arXiv 1611.05431). Needs torch alone to build and load a model."""

import importlib
from types import ModuleType

from resnext import forms
from resnext.inference.optimize import optimize
from resnext.model import ResNeXt
from resnext.weights.files import WeightsError
from resnext.zoo import create, from_checkpoint, list_models

__version__ = "0.1.0"
__all__ = ["ResNeXt", "WeightsError", "create", "forms", "from_checkpoint", "list_models", "optimize"]

_ON_DEMAND = ("classes", "explain", "preprocess")  # modules that `import resnext` need not wait for


def __getattr__(name: str) -> ModuleType:
    if name == "aoti":
        return importlib.import_module("resnext.inference.aoti")
    if name in _ON_DEMAND:
        return importlib.import_module(f"resnext.{name}")
    raise AttributeError(f"module 'resnext' has no attribute {name!r}")
