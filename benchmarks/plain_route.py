"""The plain route from a Torch7 checkpoint to a .pth, for `conversion.py` to measure against: no checks, no hashes.

python benchmarks/plain_route.py FILE.t7 FILE.pth
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torchfile

NAMES = (b"weight", b"bias", b"running_mean", b"running_var")


def convert(path: str, destination: str) -> None:
    """Read with torchfile, collect the modules' tensors under their indices, and write them with torch.save."""
    state_dict: dict[str, torch.Tensor] = {}
    collect(torchfile.load(path), "", state_dict)
    torch.save(state_dict, destination)


def collect(value: Any, prefix: str, state_dict: dict[str, torch.Tensor]) -> None:
    """Add the tensors below `value`: a module, or a list or table of modules."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            collect(item, f"{prefix}{index}.", state_dict)
    elif isinstance(value, dict):
        for key, item in value.items():
            collect(item, f"{prefix}{key}.", state_dict)
    elif isinstance(value, torchfile.TorchObject):
        for name in NAMES:
            if (array := value._obj.get(name)) is not None:
                state_dict[prefix + name.decode()] = torch.from_numpy(array)
        collect(value._obj.get(b"modules"), prefix, state_dict)


if __name__ == "__main__":
    convert(*sys.argv[1:])
