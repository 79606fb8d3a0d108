"""What a hostile file can cost: depth, counts, memory, time."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conversion import t7
from conversion.t7 import reader
from tests.conversion.t7.t7_writer import NUMBER, TABLE, TORCH, AsciiWriter, Writer, read, refusal, write

ROOT = Path(__file__).parents[3]
W = Writer()


def nested(depth, kind="table"):
    """`depth` tables, objects or (functions in tables) one inside the other, inside the root."""
    data = W.nil
    for level in range(depth, 0, -1):
        if kind == "object":
            data = W.torch(2 * level, "nn.Sequential", W.table(2 * level + 1, data))
        elif kind == "function":
            data = W.table(level + 1, data) if level % 2 else W.function(level + 1, b"", data)
        else:
            data = W.table(level + 1, data)
    return W.table(1, data)


@pytest.mark.parametrize("kind", ["table", "object", "function"])
def test_200_levels_below_the_root_are_read(tmp_path, kind):
    value, depth = read(tmp_path, nested(199, kind)), 0
    while value is not None:
        value = value.upvalues if isinstance(value, t7.LuaFunction) else value.get(1)
        depth += 1
    assert depth == 200


@pytest.mark.parametrize("kind", ["table", "object", "function"])
@pytest.mark.parametrize("depth", [201, 5000])
def test_more_levels_are_refused(tmp_path, kind, depth):
    error = refusal(tmp_path, nested(depth, kind))
    assert error.cause == "nested more than 200 levels deep; ResNeXt-50 needs 22"
    assert error.object_path.startswith("[1][1][1]" if kind != "function" else "[1][1].<upvalues>[1].<up")


def test_the_recursion_limit_of_python_is_reported(tmp_path):
    path = write(tmp_path, nested(150))

    def at_depth(frames):
        return at_depth(frames - 1) if frames else t7.load(path)

    used = len(inspect.stack(0))
    with pytest.raises(t7.T7Error, match=r"nested too deep for Python's recursion limit, at depth \d+") as caught:
        at_depth(sys.getrecursionlimit() - used - 100)
    error = caught.value
    assert error.path == str(path)
    assert error.object_path.startswith("[1][1][1]")
    assert error.offset > 0


LIMITS = {
    "values": ("MAX_VALUES", 5, W.table(1, W.nil, W.nil), W.table(1, W.nil, W.nil, W.nil), "<key>"),
    "objects": ("MAX_OBJECTS", 2, W.table(1, W.table(2)), W.table(1, W.table(2), W.table(3)), "[2]"),
    "bytes of strings": ("MAX_STRING_BYTES", 5, W.table(1, a=W.string("1234")), W.table(1, a=W.string("12345")), "a"),
    "values, in shapes": (
        "MAX_VALUES",
        8,
        W.tensor(1, "Float", [1] * 3, [1] * 3, W.storage(2, "Float", [1])),
        W.tensor(1, "Float", [1] * 4, [1] * 4, W.storage(2, "Float", [1])),
        "<storage>",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_counts_are_limited(tmp_path, monkeypatch, name):
    constant, limit, sound, too_many, object_path = LIMITS[name]
    monkeypatch.setattr(reader, constant, limit)
    read(tmp_path, sound)
    error = refusal(tmp_path, too_many)
    assert error.cause.startswith(f"more than {limit} {name.partition(',')[0]}")
    assert error.object_path == object_path


def many_tables(path):
    """A million empty tables in one."""
    entry = np.dtype([("key", "<i4"), ("number", "<f8"), ("type", "<i4"), ("index", "<i4"), ("size", "<i4")])
    entries = np.zeros(1_000_000, entry)
    entries["key"], entries["number"] = NUMBER, np.arange(1, 1_000_001)
    entries["type"], entries["index"] = TABLE, np.arange(2, 1_000_002)
    path.write_bytes(W.ref(TABLE, 1) + W.int(1_000_000) + entries.tobytes())


def with_hole(data, size):
    def make(path):
        path.write_bytes(data)
        os.truncate(path, len(data) + size)

    return make


def storage_head(w, kind, count):
    return w.ref(TORCH, 1) + w.text("V 1") + w.text(f"torch.{kind}Storage") + w.long(count)


HOSTILE = {
    "many tables": (many_tables, "more than 250000 objects"),
    "a string of gigabytes": (with_hole(W.int(2) + W.int(2**31 - 1), 2**32), "more than 16777216 bytes of strings"),
    "a class name of many parts": (
        lambda path: path.write_bytes(W.torch(1, "a" + ".a" * (2**23 - 5), W.table(2))),
        "expected a class name",
    ),
    "one value of 300 MB in ascii": (
        with_hole(storage_head(AsciiWriter(), "Float", 1) + b"1", 300 * 10**6),
        "too long to be numbers",
    ),
    "more than there is memory for": (with_hole(storage_head(W, "Float", 2**32), 2**34), "do not fit in memory"),
    "300 MB in big-endian": (with_hole(storage_head(Writer(">"), "Float", 75 * 10**6), 300 * 10**6), "read"),
}

CHILD = """
import resource, sys, time
from conversion import t7
from conversion.t7 import reader

def megabytes(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith(name))

base = megabytes("VmHWM")
resource.setrlimit(resource.RLIMIT_AS, (int(megabytes("VmSize") + 2000) * 10**6,) * 2)
for path in sys.argv[1:]:
    start = time.perf_counter()
    try:
        value = t7.load(path)
        values = value.numpy()
        outcome = f"read {len(values)}"
    except t7.T7Error as error:
        outcome = str(error)[:300]
    print(time.perf_counter() - start, megabytes("VmHWM") - base, outcome)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_hostile_files_cost_little_memory_and_time(tmp_path):
    paths = []
    for index, (make, _) in enumerate(HOSTILE.values()):
        paths.append(tmp_path / f"{index}.t7")
        make(paths[-1])
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(HOSTILE)
    for line, (name, (_, expected)) in zip(lines, HOSTILE.items(), strict=True):
        seconds, megabytes, outcome = line.split(" ", 2)
        own = 300 if name == "300 MB in big-endian" else 0
        assert expected in outcome
        assert float(seconds) < 10, name
        assert float(megabytes) - own < 256, name
