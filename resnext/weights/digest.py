"""Moved to `resnext.weights.files`."""

from resnext.weights.files import tensor_digest

__all__ = ["tensor_digest"]
