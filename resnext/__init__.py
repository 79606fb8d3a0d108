"""The original ResNeXt for PyTorch (Xie et al., arXiv 1611.05431). Needs torch alone to build and load a model."""

from resnext.checkpoint import WeightsError
from resnext.inference import optimize
from resnext.model import ResNeXt
from resnext.zoo import create, from_checkpoint, list_models

__version__ = "0.1.0"
__all__ = ["ResNeXt", "WeightsError", "create", "from_checkpoint", "list_models", "optimize"]
