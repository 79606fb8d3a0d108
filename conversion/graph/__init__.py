"""Any Torch7 graph as an nn.Module, literally. Knows nothing of ResNeXt."""

from .build import UnsupportedLayerError, modules_by_path, to_module

__all__ = ["UnsupportedLayerError", "modules_by_path", "to_module"]
