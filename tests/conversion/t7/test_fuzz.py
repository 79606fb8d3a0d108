"""Genuine files, damaged at random: read or refused with T7Error, and nothing else."""

import random
import struct
from collections.abc import Mapping

import numpy as np
import pytest

from conversion import t7
from tests.helpers.recorded import FIXTURES
from tests.helpers.torch7_writer import write

VARIANTS = sorted((FIXTURES / "variants").glob("*.t7"))
EXTREMES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, -1, -2, 2**31 - 1, -(2**31), 2**32, 2**40, 2**63 - 1, -(2**63)]


def flip(random, data):
    for _ in range(random.choice((1, 1, 2, 5))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def overwrite(random, data):
    """An int32 or int64, at any place or an aligned one, becomes an extreme."""
    value, size, order = random.choice(EXTREMES), random.choice((4, 8)), random.choice("<<<>")
    packed = struct.pack(order + "q", value)
    place = random.randrange(len(data))
    data[place : place + size] = packed[:size] if order == "<" else packed[-size:]


def change_byte(random, data):
    data[random.randrange(len(data))] = random.choice((0, 1, 2, 3, 4, 5, 6, 8, 10, 32, 45, 57, 127, 128, 255))


def truncate(random, data):
    del data[random.randrange(len(data)) :]


def insert(random, data):
    place = random.randrange(len(data) + 1)
    data[place:place] = random.choice((b"\0", b"\0\0\0\0", b" ", b"\n", b"9", random.randbytes(8)))


def remove(random, data):
    place = random.randrange(len(data))
    del data[place : place + random.choice((1, 4, 8, 20))]


def repeat(random, data):
    """A stretch of the file overwrites another."""
    start, place, size = random.randrange(len(data)), random.randrange(len(data)), random.choice((4, 8, 12, 40))
    data[place : place + size] = data[start : start + size]


MUTATIONS = (flip, overwrite, change_byte, truncate, insert, remove, repeat)


def mutate(random, data):
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if data:
            random.choice(MUTATIONS)(random, data)
    return bytes(data)


def use(root):
    """Do with a tree all that can be done with it; the number of arrays that were read."""
    seen, stack, arrays = set(), [root], 0
    while stack:
        value = stack.pop()
        if not hasattr(value, "source") or value in seen:
            continue
        seen.add(value)
        assert isinstance(repr(value) + value.path, str)
        if isinstance(value, Mapping):
            stack += [*value, *value.values(), getattr(value, "preamble", None)]
            assert all(value[key] is value.get(key) for key in value)
        elif isinstance(value, t7.LuaFunction):
            stack.append(value.upvalues)
        else:
            try:
                check(value)
            except t7.T7Error:
                continue
            arrays += 1
            stack.append(getattr(value, "storage", None))
    return arrays


def check(value):
    """The arrays of a tensor or storage."""
    array = value.numpy()
    assert (array.shape, array.dtype) == (value.shape, value.dtype)
    assert array.flags.aligned
    assert array.flags.writeable
    if isinstance(value, t7.Tensor):
        copy = value.copy()
        assert copy.flags.c_contiguous
        assert (copy.shape, copy.dtype) == (value.shape, value.dtype)
        if copy.nbytes < 2**20:  # an expanded view may be of 128 MB
            assert np.array_equal(copy, array, equal_nan=True)
    array.fill(1)


def outcome(path):
    """What becomes of a file: "read", "empty" (read, but without arrays) or "refused". Anything else raises."""
    try:
        root = t7.load(path)
    except t7.T7Error as refused:
        error = refused
    else:
        return "read" if use(root) else "empty"
    assert error.path == str(path)
    assert error.offset is not None
    assert 0 <= error.offset <= path.stat().st_size
    assert len(str(error)) < 5000
    return "refused"


@pytest.mark.filterwarnings("error")
def test_a_damaged_file_is_read_or_refused(tmp_path):
    outcomes = {"read": 0, "empty": 0, "refused": 0}
    for source in VARIANTS:
        seeded, data = random.Random(f"7 {source.stem}"), source.read_bytes()
        for _ in range(40):
            path = write(tmp_path, mutate(seeded, data))  # stays there if this fails
            outcomes[outcome(path)] += 1
    assert outcomes["refused"] > 400, outcomes  # so that this is known to try something
    assert outcomes["read"] > 20, outcomes
