"""Loaded Torch7 trees: changed in place, and written again in another guise (encoding, precision, layout)."""

import math
import re

import numpy as np

from conversion.t7 import Storage, Table, Tensor, TorchObject, walk
from tests.helpers.torch7_writer import TABLE, TORCH, Writer

# Of the sample: ConcatTable{branch, shortcut} of the first bottleneck
BLOCK = "modules[4].modules[1].modules[1]"
BRANCH = f"{BLOCK}.modules[1]"
SHORTCUT = f"{BLOCK}.modules[2]"
PARAMETERS = ("weight", "bias")


def find(root, path):
    """The object at an object path such as `modules[5].modules[1]`."""
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        root = root[name] if name else root[int(index)]
    return root


def put(obj, key, value):
    """Set a field."""
    obj._items[key] = value


def remove(obj, key):
    """Remove a field; of a list, the elements behind move up."""
    if isinstance(key, int):
        rest = obj.as_list()
        del rest[key - 1]
        obj._items.clear()
        obj._items.update(enumerate(rest, 1))
    else:
        del obj._items[key]


def append(table, value):
    """Add an element to a list."""
    put(table, len(table) + 1, value)


def make(like, class_name, **fields):
    """A new object of a class, in the file of another."""
    obj = TorchObject(like.source, None, None, class_name, 1)
    for key, value in fields.items():
        put(obj, key, value)
    return obj


def make_list(like, *values):
    """A new list, in the file of another."""
    table = Table(like.source, None, None)
    for value in values:
        append(table, value)
    return table


class Rewriter:
    """Writes the same network in another guise.

    `kind` is the precision of real tensors; `change(obj, fields)` may replace fields by other values or arrays.
    With `flat` all parameters become views of one storage, as `getParameters()` leaves them.
    """

    def __init__(self, writer=None, kind="Float", change=None, flat=False):
        self.writer, self.kind, self.change, self.flat = writer or Writer(), kind, change, flat
        self.indices = {}
        self.parameters, self.flat_index = [], None

    def dump(self, root):
        if self.flat:
            objects = [obj for obj in walk(root) if isinstance(obj, TorchObject)]
            self.parameters = [obj[name] for obj in objects for name in PARAMETERS if name in obj]
        return self.value(root)

    def index(self, obj=None):
        index = len(self.indices) + 1
        self.indices[obj if obj is not None else object()] = index
        return index

    def value(self, value):
        writer = self.writer
        if value is None:
            return writer.nil
        if isinstance(value, bool):
            return writer.boolean(int(value))
        if isinstance(value, (int, float)):
            return writer.number(value)
        if isinstance(value, str):
            return writer.string(value)
        if not isinstance(value, np.ndarray) and value in self.indices:
            return writer.ref(TABLE if isinstance(value, Table) else TORCH, self.indices[value])
        if isinstance(value, (np.ndarray, Tensor)):
            return self.tensor(value)
        if isinstance(value, Storage):
            return writer.storage(self.index(value), "Long", value.numpy())
        if isinstance(value, Table):
            return self.fields(self.index(value), value)
        index, version = self.index(value), value.version
        fields = dict(value)
        if self.change is not None:
            fields = self.change(value, fields)
            version = fields.pop("<version>", version)
        body = self.fields(self.index(), fields)
        return writer.torch(index, value.class_name, body, f"V {version}")

    def fields(self, index, mapping):
        return self.writer.fields(index, *((self.value(key), self.value(value)) for key, value in mapping.items()))

    def tensor(self, value):
        writer, index = self.writer, self.index(value if isinstance(value, Tensor) else None)
        array = value.numpy() if isinstance(value, Tensor) else value
        kind = self.kind
        if not array.size:
            return writer.torch(index, f"torch.{kind}Tensor", writer.geometry([], []) + writer.nil)
        strides = [math.prod(array.shape[i + 1 :]) for i in range(array.ndim)]
        if not any(value is parameter for parameter in self.parameters):
            storage = writer.storage(self.index(), kind, array.ravel())
            return writer.tensor(index, kind, array.shape, strides, storage)
        before = [p.numel for p in self.parameters[: [p is value for p in self.parameters].index(True)]]
        if self.flat_index is None:
            self.flat_index = self.index()
            everything = np.concatenate([p.numpy().ravel() for p in self.parameters])
            storage = writer.storage(self.flat_index, kind, everything)
        else:
            storage = writer.ref(TORCH, self.flat_index)
        return writer.tensor(index, kind, array.shape, strides, storage, offset=sum(before) + 1)
