"""Storages and tensors of a Torch7 file: they know where their values lie and read them when asked.

Nothing is memory-mapped: a map of a file that is cut short meanwhile kills the process, and most arrays lie unaligned.
"""

from __future__ import annotations

import math
import os
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from conversion.t7.objects import Node, Role, T7Error

# A view with overlapping elements (stride 0 after `expand`) may ask for far more memory than the file holds.
MAX_EXPANDED_BYTES = 128 * 2**20
MAX_NUMEL = 2**32  # reached by expanded views alone; refused when met
MAX_NDIM = 64

_DTYPES = {
    "Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8", "Half": "f2", "Float": "f4", "Double": "f8",
}  # fmt: skip


def tensor_dtype(class_name: str) -> np.dtype[Any]:
    """numpy dtype of `torch.FloatTensor`, `torch.CudaStorage`, …; raises KeyError for any other class."""
    kind = class_name.removeprefix("torch.").removesuffix("Tensor").removesuffix("Storage")
    kind = "Float" if kind == "Cuda" else kind.removeprefix("Cuda")
    return np.dtype(_DTYPES[kind])


class Layout(Protocol):
    """How the values of a storage lie in the file."""

    def read(self, storage: Storage, start: int, count: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Source:
    """The file that values are read from later. A file that has changed since is refused."""

    path: str
    absolute: str
    identity: tuple[int, int, int]

    @property
    def size(self) -> int:
        return self.identity[0]

    @staticmethod
    def identify(status: os.stat_result) -> tuple[int, int, int]:
        return status.st_size, status.st_mtime_ns, status.st_ino

    def read(self, offset: int, buffer: np.ndarray) -> None:
        """Fill `buffer` with the bytes from `offset`. Raises T7Error if the file is gone or not the same any more."""
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


class Storage(Node):
    """A run of values in the file: (dtype, offset, count). Read when its values are asked for."""

    __slots__ = ("_alive", "class_name", "count", "dtype", "layout", "offset")

    def __init__(
        self, source: Source, parent: Node | None, key: object, class_name: str, count: int, offset: int, layout: Layout
    ) -> None:
        super().__init__(source, parent, key)
        self.class_name = class_name
        self.dtype = tensor_dtype(class_name)
        self.count, self.offset, self.layout = count, offset, layout
        self._alive: weakref.ref[np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count,)

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize

    def read(self, start: int, count: int) -> np.ndarray:
        """A new array of `count` values from `start`: aligned, native byte order, the caller's own.

        Raises T7Error if the file has changed, or if there is not the memory for the values.
        """
        try:
            return self.layout.read(self, start, count)
        except MemoryError:
            cause, offset = f"{count} values of type {self.dtype} do not fit in memory", self.offset
        except T7Error as error:
            cause, offset = error.cause, error.offset or self.offset
        raise T7Error(cause, path=self.source.path, offset=offset, object_path=self.path)

    def numpy(self) -> np.ndarray:
        """The values, shape (count,). Arrays taken from one storage share memory as long as one of them lives."""
        array = self._alive() if self._alive is not None else None
        if array is None:
            array = self.read(0, self.count)
            self._alive = weakref.ref(array)
        return array

    def __repr__(self) -> str:
        return f"<{self.class_name} of {self.count}>"


class Tensor(Node):
    """A tensor: a strided view of a storage. `shape`, `dtype`, `strides` and `offset` (in elements, offset from 0)."""

    __slots__ = ("class_name", "offset", "shape", "storage", "strides")

    def __init__(self, source: Source, parent: Node | None, key: object, class_name: str) -> None:
        super().__init__(source, parent, key)
        self.class_name = class_name
        self.shape: tuple[int, ...] = (0,)
        self.strides: tuple[int, ...] = (1,)
        self.offset = 0
        self.storage: Storage | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.storage.dtype if self.storage is not None else tensor_dtype(self.class_name)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def extent(self) -> tuple[int, int]:
        """First and last element in the storage; exact, in Python integers."""
        steps = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        return (self.offset + sum(s for s in steps if s < 0), self.offset + sum(s for s in steps if s > 0))

    def numpy(self) -> np.ndarray:
        """The values with this tensor's shape, writable. Tensors over one storage give arrays that share memory.

        Raises T7Error if the file has changed, or if an expanded view is too large to be worth copying.
        """
        storage = self._storage_to_read()
        if storage is None:
            return np.empty(self.shape, self.dtype)
        return self._view(storage.numpy(), 0)

    def copy(self) -> np.ndarray:
        """The values in a new C-contiguous array that shares with nothing; reads no more of the file than it covers."""
        storage = self._storage_to_read()
        if storage is None:
            return np.empty(self.shape, self.dtype)
        first, last = self.extent()
        return np.ascontiguousarray(self._view(storage.read(first, last - first + 1), first))

    def _storage_to_read(self) -> Storage | None:
        if self.storage is None or not self.numel:
            return None
        if self.numel * self.dtype.itemsize > max(self.storage.nbytes, MAX_EXPANDED_BYTES):
            raise self.error(
                f"expanded view of shape {self.shape} over {self.storage.count} stored values; "
                f"expected at most {MAX_EXPANDED_BYTES} bytes of expanded values"
            )
        return self.storage

    def _view(self, base: np.ndarray, start: int) -> np.ndarray:
        # the stride of a dimension of size 1 means nothing and may be any number
        strides = tuple(
            stride * base.itemsize if size > 1 else 0 for size, stride in zip(self.shape, self.strides, strict=True)
        )
        return as_strided(base[self.offset - start :], self.shape, strides)

    def __repr__(self) -> str:
        return f"<{self.class_name} {'x'.join(map(str, self.shape))}>"


def read_storage(reader: Any, parent: Node | None, key: object, name: str) -> Storage:
    """Read the head of a storage and pass over its values. `reader` is t7's reader in either encoding."""
    count = reader.read_long()
    if count < 0:
        raise reader.fail(f"negative storage size {count}")
    dtype, offset = tensor_dtype(name), reader.position
    reader.skip_values(dtype, count)
    return Storage(reader.source, parent, key, name, count, offset, reader.layout)


def fill_tensor(reader: Any, tensor: Tensor) -> None:
    """Read the geometry of a tensor and its storage; every element must lie inside that. Raises T7Error."""
    ndim = reader.read_int()
    if not 0 <= ndim <= MAX_NDIM:
        raise reader.fail(f"{ndim} dimensions; expected 0 to {MAX_NDIM}")
    reader.tensors += 1
    reader.values += 2 * ndim  # the numbers that are kept count against the reader's limit
    shape, strides = reader.read_long_array(ndim), reader.read_long_array(ndim)
    offset = reader.read_long()
    start = reader.item
    storage = reader.read_obj(tensor, Role("storage"))
    reader.item = start  # faults of the geometry are found here, at the offset's place
    expected = tensor.class_name.replace("Tensor", "Storage")
    if storage is not None and (not isinstance(storage, Storage) or storage.class_name != expected):
        found = repr(storage) if isinstance(storage, Node) else f"a value of type {type(storage).__name__}"
        raise reader.fail(f"{tensor.class_name} over {found}; expected {expected}")
    if offset < 1:
        raise reader.fail(f"storage offset {offset}; it counts from 1")
    if any(size < 0 for size in shape):
        raise reader.fail(f"negative size in shape {shape}")
    if ndim and storage is None:
        raise reader.fail(f"a tensor of shape {shape} without a storage")
    tensor.storage, tensor.offset = storage, offset - 1
    if storage is None or not ndim:  # Torch7's empty tensor
        return
    tensor.shape, tensor.strides = tuple(shape), tuple(strides)
    if math.prod(max(size, 1) for size in shape) > MAX_NUMEL:
        raise reader.fail(f"a tensor of shape {shape}; expected at most {MAX_NUMEL} elements")
    first, last = tensor.extent()
    if tensor.numel and not 0 <= first <= last < storage.count:
        raise reader.fail(
            f"shape {shape}, strides {strides}, offset {offset} reach elements {first + 1} to {last + 1} "
            f"of a storage of {storage.count}"
        )
