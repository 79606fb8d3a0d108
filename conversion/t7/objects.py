"""What a Torch7 file holds, as Python objects: tables, torch objects, functions, storages and tensors.

Each knows its place in the file, so that an error can name it. Storages and tensors read their values only on request.
Nothing is memory-mapped: the process would be killed if the file were cut short, and most arrays are unaligned.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

# Views may need far more memory than the file holds, if they are expanded (stride 0) or many cover the same storage.
# Both limits apply to all tensors of a file together. Flattened parameters are viewed two or three times. A network
# that was cloned for each step of a sequence views its parameters once for each step.
MAX_EXPANDED_BYTES = 128 * 2**20
MAX_VIEWS = 64  # times the size of the file
MAX_NDIM = 64

_MISSING: Any = object()
_DTYPES = {
    "Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8", "Half": "f2", "Float": "f4", "Double": "f8",
}  # fmt: skip


def tensor_dtype(class_name: str) -> np.dtype[Any]:
    """numpy dtype of `torch.FloatTensor`, `torch.CudaStorage`, …; raises KeyError for any other class."""
    kind = class_name.removeprefix("torch.").removesuffix("Tensor").removesuffix("Storage")
    kind = "Float" if kind == "Cuda" else kind.removeprefix("Cuda")
    return np.dtype(_DTYPES[kind])


class T7Error(ValueError):
    """A Torch7 file cannot be used.

    Attributes:
        path: the file.
        offset: byte offset of the item at fault, None if there is no single place.
        object_path: place in the object tree, such as `modules[5].modules[1].weight`; empty for the root.
        cause: what was expected, and what the file holds instead.
    """

    def __init__(self, cause: str, *, path: str = "", offset: int | None = None, object_path: str = "") -> None:
        self.path, self.offset, self.object_path, self.cause = path, offset, object_path, cause
        place = [path] if path else []
        place += [f"byte {offset}"] if offset is not None else []
        place += [object_path] if object_path else []
        super().__init__(": ".join([*place, cause]))


class MissingFieldError(T7Error, KeyError):
    """The object has no such key or field."""

    __str__ = ValueError.__str__  # KeyError would show the repr of the message


class Role(str):
    """A place in an object that is not a field: a tensor's storage, a function's upvalues, a table key."""


def format_key(key: object) -> str:
    """A table key as an object path shows it: `.name`, `[3]`, `[true]`, `["a b"]`."""
    if isinstance(key, Role):
        return f".<{key}>"
    if isinstance(key, str):
        shown = key if len(key) <= 64 else key[:61] + "..."
        if shown.isidentifier() and shown.isascii():
            return "." + shown
        return '["' + shown.encode("unicode_escape", "surrogatepass").decode("ascii").replace('"', '\\"') + '"]'
    if isinstance(key, bool):
        return "[true]" if key else "[false]"
    if isinstance(key, Node):  # without its path, which may contain further keys of this kind
        return f"[<{getattr(key, 'class_name', type(key).__name__)}>]"
    return f"[{key!r}]"


def join_path(keys: list[object]) -> str:
    """The object path for the keys from the root on, shortened if it is very long."""
    path = "".join(map(format_key, keys)).removeprefix(".")
    return path if len(path) <= 400 else f"{path[:200]} ... {path[-200:]}"


@dataclass
class Source:
    """The file that values are read from later. It is refused if it has changed since it was loaded.

    Attributes:
        path: the path that `load` was given.
        absolute: the same, independent of the working directory.
        identity: size, time of modification and inode at the time of loading.
        notes: what was left out of the result, for people to read.
        viewed: total bytes of all tensors in the file.
        expanded: bytes by which the tensors exceed the parts of the storages that they cover.
    """

    path: str
    absolute: str
    identity: tuple[int, int, int]
    notes: list[str] = field(default_factory=list)
    viewed: int = 0
    expanded: int = 0

    @property
    def size(self) -> int:
        return self.identity[0]

    @staticmethod
    def identify(status: os.stat_result) -> tuple[int, int, int]:
        return status.st_size, status.st_mtime_ns, status.st_ino

    def read(self, offset: int, buffer: np.ndarray) -> None:
        """Fill `buffer` with the bytes from `offset`. Raises T7Error if the file is gone or has changed."""
        try:
            with open(self.absolute, "rb", buffering=0) as file:
                unchanged = self.identify(os.fstat(file.fileno())) == self.identity
                view = memoryview(buffer.view(np.uint8).data)
                file.seek(offset)
                while unchanged and view:
                    count = file.readinto(view)
                    unchanged = bool(count)
                    view = view[count:]
        except OSError as error:
            raise T7Error(f"cannot be read any more: {error.strerror}", offset=offset) from error
        if not unchanged:
            raise T7Error("the file has changed since it was loaded; load it again", offset=offset)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """Anything that the file numbers: it knows its file, and the parent and key under which it first appeared."""

    source: Source
    parent: Node | None
    key: object

    @property
    def path(self) -> str:
        """Object path of the first appearance, as in Lua: `modules[5].weight`; empty for the root."""
        keys: list[object] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            keys.append(node.key)
            node = node.parent
        return join_path(keys[::-1])

    def error(self, cause: str) -> T7Error:
        """A T7Error that points at this object."""
        return T7Error(cause, path=self.source.path, object_path=self.path)


class _BoolKey:
    """Stands for a Lua boolean key, since `True == 1` in Python."""

    def __init__(self, value: bool) -> None:
        self.value = value


_TRUE, _FALSE = _BoolKey(True), _BoolKey(False)


@dataclass(eq=False, repr=False, slots=True)
class _Fields(Node, Mapping[Any, Any]):
    """A mapping with Lua's rules for keys. It is compared by identity, as in Lua, so it can itself be a key."""

    _items: dict[Any, Any] = field(default_factory=dict, init=False)

    @staticmethod
    def _hashed(key: Any) -> Any:
        return (_TRUE if key else _FALSE) if isinstance(key, bool) else key

    def __getitem__(self, key: Any) -> Any:
        value = self._items.get(self._hashed(key), _MISSING)
        if value is not _MISSING:
            return value
        known = ", ".join(format_key(k).removeprefix(".") for k, _ in zip(self, range(20), strict=False))
        cause = f"no field {format_key(key).removeprefix('.')} in {self!r}; it has: {known or 'nothing'}"
        raise MissingFieldError(cause, path=self.source.path, object_path=self.path)

    def get(self, key: Any, default: Any = None) -> Any:
        return self._items.get(self._hashed(key), default)

    def __contains__(self, key: Any) -> bool:
        return self._hashed(key) in self._items

    def __iter__(self) -> Iterator[Any]:
        return (key.value if isinstance(key, _BoolKey) else key for key in self._items)

    def __len__(self) -> int:
        return len(self._items)

    # Checked look-ups. Without a default, the field must be there. All raise a T7Error that says what was expected.

    def integer(self, name: str, default: int | None = None, *, minimum: int = -(2**31)) -> int:
        """A whole number from `minimum` to 2^31 - 1."""
        value = self[name] if default is None else self.get(name, default)
        if type(value) is not int or not minimum <= value < 2**31:
            least = f" from {minimum}" if minimum > -(2**31) else ""
            raise self._unexpected(f"a whole number{least}", name, value)
        return value

    def integers(self, names: str, default: int | None = None, *, minimum: int = -(2**31)) -> tuple[int, ...]:
        """Several whole numbers: `integers("kH kW")`."""
        return tuple(self.integer(name, default, minimum=minimum) for name in names.split())

    def number(self, name: str, default: float | None = None) -> float:
        """A number; infinity and NaN are numbers."""
        value = self[name] if default is None else self.get(name, default)
        if type(value) not in (int, float):
            raise self._unexpected("a number", name, value)
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """true or false."""
        value = self[name] if default is None else self.get(name, default)
        if not isinstance(value, bool):
            raise self._unexpected("true or false", name, value)
        return value

    def position(self, name: str, default: int | None = None) -> int:
        """An index, converted to Python's counting. Lua counts from 1, or backwards from -1."""
        value = self.integer(name, default)
        if value == 0:
            raise self._unexpected("an index counted from 1, or from -1 backwards,", name, value)
        return value - 1 if value > 0 else value

    def dimension(self, name: str = "dimension", default: int | None = None) -> int:
        """A dimension, converted to Python's counting. Lua counts from 1, or backwards from -1."""
        value = self.position(name, default)
        if not -MAX_NDIM <= value < MAX_NDIM:
            raise self._unexpected(f"a dimension from 1 to {MAX_NDIM}, or from -1 backwards,", name, self[name])
        return value

    def tensor(self, name: str, shape: Iterable[int] | None = None) -> Tensor:
        """A tensor of real numbers with as many elements as `shape`. The file may hold it flattened."""
        value = self[name]
        if not isinstance(value, Tensor) or value.dtype.kind != "f":
            raise self._unexpected("a tensor of real numbers", name, value)
        if shape is not None and value.numel != math.prod(shape := tuple(shape)):
            raise self.error(f"{name} has shape {value.shape}; expected {shape}")
        return value

    def sizes(self, name: str = "size") -> list[int]:
        """The values of a LongStorage, at most 64."""
        value = self[name]
        if not isinstance(value, Storage) or value.dtype.kind != "i":
            raise self._unexpected("a storage of whole numbers", name, value)
        if value.count > MAX_NDIM:
            raise self.error(f"{name} has {value.count} entries; expected at most {MAX_NDIM}")
        return [int(size) for size in value.numpy()]

    def objects(self, name: str = "modules") -> list[TorchObject]:
        """A list of objects, such as the modules of an nn.Sequential."""
        value = self[name]
        if not isinstance(value, Table):
            raise self._unexpected("a list", name, value)
        children = value.as_list()
        for index, child in enumerate(children, 1):
            if not isinstance(child, TorchObject):
                raise value.error(f"expected modules, got {_shown(child)} at [{index}]")
        return children

    def _unexpected(self, expected: str, name: str, value: Any) -> T7Error:
        return self.error(f"expected {expected} as {name}, got {_shown(value)}")

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Table(_Fields):
    """A Lua table: a mapping whose keys are str, int, float, bool or an object of this module.

    `True` and `1` are different keys. Absent keys raise `MissingFieldError` (a T7Error and a KeyError);
    `get` takes a default.
    """

    __slots__ = ()

    def as_list(self) -> list[Any]:
        """The values of keys 1 … n, in order. Raises T7Error if the keys are different."""
        values = [self._items.get(i, _MISSING) for i in range(1, len(self) + 1)]
        if any(value is _MISSING for value in values):
            raise self.error(f"expected a list (keys 1 to {len(self)}), got other keys")
        return values

    def __repr__(self) -> str:
        return f"<table of {len(self)} at {self.path or 'the root'}>"


@dataclass(eq=False, repr=False, slots=True)
class TorchObject(_Fields):
    """An object of a Torch7 class: a mapping of its fields, with `class_name` and `version`.

    `preamble` is what a class writes before its fields: the list of GPUs of an nn.DataParallelTable, else None.
    """

    class_name: str
    version: int
    preamble: Any = None

    def __repr__(self) -> str:
        return f"<{self.class_name} at {self.path or 'the root'}>"


@dataclass(eq=False, repr=False, slots=True)
class LuaFunction(Node):
    """A function: the size of its byte code, which is not kept, and its upvalues."""

    size: int
    upvalues: Table | None = None

    def __repr__(self) -> str:
        return f"<function of {self.size} bytes at {self.path or 'the root'}>"


class Layout(Protocol):
    """How the values of a storage lie in the file."""

    def read(self, storage: Storage, start: int, count: int) -> np.ndarray: ...


@dataclass(eq=False, repr=False, slots=True)
class Storage(Node):
    """A run of `count` values in the file, from byte `offset` on. They are read only on request."""

    class_name: str
    count: int
    offset: int
    layout: Layout
    _alive: weakref.ref[np.ndarray] | None = field(default=None, init=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        return tensor_dtype(self.class_name)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count,)

    def read(self, start: int, count: int) -> np.ndarray:
        """A new array of `count` values from `start`, aligned and in native byte order.

        Raises T7Error if the file has changed, or if the values do not fit in memory.
        """
        try:
            return self.layout.read(self, start, count)
        except MemoryError:
            cause, offset = f"{count} values of type {self.dtype} do not fit in memory", self.offset
        except T7Error as error:
            cause, offset = error.cause, error.offset or self.offset
        raise T7Error(cause, path=self.source.path, offset=offset, object_path=self.path)

    def numpy(self) -> np.ndarray:
        """The values, shape (count,). Arrays taken from one storage share memory as long as one of them is alive."""
        array = self._alive() if self._alive is not None else None
        if array is None:
            array = self.read(0, self.count)
            self._alive = weakref.ref(array)
        return array

    def __repr__(self) -> str:
        return f"<{self.class_name} of {self.count}>"


@dataclass(eq=False, repr=False, slots=True)
class Tensor(Node):
    """A tensor: a strided view of a storage. `strides` and `offset` count elements; the offset counts from 0."""

    class_name: str
    shape: tuple[int, ...] = (0,)
    strides: tuple[int, ...] = (1,)
    offset: int = 0
    storage: Storage | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return tensor_dtype(self.class_name)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def extent(self) -> tuple[int, int]:
        """First and last element in the storage; exact, in Python integers."""
        steps = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        return (self.offset + sum(s for s in steps if s < 0), self.offset + sum(s for s in steps if s > 0))

    @property
    def expanded(self) -> int:
        """Bytes by which the tensor exceeds the part of the storage that it covers."""
        first, last = self.extent()
        return max(self.numel - (last - first + 1), 0) * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """The values with this tensor's shape, writable. Tensors over one storage give arrays that share memory.

        Raises T7Error if the file has changed, or if all its views together are too large.
        """
        storage = self._storage_to_read()
        if storage is None:
            return np.empty(self.shape, self.dtype)
        return self._view(storage.numpy(), 0)

    def copy(self) -> np.ndarray:
        """The values in a C-contiguous array of their own. Reads only the part of the file that the tensor covers.

        Raises as `numpy` does.
        """
        storage = self._storage_to_read()
        if storage is None:
            return np.empty(self.shape, self.dtype)
        first, last = self.extent()
        return np.ascontiguousarray(self._view(storage.read(first, last - first + 1), first))

    def _storage_to_read(self) -> Storage | None:
        if self.storage is None or not self.numel:
            return None
        source = self.source
        if self.expanded and source.expanded > MAX_EXPANDED_BYTES:
            raise self.error(
                f"expanded view of shape {self.shape} over {self.storage.count} stored values; expected at most "
                f"{MAX_EXPANDED_BYTES} bytes of expanded values in a file, got {source.expanded}"
            )
        if source.viewed > MAX_VIEWS * source.size + MAX_EXPANDED_BYTES:
            raise self.error(
                f"views of the same values: all tensors of the file would take {source.viewed} bytes; expected at most "
                f"{MAX_VIEWS} times its size"
            )
        return self.storage

    def _view(self, base: np.ndarray, start: int) -> np.ndarray:
        # the stride of a dimension of size 1 may be any number
        strides = tuple(
            stride * base.itemsize if size > 1 else 0 for size, stride in zip(self.shape, self.strides, strict=True)
        )
        return as_strided(base[self.offset - start :], self.shape, strides)

    def __repr__(self) -> str:
        return f"<{self.class_name} {'x'.join(map(str, self.shape))}>"


def walk(root: Any, children: Callable[[Any], Iterable[Any]] = Mapping.values) -> Iterator[Table | TorchObject]:
    """Every table and object reachable from `root`, each once, in the order of the file."""
    seen: set[Any] = set()
    stack = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, (Table, TorchObject)) and value not in seen:
            seen.add(value)
            yield value
            stack += reversed(list(children(value)))
