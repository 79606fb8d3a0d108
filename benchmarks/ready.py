"""The two ways from a file with weights of resnext50_32x4d to a ready model, which `load.py` compares.

Imports nothing slow at the top, since `phases` measures from the start of the process.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def ours(path: str) -> nn.Module:
    """This project's way, as `pretrained=True` loads a file from its cache."""
    from resnext.weights.loading import load
    from resnext.zoo import get_architecture

    return load(path, get_architecture("resnext50_32x4d"), published=True)


def torchvision(path: str) -> nn.Module:
    """torchvision's usual way."""
    import torch
    from torchvision.models import resnext50_32x4d

    model: nn.Module = resnext50_32x4d()
    model.load_state_dict(torch.load(path))
    return model


WAYS: dict[str, Callable[[str], nn.Module]] = {"ours": ours, "torchvision": torchvision}


def import_package(name: str) -> None:
    """Import what `WAYS[name]` needs."""
    if name == "ours":
        importlib.import_module("resnext.zoo")
    else:  # by name, since tests/ is not type-checked
        importlib.import_module("tests.helpers.torchvision_shim").import_torchvision()


def phases(path: str, name: str, started: str) -> list[float]:
    """Seconds from `started`, a `time.time()`, until now, and then for torch, for the package and for the model."""
    times = [float(started), time.time()]
    importlib.import_module("torch")
    times.append(time.time())
    import_package(name)
    times.append(time.time())
    model = WAYS[name](path)
    times.append(time.time())
    assert model is not None  # so that freeing it is not measured
    return [after - before for before, after in itertools.pairwise(times)]
