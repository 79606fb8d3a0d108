"""The two encodings of a Torch7 stream, binary and ascii, as torchfile's reader needs them. Every read is checked."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torchfile

from .objects import Storage, T7Error

_CHUNK = 2**20

# What people pass by mistake, by its first bytes. A genuine file starts differently: with an int32 from 0 to 8, a type.
_FOREIGN = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"PK\x03\x04", "a zip archive (PyTorch's .pth files are zip archives)"),
    (b"\x80\x02", "a Python pickle (an old PyTorch .pth file?)"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x1f\x8b", "a gzip archive; unpack it first (gunzip)"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it first (xz -d)"),
    (b"BZh", "a bzip2 archive; unpack it first (bunzip2)"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first (zstd -d)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself (git lfs pull)"),
    (b"<", "an HTML or XML page (a failed download?)"),
    (b"{", "a JSON text"),
)


def detect_encoding(head: bytes, size: int) -> str:
    """ "<" (little-endian), ">" (big-endian) or "ascii", from the first bytes. Raises T7Error for any other file."""
    if size == 0:
        raise T7Error("not a Torch7 file: it is empty", offset=0)
    if len(head) >= 2 and head[:1] in b"012345678" and head[1:2] in b"\r\n":
        return "ascii"
    if len(head) >= 4:
        for order in "<>":
            if 0 <= struct.unpack(order + "i", head[:4])[0] <= 8:
                return order
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    looks = next((name for magic, name in _FOREIGN if head.startswith(magic) or text.startswith(magic)), None)
    if looks is None and head[8:9] == b"{":
        looks = "a safetensors file"
    raise T7Error(f"not a Torch7 file: looks like {looks or 'nothing known'}, starts with {head[:8]!r}", offset=0)


@dataclass(frozen=True)
class BinaryLayout:
    """The values of a storage in binary: either byte order, longs of 8 or 4 bytes."""

    order: str
    long_size: int

    def stored(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype in the file for `dtype` in memory."""
        name = f"i{self.long_size}" if dtype == np.int64 else dtype.str[1:]
        return np.dtype(self.order + name)

    def read(self, storage: Storage, start: int, count: int) -> np.ndarray:
        stored, array = self.stored(storage.dtype), np.empty(count, storage.dtype)
        if stored == array.dtype:
            storage.source.read(storage.offset + start * stored.itemsize, array)
            return array
        for first in range(0, count, _CHUNK):  # in parts, since a copy of the whole would double the memory
            part = np.empty(min(_CHUNK, count - first), stored)
            storage.source.read(storage.offset + (start + first) * stored.itemsize, part)
            array[first : first + len(part)] = part
        return array


class AsciiLayout:
    """The values of a storage as words on one line; bytes and chars unchanged."""

    def read(self, storage: Storage, start: int, count: int) -> np.ndarray:
        array = np.empty(count, storage.dtype)
        if storage.dtype.itemsize == 1:
            storage.source.read(storage.offset + start, array)
            return array
        offset, left, tail, index = storage.offset, storage.source.size - storage.offset, b"", 0
        while index < start + count:
            chunk = np.empty(min(_CHUNK, left), np.uint8)
            storage.source.read(offset, chunk)
            text, newline, _ = chunk.tobytes().partition(b"\n")
            offset, left = offset + len(chunk), left - len(chunk)
            text = tail + text
            if b"_" in text:  # Python would take 1_0 for 10
                raise T7Error("a value is not a number")
            words = text.split(b" ")
            tail = b"" if newline else words.pop()
            values = self._parse(words, storage.dtype)
            keep = values[max(start - index, 0) : start + count - index]
            array[max(index - start, 0) :][: len(keep)] = keep
            index += len(values)
        return array

    @staticmethod
    def _parse(words: list[bytes], dtype: np.dtype[Any]) -> np.ndarray:
        kind = float if dtype.kind == "f" else int
        try:
            with np.errstate(over="raise"):
                return np.array([kind(word) for word in words], dtype)
        except (ValueError, OverflowError, FloatingPointError):
            raise T7Error(f"a value is not a number of type {dtype}") from None


class _Primitives(torchfile.T7Reader):
    """Position and checks that both encodings share. `item` is the offset of the item being read, for messages."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, use_list_heuristic=False)
        self.size, self.position, self.item = size, 0, 0

    def fail(self, cause: str) -> T7Error:
        return T7Error(cause, offset=self.item)

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes, all of them."""
        self.need(count, what)
        data = self.f.read(count)
        self.position += len(data)
        if len(data) != count:
            raise self.fail("the file was cut short while it was read")
        return data

    def need(self, count: int, what: str) -> None:
        if count < 0:
            raise self.fail(f"negative length {count} of {what}")
        if count > self.size - self.position:
            raise self.fail(f"truncated or damaged: {what} needs {count} bytes, {self.size - self.position} are left")

    def skip(self, count: int, what: str) -> None:
        self.need(count, what)
        self.f.seek(count, 1)
        self.position += count


class BinaryPrimitives(_Primitives):
    """Numbers in the format of the machine that wrote the file: either byte order, `long` of 8 or 4 bytes."""

    min_entry_bytes = 12  # a table entry: a key (type, and 4 bytes at least) and a value (type at least)

    def __init__(self, file: BinaryIO, size: int, order: str, long_size: int) -> None:
        super().__init__(file, size)
        self.order, self.long_size = order, long_size
        self.layout = BinaryLayout(order, long_size)
        self.read_longs = False  # whether the size of a long has mattered so far
        self._int = struct.Struct(order + "i").unpack
        self._double = struct.Struct(order + "d").unpack

    def read_int(self) -> int:
        self.item = self.position
        return self._int(self.take(4, "an int"))[0]

    def read_double(self) -> float:
        self.item = self.position
        return self._double(self.take(8, "a number"))[0]

    def read_long(self) -> int:
        return self.read_long_array(1)[0]

    def read_long_array(self, n: int) -> list[int]:
        self.item, self.read_longs = self.position, True
        data = self.take(n * self.long_size, "a list of longs" if n != 1 else "a long")
        return list(struct.unpack(f"{self.order}{n}{'q' if self.long_size == 8 else 'i'}", data))

    def read_chars(self, n: int, what: str) -> bytes:
        return self.take(n, what)

    def skip_chars(self, n: int, what: str) -> None:
        self.skip(n, what)

    def skip_values(self, dtype: np.dtype[Any], n: int) -> None:
        """Pass over the body of a storage."""
        self.skip(n * self.layout.stored(dtype).itemsize, f"a storage of {n} values")


class AsciiPrimitives(_Primitives):
    """`file:ascii()`: a line for each number or list of numbers, strings unchanged; each ends with a newline."""

    min_entry_bytes = 6  # "5\n1\n0\n"

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, size)
        self.layout = AsciiLayout()

    def _line(self, limit: int, what: str) -> bytes:
        self.item = self.position
        line = self.f.readline(limit)
        self.position += len(line)
        if not line.endswith(b"\n"):
            raise self.fail(f"truncated or damaged: expected {what} and a newline, got {line[:40]!r}")
        return bytes(line)

    def _number(self, kind: type, line: bytes, what: str) -> Any:
        try:
            if b"_" not in line:  # Python would take 1_0 for 10
                return kind(line)
        except ValueError:
            pass
        raise self.fail(f"expected {what}, got {line[:40]!r}")

    def read_int(self) -> int:
        value: int = self._number(int, self._line(32, "an int"), "an int")
        return value

    read_long = read_int

    def read_double(self) -> float:
        value: float = self._number(float, self._line(64, "a number"), "a number")
        return value

    def read_long_array(self, n: int) -> list[int]:
        if n == 0:  # then there is not even a newline
            return []
        words = self._line(n * 24 + 2, f"{n} longs").split()
        if len(words) != n:
            raise self.fail(f"expected {n} longs, got {len(words)}")
        return [self._number(int, word, "a long") for word in words]

    def read_chars(self, n: int, what: str) -> bytes:
        data = self.take(n, what)
        self._newline(n, what)
        return data

    def skip_chars(self, n: int, what: str) -> None:
        self.skip(n, what)
        self._newline(n, what)

    def _newline(self, n: int, what: str) -> None:
        if n and self.take(1, "a newline") != b"\n":
            raise self.fail(f"expected a newline after {what}")

    def skip_values(self, dtype: np.dtype[Any], n: int) -> None:
        if dtype.itemsize == 1:
            self.skip_chars(n, f"a storage of {n} values")
            return
        self.need(2 * n if n > 0 else n, f"a storage of {n} values")
        words = 1
        while n:
            chunk = self.f.readline(_CHUNK)
            self.position += len(chunk)
            spaces = chunk.count(b" ")
            words += spaces
            if chunk.endswith(b"\n"):
                break
            if len(chunk) < _CHUNK:
                raise self.fail("truncated: the values of the storage do not end in a newline")
            if spaces * 32 < len(chunk):  # a number takes 25 bytes at most
                raise self.fail("the values of the storage are too long to be numbers")
        if n and words != n:
            raise self.fail(f"a storage of {n} values holds {words}")
