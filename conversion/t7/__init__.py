"""Torch7 files (`torch.save` of Lua) to Python objects: bytes to objects. Knows nothing of torch."""

from .objects import LuaFunction, MissingFieldError, Storage, T7Error, Table, Tensor, TorchObject, walk
from .reader import load, load_with_notes

__all__ = [
    "LuaFunction",
    "MissingFieldError",
    "Storage",
    "T7Error",
    "Table",
    "Tensor",
    "TorchObject",
    "load",
    "load_with_notes",
    "walk",
]
