"""The digest of tensors: what weights are, whatever file they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor


def tensor_digest(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tensors themselves, whatever they are stored in and whichever torch wrote it.

    For each name in sorted order: the name in UTF-8, dtype (`float32`), shape (`64x3x7x7`, empty for a scalar), each
    followed by a zero byte, and the values as little-endian bytes in row-major order.
    """
    import numpy as np

    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}\0{array.dtype.name}\0{'x'.join(map(str, array.shape))}\0".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
