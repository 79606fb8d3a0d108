"""Advice to the system on memory that is new; no other memory is touched."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

from resnext.inference import huge_pages


@pytest.mark.parametrize("heap", [False, True])
def test_huge_pages_for_large_new_regions_and_the_heap(monkeypatch, heap):
    megabyte = 2**20
    lists = iter(
        [
            [(0, 64 * megabyte, ""), (200 * megabyte, 300 * megabyte, ""), (400 * megabyte, 420 * megabyte, "[heap]")],
            [
                (0, 96 * megabyte, ""),  # has grown: others' memory in it
                (99 * megabyte, 120 * megabyte, ""),  # new, its first page is not huge
                (130 * megabyte, 137 * megabyte, ""),  # new, small
                (200 * megabyte, 300 * megabyte, ""),  # old
                (400 * megabyte, 430 * megabyte, "[heap]"),
                (1000 * megabyte, 2100 * megabyte, ""),  # new, but large
            ],
        ]
    )
    advised = []
    monkeypatch.setattr(huge_pages, "_regions", lambda: next(lists))
    monkeypatch.setattr(
        ctypes, "CDLL", lambda _: SimpleNamespace(madvise=lambda *arguments: advised.append(arguments) or -1)
    )
    with huge_pages.huge_pages(heap):
        assert not advised
    assert advised == [(100 * megabyte, 20 * megabyte, 25), (400 * megabyte, 30 * megabyte, 25)][: 1 + heap]


def test_regions_of_this_process():
    if not huge_pages._regions():
        pytest.skip("the system does not list the regions of memory")
    with huge_pages.huge_pages():
        held = torch.full((2**26,), 7, dtype=torch.uint8)  # bytes; more than malloc keeps in its heap
    address = held.data_ptr()
    assert any(first <= address and address + 2**26 <= last for first, last, _ in huge_pages._regions())
    assert (held == 7).all()
