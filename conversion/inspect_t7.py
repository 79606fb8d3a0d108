"""Print the tree of a Torch7 file: classes, shapes, parameters. The values are not read.

    python conversion/inspect_t7.py FILE

Exit status: 0 done, 2 the file cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from resnext.cli.command_line import Parser, fail, one_line, run

try:
    from conversion.t7 import LuaFunction, Storage, Table, Tensor, TorchObject, load_with_notes, walk
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.exit(fail("inspect_t7", f"{error}; install what is missing with pip"))

PARAMETERS = ("weight", "bias")
# Fields that a module keeps for training or from its last run; they do not affect what it computes.
SCRATCH = ("gradWeight", "gradBias", "gradInput", "output", "_type")


def lines(root: Any) -> Iterator[str]:
    """The tree, one line for each object. An object that has appeared before becomes a reference."""
    seen: dict[Any, str] = {}  # to the place where it first appeared, once that is needed
    stack: list[tuple[int, str, Any]] = [(0, "", root)]
    while stack:
        depth, label, value = stack.pop()
        text = f"{label}: " if label else ""
        if not isinstance(value, (Table, TorchObject)):
            text += _leaf(value)
        elif value in seen:
            seen[value] = seen[value] or value.path or "the root"
            text += f"{_title(value)}, the same as {seen[value]}"
        else:
            seen[value] = ""
            plain, nested = _sort(value)
            text += " ".join([_title(value), ", ".join(plain)])
            stack += [(depth + 1, key, child) for key, child in reversed(nested)]
        yield "  " * depth + one_line(text)


def count_parameters(root: Any) -> tuple[int, int]:
    """The number of modules with a `weight` or `bias`, and of elements in these. Each object counts once."""
    objects = [value for value in walk(root) if isinstance(value, TorchObject)]
    sizes = [sum(obj[name].numel for name in PARAMETERS if isinstance(obj.get(name), Tensor)) for obj in objects]
    return sum(map(bool, sizes)), sum(sizes)


def _sort(value: Table | TorchObject) -> tuple[list[str], list[tuple[str, Any]]]:
    """Fields that are short enough for the object's own line, and fields that get separate lines."""
    plain: list[str] = []
    nested: list[tuple[str, Any]] = []
    for key, child in value.items():
        name = _name(key)
        if isinstance(value, TorchObject) and name in SCRATCH:
            continue
        if isinstance(child, (Table, TorchObject)):
            inner = name == "modules" and isinstance(value, TorchObject) and isinstance(child, Table)
            nested += [(_name(k), v) for k, v in child.items()] if inner else [(name, child)]
        else:
            plain.append(f"{name}={_leaf(child)}")
    return plain, nested


def _name(key: Any) -> str:
    return key if isinstance(key, str) else f"<{_title(key)}>" if isinstance(key, (Table, TorchObject)) else _leaf(key)


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
    if value is None or isinstance(value, bool):
        return {None: "nil", True: "true", False: "false"}[value]
    return str(value)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser("inspect_t7", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a file that Torch7's torch.save wrote")
    path = parser.parse_args(arguments).file
    return run("inspect_t7", lambda: _print_tree(path))


def _print_tree(path: Path) -> int:
    root, notes = load_with_notes(path)
    for line in lines(root):
        print(line)
    for note in notes:
        print(f"note: {note}")
    modules, parameters = count_parameters(root)
    print(f"{one_line(path.name)}: {modules} modules with parameters, {parameters:,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
