"""Moved to `resnext.weights.files`."""

from resnext.weights.files import first_line

__all__ = ["first_line"]
