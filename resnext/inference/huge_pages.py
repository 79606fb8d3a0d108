"""Huge pages for weights that stay: every image reads them all, and 4 KiB at a time costs translations (Linux only)."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterator

HUGE = 2 * 2**20  # bytes
LEAST = 8 * 2**20  # a region of fewer bytes is not worth the call
MOST = 2**30  # a larger one is mostly others' memory, and a gigabyte takes two seconds
COLLAPSE = 25  # MADV_COLLAPSE, from Linux 6.1; Python has no name for it
HEAP = "[heap]"  # what is freed in it is used again, so what is new may lie anywhere in it


@contextlib.contextmanager
def huge_pages(heap: bool = False) -> Iterator[None]:
    """Put new regions of memory into huge pages on leaving, and on request the heap; do nothing where that cannot be.

    It is advice to the system: no value changes. Regions of less than 8 MiB or more than 1 GiB are left alone.
    """
    before = {(first, last) for first, last, _ in _regions()}
    yield
    if not before:
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for first, last, name in _regions():
        new = all(last <= start or end <= first for start, end in before)
        first, last = -(-first // HUGE) * HUGE, last // HUGE * HUGE
        if (new or (heap and name == HEAP)) and LEAST <= last - first <= MOST:
            advise(first, last - first, COLLAPSE)


def _regions() -> list[tuple[int, int, str]]:
    """First address, end and name ("" or "[heap]") of each writeable region of memory without a file.

    No region at all where Linux does not say.
    """
    if sys.platform != "linux" or mmap.PAGESIZE >= HUGE:
        return []
    result = []
    try:
        with open("/proc/self/maps") as lines:
            for line in lines:
                addresses, access, _, _, _, *names = line.split()
                if access.startswith("rw") and names in ([], [HEAP]):
                    first, last = addresses.split("-")
                    result.append((int(first, 16), int(last, 16), "".join(names)))
    except OSError:
        return []
    return result
