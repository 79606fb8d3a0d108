"""Change a loaded Torch7 tree in place: what no genuine file holds, for tests of what is refused."""

import re

from conversion.t7 import Table, TorchObject


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
