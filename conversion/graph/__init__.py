"""Any Torch7 graph as an nn.Module, literally. Knows nothing of ResNeXt."""

from conversion.graph.build import UnsupportedLayerError, modules_by_path, to_module

__all__ = ["UnsupportedLayerError", "modules_by_path", "to_module"]
