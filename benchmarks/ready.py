"""A file with the weights of a resnext50_32x4d to a ready model, in the two ways that `load.py` compares.

    python benchmarks/ready.py FILE.pth ours|torchvision TIME

Prints, as JSON, the seconds since TIME (of `time.time()`) until this script, and those for torch, for the package and
for the model. Imports as little as it can.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    begun = time.time()
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import nn


def ours(path: str) -> nn.Module:
    """This project's way."""
    import resnext

    return resnext.create("resnext50_32x4d_typeC", weights=path)


def torchvision(path: str) -> nn.Module:
    """torchvision's usual way."""
    from torchvision.models import resnext50_32x4d

    model: nn.Module = resnext50_32x4d()
    model.load_state_dict(torch.load(path))
    return model


def import_package(name: str) -> None:
    """Import what `WAYS[name]` needs."""
    if name == "ours":
        importlib.import_module("resnext")
    else:  # by name, for tests/ is not type-checked
        importlib.import_module("tests.torchvision_shim").import_torchvision()


WAYS: dict[str, Callable[[str], nn.Module]] = {"ours": ours, "torchvision": torchvision}


if __name__ == "__main__":
    path, name, started = sys.argv[1:]
    times = [float(started), begun, time.time()]
    import_package(name)
    times.append(time.time())
    model = WAYS[name](path)
    times.append(time.time())
    print(json.dumps([after - before for before, after in itertools.pairwise(times)]))
