"""Torch7's stream as literal bytes, item by item: what a test puts in the file is what it says, sound or not.

    w = Writer()
    data = w.table(1, (w.string("a"), w.number(1)), (w.string("me"), w.table(1)))

Objects carry the index that the test gives them; without a body (no entries, `None`) an item is a reference.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion import t7

NIL, NUMBER, STRING, TABLE, TORCH, BOOLEAN, OLD_FUNCTION, LEGACY_FUNCTION, FUNCTION = range(9)

DTYPES = {
    "Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8", "Half": "f2", "Float": "f4", "Double": "f8",
}  # fmt: skip


class Writer:
    """Binary. `order` is "<" or ">", `long_size` 8 or 4."""

    def __init__(self, order: str = "<", long_size: int = 8) -> None:
        self.order, self.long_size = order, long_size

    # what torch.DiskFile writes

    def int(self, *values: int) -> bytes:
        return struct.pack(f"{self.order}{len(values)}i", *values)

    def long(self, *values: int) -> bytes:
        return struct.pack(f"{self.order}{len(values)}{'q' if self.long_size == 8 else 'i'}", *values)

    def double(self, value: float) -> bytes:
        return struct.pack(f"{self.order}d", value)

    def chars(self, text: bytes) -> bytes:
        return text

    def array(self, kind: str, values: Any) -> bytes:
        """The values of a storage; `kind` is Float, Long, … A long is as long as the writing machine's."""
        dtype = f"i{self.long_size}" if kind == "Long" else DTYPES[kind]
        return np.asarray(values).astype(self.order + dtype).tobytes()

    # what File.lua writes

    def text(self, text: str | bytes) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        return self.int(len(data)) + self.chars(data)

    @property
    def nil(self) -> bytes:
        return self.int(NIL)

    def number(self, value: float) -> bytes:
        return self.int(NUMBER) + self.double(value)

    def string(self, text: str | bytes) -> bytes:
        return self.int(STRING) + self.text(text)

    def boolean(self, value: int) -> bytes:
        return self.int(BOOLEAN) + self.int(value)

    def ref(self, kind: int, index: int) -> bytes:
        return self.int(kind) + self.int(index)

    def fields(self, index: int, *entries: tuple[bytes, bytes], size: int | None = None) -> bytes:
        """A table; `size` is what it claims to hold, if that is not the truth."""
        count = len(entries) if size is None else size
        return self.ref(TABLE, index) + self.int(count) + b"".join(key + value for key, value in entries)

    def table(self, index: int, *values: bytes, **named: bytes) -> bytes:
        """A table of a list part and named fields."""
        numbered = [(self.number(i), value) for i, value in enumerate(values, 1)]
        return self.fields(index, *numbered, *((self.string(name), value) for name, value in named.items()))

    def torch(self, index: int, class_name: str, body: bytes, version: str | None = "V 1") -> bytes:
        head = self.text(version) if version is not None else b""
        return self.ref(TORCH, index) + head + self.text(class_name) + body

    def object(self, index: int, class_name: str, **named: bytes) -> bytes:
        """An object of a class that is one table, which takes the next index."""
        return self.torch(index, class_name, self.table(index + 1, **named))

    def storage(self, index: int, kind: str, values: Any, *, size: int | None = None, cuda: str = "") -> bytes:
        count = len(values) if size is None else size
        name = f"torch.{cuda}{'' if cuda and kind == 'Float' else kind}Storage"
        return self.torch(index, name, self.long(count) + self.array(kind, values))

    def geometry(self, shape: Any, strides: Any, offset: int = 1, *, ndim: int | None = None) -> bytes:
        lists = self.long(*shape) + self.long(*strides) if shape else b""
        return self.int(len(shape) if ndim is None else ndim) + lists + self.long(offset)

    def tensor(
        self, index: int, kind: str, shape: Any, strides: Any, storage: bytes, *, offset: int = 1, cuda: str = ""
    ) -> bytes:
        name = f"torch.{cuda}{'' if cuda and kind == 'Float' else kind}Tensor"
        return self.torch(index, name, self.geometry(shape, strides, offset) + storage)

    def vector(self, index: int, kind: str, values: Any, *, cuda: str = "") -> bytes:
        """A tensor with all of a storage of its own, which takes the next index."""
        storage = self.storage(index + 1, kind, values, cuda=cuda)
        return self.tensor(index, kind, [len(values)], [1], storage, cuda=cuda)

    def function(self, index: int, code: bytes, upvalues: bytes, *, kind: int = FUNCTION) -> bytes:
        """Type 6 carries no index."""
        head = self.int(kind) if kind == OLD_FUNCTION else self.ref(kind, index)
        return head + self.text(code) + upvalues


class AsciiWriter(Writer):
    """`file:ascii()`: a line for each number or list of them; bytes as they are, and a newline if there are any."""

    def int(self, *values: int) -> bytes:
        return b" ".join(b"%d" % value for value in values) + b"\n" if values else b""

    long = int

    def double(self, value: float) -> bytes:
        return b"%.17g\n" % value

    def chars(self, text: bytes) -> bytes:
        return text + b"\n" if text else b""

    def array(self, kind: str, values: Any) -> bytes:
        array = np.asarray(values).astype(DTYPES[kind])
        if array.itemsize == 1:
            return self.chars(array.tobytes())
        form = b"%.17g" if kind == "Double" else b"%.9g" if array.dtype.kind == "f" else b"%d"
        return b" ".join(form % value for value in array.tolist()) + b"\n" if array.size else b""


ENCODINGS = {
    "little": Writer(),
    "big": Writer(">"),
    "little_4": Writer("<", 4),
    "big_4": Writer(">", 4),
    "ascii": AsciiWriter(),
}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "file.t7"
    path.write_bytes(data)
    return path


def read(folder: Path, data: bytes) -> Any:
    return t7.load(write(folder, data))


def refusal(folder: Path, data: bytes) -> t7.T7Error:
    """The error that `data` is refused with; that it names the file and the place is checked here, for all tests."""
    path = write(folder, data)
    with pytest.raises(t7.T7Error) as caught:
        t7.load(path)
    error = caught.value
    assert error.path == str(path)
    assert error.offset is not None
    assert 0 <= error.offset <= len(data)
    place = f"{path}: byte {error.offset}: " + (f"{error.object_path}: " if error.object_path else "")
    assert str(error) == place + error.cause
    return error
