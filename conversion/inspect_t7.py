"""Print the tree of a Torch7 file: classes, shapes, parameters. No values are read.

    python conversion/inspect_t7.py FILE

Exit status: 0 done, 2 the file cannot be read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from conversion.t7 import LuaFunction, Storage, T7Error, Table, Tensor, TorchObject, load, walk

PARAMETERS = ("weight", "bias")
# What a module keeps for training or from its last run; not part of what it computes.
SCRATCH = ("gradWeight", "gradBias", "gradInput", "output", "_type")


def lines(root: Any) -> Iterator[str]:
    """The tree, a line for each object. What appeared before is pointed to, not repeated."""
    seen: dict[Any, str] = {}
    stack: list[tuple[int, str, Any]] = [(0, "", root)]
    while stack:
        depth, label, value = stack.pop()
        indent = "  " * depth + (f"{label}: " if label else "")
        if not isinstance(value, (Table, TorchObject)):
            yield indent + _leaf(value)
            continue
        if value in seen:
            yield f"{indent}{_title(value)}, the same as {seen[value] or 'the root'}"
            continue
        seen[value] = value.path
        plain, nested = _sort(value)
        yield f"{indent}{_title(value)}{' ' + ', '.join(plain) if plain else ''}"
        stack += [(depth + 1, key, child) for key, child in reversed(nested)]


def count_parameters(root: Any) -> tuple[int, int]:
    """Modules that have a `weight` or `bias`, and the elements of these; each object once."""
    objects = [value for value in walk(root) if isinstance(value, TorchObject)]
    sizes = [sum(obj[name].numel for name in PARAMETERS if isinstance(obj.get(name), Tensor)) for obj in objects]
    return sum(map(bool, sizes)), sum(sizes)


def _sort(value: Table | TorchObject) -> tuple[list[str], list[tuple[str, Any]]]:
    """Fields short enough for the object's own line, and those that get lines of their own."""
    plain: list[str] = []
    nested: list[tuple[str, Any]] = []
    for key, child in value.items():
        name = str(key) if not isinstance(key, bool) else str(key).lower()
        if isinstance(value, TorchObject) and name in SCRATCH:
            continue
        if isinstance(child, (Table, TorchObject)):
            inner = name == "modules" and isinstance(value, TorchObject) and isinstance(child, Table)
            nested += [(str(k), v) for k, v in child.items()] if inner else [(name, child)]
        else:
            plain.append(f"{name}={_leaf(child)}")
    return plain, nested


def _title(value: Table | TorchObject) -> str:
    return value.class_name if isinstance(value, TorchObject) else f"table of {len(value)}"


def _leaf(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype}[{'x'.join(map(str, value.shape))}]"
    if isinstance(value, Storage):
        return f"{value.dtype}[{value.count}] (storage)"
    if isinstance(value, LuaFunction):
        return "function"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else value[:57] + "..."
        return ascii(shown)
    return (
        {None: "nil", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"inspect_t7: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a file that Torch7's torch.save wrote")
    path = parser.parse_args(arguments).file
    try:
        root = load(path)
    except T7Error as error:
        print(f"inspect_t7: {error}", file=sys.stderr)
        return 2
    try:
        for line in lines(root):
            print(line)
        modules, parameters = count_parameters(root)
        print(f"{os.path.basename(path)}: {modules} modules with parameters, {parameters:,} parameters", flush=True)
    except BrokenPipeError:  # piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the flush at exit fail
    except OSError as error:
        print(f"inspect_t7: cannot print: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
