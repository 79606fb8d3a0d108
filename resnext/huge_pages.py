"""Huge pages for weights that stay: every image reads them all, and 4 KiB at a time costs translations (Linux only)."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterator

HUGE = 2 * 2**20  # bytes
LEAST = 8 * 2**20  # a region of fewer bytes is not worth the call
COLLAPSE = 25  # MADV_COLLAPSE, from Linux 6.1; Python has no name for it


@contextlib.contextmanager
def huge_pages() -> Iterator[None]:
    """Put regions of 8 MiB and more that are new on leaving into huge pages; do nothing where that cannot be.

    It is advice to the system: no value changes, and other memory is left alone.
    """
    before = _regions()
    yield
    if not before:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for first, last in _regions():
        new = all(last <= start or end <= first for start, end in before)
        first, last = -(-first // HUGE) * HUGE, last // HUGE * HUGE
        if new and last - first >= LEAST:
            advise(first, last - first, COLLAPSE)


def _regions() -> list[tuple[int, int]]:
    """First address and end of each writeable region of memory without a file; none where Linux does not say."""
    if sys.platform != "linux" or mmap.PAGESIZE >= HUGE:
        return []
    result = []
    try:
        with open("/proc/self/maps") as lines:
            for line in lines:
                addresses, access, _, _, _, *name = line.split()
                if access.startswith("rw") and not name:
                    first, last = addresses.split("-")
                    result.append((int(first, 16), int(last, 16)))
    except OSError:
        return []
    return result
