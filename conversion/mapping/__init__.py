"""A Torch7 graph that is a ResNeXt to its architecture and state_dict, by structure."""

from .convert import Conversion, convert

__all__ = ["Conversion", "convert"]
