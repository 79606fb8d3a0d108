"""What a Torch7 file holds, as Python objects (tables, torch objects, functions), and the error that names a place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conversion.t7.tensors import Source

_MISSING = object()


class T7Error(ValueError):
    """A Torch7 file that cannot be used.

    Attributes:
        path: the file.
        offset: byte offset of the item at fault, None where the fault has no single place.
        object_path: where in the object tree, e.g. `modules[5].modules[1].weight`; empty for the root.
        cause: what was expected and what came.
    """

    def __init__(self, cause: str, *, path: str = "", offset: int | None = None, object_path: str = "") -> None:
        self.path, self.offset, self.object_path, self.cause = path, offset, object_path, cause
        place = [path] if path else []
        place += [f"byte {offset}"] if offset is not None else []
        place += [object_path] if object_path else []
        super().__init__(": ".join([*place, cause]))


class MissingFieldError(T7Error, KeyError):
    """A look-up of a key or field that the object does not have."""

    __str__ = ValueError.__str__  # KeyError would show the repr of the message


class Role(str):
    """Where an object lies that is no field: a tensor's storage, a function's upvalues, a table key."""


def format_key(key: object) -> str:
    """A table key as it stands in an object path: `.name`, `[3]`, `[true]`, `["a b"]`."""
    if isinstance(key, Role):
        return f".<{key}>"
    if isinstance(key, str):
        shown = key if len(key) <= 64 else key[:61] + "..."
        if shown.isidentifier() and shown.isascii():
            return "." + shown
        return '["' + shown.encode("unicode_escape", "surrogatepass").decode("ascii").replace('"', '\\"') + '"]'
    if isinstance(key, bool):
        return "[true]" if key else "[false]"
    if isinstance(key, Node):  # its own path is left out: that can lead through more such keys, and theirs through more
        return f"[<{getattr(key, 'class_name', type(key).__name__)}>]"
    return f"[{key!r}]"


def join_path(keys: list[object]) -> str:
    """The object path of the keys from the root on, shortened where it would fill a screen."""
    path = "".join(map(format_key, keys)).removeprefix(".")
    return path if len(path) <= 400 else f"{path[:200]} ... {path[-200:]}"


class Node:
    """Anything that the file numbers: it knows its file and where in the object tree it first appeared."""

    __slots__ = ("_key", "_parent", "source")

    def __init__(self, source: Source, parent: Node | None, key: object) -> None:
        self.source, self._parent, self._key = source, parent, key

    @property
    def path(self) -> str:
        """Object path of the first appearance, as in Lua: `modules[5].weight`; empty for the root."""
        keys: list[object] = []
        node: Node | None = self
        while node is not None and node._parent is not None:
            keys.append(node._key)
            node = node._parent
        return join_path(keys[::-1])

    def error(self, cause: str) -> T7Error:
        """A T7Error that points at this object."""
        return T7Error(cause, path=self.source.path, object_path=self.path)


class _BoolKey:
    """Stands for a Lua boolean key, since `True == 1` in Python."""

    def __init__(self, value: bool) -> None:
        self.value = value


_TRUE, _FALSE = _BoolKey(True), _BoolKey(False)


class _Fields(Node, Mapping[Any, Any]):
    """A mapping with Lua's idea of keys, compared by identity as Lua does (so it can itself be a key)."""

    __slots__ = ("_items",)

    def __init__(self, source: Source, parent: Node | None, key: object) -> None:
        super().__init__(source, parent, key)
        self._items: dict[Any, Any] = {}

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

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Table(_Fields):
    """A Lua table: a mapping whose keys are str, int, float, bool or an object of this module.

    `True` and `1` are different keys. Absent keys raise `MissingFieldError` (a T7Error and a KeyError);
    `get` takes a default.
    """

    __slots__ = ()

    def as_list(self) -> list[Any]:
        """The values of keys 1 … n, in order. Raises T7Error where the keys are anything else."""
        values = [self._items.get(i, _MISSING) for i in range(1, len(self) + 1)]
        if any(value is _MISSING for value in values):
            raise self.error(f"expected a list (keys 1 to {len(self)}), got other keys")
        return values

    def __repr__(self) -> str:
        return f"<table of {len(self)} at {self.path or 'the root'}>"


class TorchObject(_Fields):
    """An object of a Torch7 class: `class_name`, `version`, and a mapping of its fields (also as `fields`).

    `preamble` is what a class writes ahead of its fields: the list of GPUs of an nn.DataParallelTable, else None.
    """

    __slots__ = ("class_name", "preamble", "version")

    def __init__(self, source: Source, parent: Node | None, key: object, class_name: str, version: int) -> None:
        super().__init__(source, parent, key)
        self.class_name, self.version, self.preamble = class_name, version, None

    @property
    def fields(self) -> Mapping[Any, Any]:
        return self

    def __repr__(self) -> str:
        return f"<{self.class_name} at {self.path or 'the root'}>"


class LuaFunction(Node):
    """A function: its byte code is not kept, its upvalues are."""

    __slots__ = ("size", "upvalues")

    def __init__(self, source: Source, parent: Node | None, key: object, size: int) -> None:
        super().__init__(source, parent, key)
        self.size = size
        self.upvalues: Table | None = None

    def __repr__(self) -> str:
        return f"<function of {self.size} bytes at {self.path or 'the root'}>"


def walk(root: Any, children: Callable[[Any], Iterable[Any]] = Mapping.values) -> Iterator[Table | TorchObject]:
    """Every table and object that can be reached from `root`, each once, in the order of the file."""
    seen: set[Any] = set()
    stack = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, (Table, TorchObject)) and value not in seen:
            seen.add(value)
            yield value
            stack += reversed(list(children(value)))
