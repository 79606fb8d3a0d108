"""Torch7 files (`torch.save` of Lua) to Python objects: torchfile's reader, hardened. Knows nothing of PyTorch.

    root = load("model.t7")
    root["modules"][1]["weight"].numpy()

nil becomes None, a boolean bool, a number int if it is whole and float if not, a string str (UTF-8 with
surrogateescape, since Lua strings are bytes), a table `Table`, an object `TorchObject`, a tensor `Tensor`, a storage
`Storage`, a function `LuaFunction`. Shared objects stay shared, and cycles are kept. The values of tensors are read
only on request.

Every bad input raises `T7Error`. torch7's File.lua and the `write` functions in its C code define the format.
"""

from __future__ import annotations

import math
import os
import re
import stat
from dataclasses import replace
from typing import Any, BinaryIO

import torchfile

from .objects import (
    MAX_NDIM,
    LuaFunction,
    Node,
    Role,
    Source,
    Storage,
    T7Error,
    Table,
    Tensor,
    TorchObject,
    format_key,
    join_path,
    tensor_dtype,
)
from .stream import AsciiPrimitives, BinaryPrimitives, detect_encoding

MAX_DEPTH = 200  # nested objects; ResNeXt-50 needs 22, and each level takes three or four of Python's 1,000 frames
# A damaged or hostile file may consist of very many tiny values. These limits bound the memory and the time for it. A
# ResNet of 1,000 layers needs less than a fifth of each.
MAX_VALUES = 1_000_000
MAX_OBJECTS = 250_000
MAX_STRING_BYTES = 16 * 2**20
MAX_CLASS_NAME = 200
MAX_NUMEL = 2**32  # only expanded views have more

_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_TENSOR = re.compile(r"torch\.(Cuda)?(Byte|Char|Short|Int|Long|Half|Float|Double)?(Tensor|Storage)")
_EXACT_INT = 2.0**53


def load(path: str | os.PathLike[str]) -> Any:
    """The root object of a Torch7 file: binary in either byte order, longs of 8 or 4 bytes, or ascii.

    If the file holds several objects in a row, the first. Raises T7Error, with path, byte offset, object path and
    cause, if the file cannot be read.
    """
    return load_with_notes(path)[0]


def load_with_notes(path: str | os.PathLike[str]) -> tuple[Any, list[str]]:
    """The root object as in `load`, and notes on what was left out, for people to read."""
    shown = os.fsdecode(path)
    try:
        if not stat.S_ISREG(os.stat(shown).st_mode):
            raise T7Error("expected a file, got a directory or a device", path=shown)
        with open(shown, "rb") as file:
            source = Source(shown, os.path.abspath(shown), Source.identify(os.fstat(file.fileno())))
            try:
                return _read(file, source), source.notes
            except T7Error as error:
                cause, offset, object_path = error.cause, error.offset, error.object_path
            # raised outside the handler: a chained error would keep everything that was read alive
            raise T7Error(cause, path=shown, offset=offset, object_path=object_path)
    except OSError as error:
        raise T7Error(f"cannot be read: {error.strerror or error}", path=shown) from None
    except T7Error:
        raise
    except ValueError as error:  # a NUL in the path
        raise T7Error(f"not a path: {error}", path=repr(shown)) from None


def _read(file: BinaryIO, source: Source) -> Any:
    encoding = detect_encoding(file.peek(64)[:64], source.size)  # type: ignore[attr-defined]
    if encoding == "ascii":
        return _AsciiReader(file, source.size).read_file(source)
    failures = []
    for long_size in (8, 4):  # the file does not say which
        file.seek(0)
        reader = _BinaryReader(file, source.size, encoding, long_size)
        try:
            root = reader.read_file(source)
        except T7Error as error:
            # a new error, since the traceback of this one keeps everything that was read alive
            again = T7Error(error.cause, offset=error.offset, object_path=error.object_path)
            failures.append((reader.position, again))
            if not reader.read_longs:
                break
        else:
            # Only one of the two fits a tensor. A file without tensors may also hold 8-byte longs and lack 4 bytes.
            if long_size == 8 or reader.tensors:
                return root
    raise max(failures, key=lambda failure: failure[0])[1]  # from the attempt that got further


class _ObjectReader(torchfile.T7Reader):
    """Reads objects, and checks every count, index and reference. An encoding provides the primitives."""

    item: int
    position: int

    def read_file(self, source: Source) -> Any:
        self.source = source
        self.objects: dict[int, tuple[int, Any]] = {}  # index -> type in the file, object
        self.values = self.string_bytes = self.tensors = 0
        source.viewed = source.expanded = 0
        root = self._read_root()
        if self.position != self.size:
            self.source = replace(source)  # with separate counts for what is left out
            self._check_further_roots()
        return root

    def _read_root(self) -> Any:
        self.trail: list[object] = []  # keys from the root to the object being read
        try:
            return self.read_obj(None, None)
        except T7Error as error:
            path = error.object_path or join_path(self.trail)
            raise T7Error(error.cause, offset=error.offset, object_path=path) from None
        except RecursionError:
            cause = f"nested too deep for Python's recursion limit, at depth {len(self.trail)}"
            raise T7Error(cause, offset=self.item, object_path=join_path(self.trail)) from None

    def _check_further_roots(self) -> None:
        """Check that only whole objects follow the root. Lua's torch.load ignores them.

        Their indices continue if `writeObject` was called again, and restart if files were joined. They count towards
        the same limits as the root.
        """
        end, size, causes = self.position, self.size - self.position, []
        for objects in (self.objects, {}):
            self.f.seek(end)
            self.position, self.objects = end, objects
            try:
                while self.position < self.size:
                    if self._read_root() is None:  # zero padding would look like this
                        raise self.fail("got nil")
            except T7Error as error:
                causes.append(error.cause)
            else:
                self.source.notes.append(
                    f"read only the first object, as Lua's torch.load does; left out {size} bytes of further objects"
                )
                return
        cause = f"{size} bytes are left after the root object; expected none, or whole objects: {causes[0]}"
        raise T7Error(cause, offset=end)

    def read_obj(self, parent: Node | None, key: object) -> Any:
        if parent is not None:
            self.trail.append(key)
        kind = self.read_int()
        self.values += 1
        if len(self.trail) > MAX_DEPTH:
            raise self.fail(f"nested more than {MAX_DEPTH} levels deep; ResNeXt-50 needs 22")
        if self.values > MAX_VALUES:
            raise self.fail(f"more than {MAX_VALUES} values; no model that this reader is meant for has so many")
        if kind == torchfile.TYPE_NUMBER:
            value = self.read_double()
            # whole numbers become int, except -0.0 and those that a double does not hold exactly
            if value.is_integer() and -_EXACT_INT < value < _EXACT_INT and (value or str(value) == "0.0"):
                value = int(value)
        elif kind == torchfile.TYPE_STRING:
            value = self.read_text("a string").decode("utf-8", "surrogateescape")
        elif kind == torchfile.TYPE_NIL:
            value = None
        elif kind == torchfile.TYPE_BOOLEAN:
            value = self.read_boolean()
        elif kind == torchfile.TYPE_FUNCTION:  # written before functions were numbered
            value = self._fill_function(LuaFunction(self.source, parent, key, self._function_size()))
        elif kind in _NUMBERED:
            value = self._numbered(kind, parent, key)
        else:
            raise self.fail(f"unknown type {kind}; expected 0 to 8")
        if parent is not None:
            self.trail.pop()
        return value

    def read_boolean(self) -> bool:
        value = self.read_int()
        if value not in (0, 1):
            raise self.fail(f"expected a boolean (0 or 1), got {value}")
        return value == 1

    def read_text(self, what: str) -> bytes:
        size = self.read_int()
        self.string_bytes += max(size, 0)
        if self.string_bytes > MAX_STRING_BYTES:
            self.need(size, what)
            raise self.fail(f"more than {MAX_STRING_BYTES} bytes of strings")
        text: bytes = self.read_chars(size, what)
        return text

    def _numbered(self, kind: int, parent: Node | None, key: object) -> Any:
        """An object that the file numbers: written in full where it first appears, as a reference after that."""
        index = self.read_int()
        if index in self.objects:
            known_kind, known = self.objects[index]
            if known_kind != kind:
                raise self.fail(f"object {index} is of type {known_kind}, referred to as type {kind}")
            return known
        if index != len(self.objects) + 1:
            raise self.fail(f"object index {index}; expected {len(self.objects) + 1} or one seen before")
        if index > MAX_OBJECTS:
            raise self.fail(f"more than {MAX_OBJECTS} objects; no model that this reader is meant for has so many")
        if kind == torchfile.TYPE_TABLE:
            table = Table(self.source, parent, key)
            self.objects[index] = kind, table
            self._fill(table)
            return table
        if kind != torchfile.TYPE_TORCH:
            function = LuaFunction(self.source, parent, key, self._function_size())
            self.objects[index] = kind, function
            return self._fill_function(function)
        return self._torch_object(index, parent, key)

    def _torch_object(self, index: int, parent: Node | None, key: object) -> Any:
        version, name = 0, self._ascii_name(self.read_text("a version"))
        if name.startswith("V "):
            if not name[2:].isdigit() or len(name) > 8:
                raise self.fail(f"expected a version such as 'V 1', got {name[:64]!r}")
            version, name = int(name[2:]), self._ascii_name(self.read_text("a class name"))
        if len(name) > MAX_CLASS_NAME or not _CLASS_NAME.fullmatch(name):
            raise self.fail(f"expected a class name such as nn.Linear, got {name[:64]!r}")
        if match := _TENSOR.fullmatch(name):
            if not (match[1] or match[2]):
                raise self.fail(f"{name} is not a class that is stored")
            if match[3] == "Storage":
                storage = self._read_storage(parent, key, name)
                self.objects[index] = torchfile.TYPE_TORCH, storage
                return storage
            tensor = Tensor(self.source, parent, key, name)
            self.objects[index] = torchfile.TYPE_TORCH, tensor
            self._fill_tensor(tensor)
            return tensor
        if name.startswith(("torch.", "tds.")):
            raise self.fail(f"{name} has its own format, which this reader does not know")
        obj = TorchObject(self.source, parent, key, name, version)
        self.objects[index] = torchfile.TYPE_TORCH, obj
        if name == "nn.DataParallelTable" and version >= 2:
            obj.preamble = self.read_obj(obj, Role("gpus"))
        if self.read_int() != torchfile.TYPE_TABLE:
            raise self.fail(f"expected the fields of {name} as a table")
        body = self.read_int()
        if body != len(self.objects) + 1:
            raise self.fail(f"expected the fields of {name} as a new table (index {len(self.objects) + 1}), got {body}")
        self.objects[body] = torchfile.TYPE_TABLE, obj  # only this object can refer to its body
        self._fill(obj)
        return obj

    def _read_storage(self, parent: Node | None, key: object, name: str) -> Storage:
        """Read the head of a storage and pass over its values."""
        count = self.read_long()
        if count < 0:
            raise self.fail(f"negative storage size {count}")
        dtype, offset = tensor_dtype(name), self.position
        self.skip_values(dtype, count)
        return Storage(self.source, parent, key, name, count, offset, self.layout)

    def _fill_tensor(self, tensor: Tensor) -> None:
        """Read the geometry of a tensor and its storage. Raises T7Error if an element lies outside the storage."""
        ndim = self.read_int()
        if not 0 <= ndim <= MAX_NDIM:
            raise self.fail(f"{ndim} dimensions; expected 0 to {MAX_NDIM}")
        self.tensors += 1
        self.values += 2 * ndim  # the numbers that are kept count against the limit
        shape, strides = self.read_long_array(ndim), self.read_long_array(ndim)
        offset = self.read_long()
        start = self.item
        storage = self.read_obj(tensor, Role("storage"))
        self.item = start  # errors in the geometry point at the offset
        expected = tensor.class_name.replace("Tensor", "Storage")
        if storage is not None and (not isinstance(storage, Storage) or storage.class_name != expected):
            found = repr(storage) if isinstance(storage, Node) else f"a value of type {type(storage).__name__}"
            raise self.fail(f"{tensor.class_name} over {found}; expected {expected}")
        if offset < 1:
            raise self.fail(f"storage offset {offset}; it counts from 1")
        if any(size < 0 for size in shape):
            raise self.fail(f"negative size in shape {shape}")
        if ndim and storage is None:
            raise self.fail(f"a tensor of shape {shape} without a storage")
        tensor.storage, tensor.offset = storage, offset - 1
        if storage is None or not ndim:  # Torch7's empty tensor
            return
        tensor.shape, tensor.strides = tuple(shape), tuple(strides)
        if math.prod(max(size, 1) for size in shape) > MAX_NUMEL:
            raise self.fail(f"a tensor of shape {shape}; expected at most {MAX_NUMEL} elements")
        first, last = tensor.extent()
        if tensor.numel and not 0 <= first <= last < storage.count:
            raise self.fail(
                f"shape {shape}, strides {strides}, offset {offset} reach elements {first + 1} to {last + 1} "
                f"of a storage of {storage.count}"
            )
        self.source.viewed += tensor.numel * tensor.dtype.itemsize
        self.source.expanded += tensor.expanded

    def _ascii_name(self, text: bytes) -> str:
        return text.decode("ascii", "backslashreplace")

    def _fill(self, fields: Table | TorchObject) -> None:
        size = self.read_int()
        if size < 0:
            raise self.fail(f"negative table size {size}")
        if size * self.min_entry_bytes > self.size - self.position:
            raise self.fail(f"a table of {size} entries; the {self.size - self.position} bytes left are too few")
        items = fields._items
        for _ in range(size):
            key = self.read_obj(fields, Role("key"))
            if key is None or key != key:
                raise self.fail("a table key is nil or NaN, which Lua does not allow")
            if key in fields:
                raise self.fail(f"the key {format_key(key).removeprefix('.')} appears twice in one table")
            value = self.read_obj(fields, key)
            if value is not None:  # assigning nil removes a key
                items[fields._hashed(key)] = value

    def _function_size(self) -> int:
        size = self.read_int()
        self.skip_chars(size, "the byte code of a function")
        return size

    def _fill_function(self, function: LuaFunction) -> LuaFunction:
        upvalues: Any = self.read_obj(function, Role("upvalues"))
        if not isinstance(upvalues, Table):
            raise self.fail("expected the upvalues of a function as a table")
        function.upvalues = upvalues
        return function


_NUMBERED = {
    torchfile.TYPE_TABLE,
    torchfile.TYPE_TORCH,
    torchfile.TYPE_RECUR_FUNCTION,
    torchfile.LEGACY_TYPE_RECUR_FUNCTION,
}


class _BinaryReader(_ObjectReader, BinaryPrimitives):
    pass


class _AsciiReader(_ObjectReader, AsciiPrimitives):
    pass
