"""A folded network run by oneDNN Graph, which torch reaches through TorchScript: on x86, in float32 and bfloat16.

It takes convolution, residual sum and ReLU as one piece, packs the weights once, and keeps between calls what the
single operators of `onednn.py`, and those that Inductor calls, look up anew each time (20 to 30 us for each of 53).
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from resnext.inference.fold import FoldedResNeXt
from resnext.inference.huge_pages import huge_pages

_SETTING = threading.Lock()  # of two threads the second would find, and put back, what the first has switched on
WARM_UP = 3  # calls: TorchScript looks at the first and compiles in the second


class UnavailableError(RuntimeError):
    """This torch has no oneDNN Graph, or none for this type or processor."""


def build(network: FoldedResNeXt, piece: Tensor) -> Callable[[Tensor], Tensor]:
    """`network.forward` for images of the very shape, type and layout of `piece`; takes about a second.

    Raises UnavailableError.
    """
    with _fusing(), torch.no_grad(), huge_pages(heap=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript's of itself; there is no other way in
        function = torch.jit.freeze(torch.jit.trace(network, piece, check_trace=False))  # type: ignore[no-untyped-call]
        for _ in range(WARM_UP):
            function(piece)
        graph = str(torch._C._last_executed_optimized_graph())
    if "oneDNNFusionGroup" not in graph:
        raise UnavailableError(f"torch has no oneDNN Graph for {piece.dtype} on this processor")
    run: Callable[[Tensor], Tensor] = function.forward
    return run


@contextlib.contextmanager
def _fusing() -> Iterator[None]:
    """Switch on TorchScript's use of oneDNN Graph, a setting of the whole process, for as long as it compiles."""
    with _SETTING:
        try:
            before = torch._C._jit_llga_enabled()
            torch._C._jit_set_llga_enabled(True)
        except (AttributeError, RuntimeError) as error:
            raise UnavailableError(f"torch has no oneDNN Graph: {error}") from None
        try:
            yield
        finally:
            torch._C._jit_set_llga_enabled(before)
