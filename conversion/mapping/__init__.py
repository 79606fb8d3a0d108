"""A Torch7 network that is a ResNeXt to its architecture and state_dict, by what it computes."""

from .convert import Conversion, convert

__all__ = ["Conversion", "convert"]
