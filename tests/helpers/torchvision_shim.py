"""torchvision for tests and benchmarks, also on a build of torch that its compiled part does not fit.

There it stops at import with `operator torchvision::nms does not exist`. Models and transforms are pure Python, and two
schema definitions are enough for them.
"""

import torch

_library = None


def import_torchvision():
    """The torchvision package, importable."""
    global _library
    try:
        import torchvision
    except RuntimeError:
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision
