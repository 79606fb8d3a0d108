"""The text that convert_graph.py writes: calls, definitions and imports, in a formatter's layout."""

from __future__ import annotations

import ast
import inspect
import re
import symtable
import sys
from typing import Any

from torch import nn

from .. import graph

WIDTH = 120


def constructor(module: nn.Module) -> str:
    """The call that creates a module like this one: its repr without arguments that have their default value.

    The repr of PyTorch's modules names every option, including some that older releases do not know.
    """
    call = ast.parse(repr(module), mode="eval").body
    if not isinstance(call, ast.Call):
        raise TypeError(f"expected a call as the repr of a module, got {module!r}")
    defaults = inspect.signature(type(module)).parameters
    call.keywords = [
        keyword for keyword in call.keywords if keyword.arg and _literal(keyword.value) != defaults[keyword.arg].default
    ]
    text = ast.unparse(_NotFinite().visit(call)).replace("'", '"')
    return text if is_ours(type(module)) else f"nn.{text}"


class _NotFinite(ast.NodeTransformer):
    """Replaces inf and nan, which Python prints but cannot read."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse(f'float("{node.id}")', mode="eval").body if node.id in ("inf", "nan") else node


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:  # inf
        return node


def is_ours(value: Any) -> bool:
    """Whether a class or function belongs to `conversion.graph`, so that its code must be copied."""
    return str(getattr(value, "__module__", "")).startswith(graph.__name__)


def fit(start: str, call: str) -> list[str]:
    """`start` and a call or list as lines of at most WIDTH, broken as a formatter breaks them."""
    if len(start + call) <= WIDTH:
        return [start + call]
    indent = " " * (len(start) - len(start.lstrip()))
    opening = min(call.find(bracket) for bracket in "([" if bracket in call) + 1
    arguments, end = call[opening:-1], indent + call[-1]
    if len(indent) + 4 + len(arguments) <= WIDTH:
        return [start + call[:opening], f"{indent}    {arguments}", end]
    lines = [start + call[:opening]]
    for argument in _split(arguments):
        if len(indent) + 5 + len(argument) <= WIDTH:
            lines.append(f"{indent}    {argument},")
        else:  # a list of many variables
            items = (f"{indent}        {item}," for item in _split(argument[1:-1]))
            lines += [f"{indent}    [", *items, f"{indent}    ],"]
    return [*lines, end]


def _split(arguments: str) -> list[str]:
    """The arguments, split at commas outside brackets."""
    parts, depth = [""], 0
    for char in arguments:
        depth += (char in "([") - (char in ")]")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def definitions(objects: set[Any]) -> list[str]:
    """Definitions of the classes and functions that are ours, each after the ones that it uses."""
    found: dict[str, str] = {}

    def add(value: Any) -> None:
        name = value.__name__
        if name in found or not is_ours(value):
            return
        lines = inspect.getsource(value).splitlines()
        while lines[0].startswith("@"):
            del lines[0]
        text, home = "\n".join(lines), vars(sys.modules[value.__module__])
        for other in sorted(_globals(symtable.symtable(text, name, "exec")) & home.keys()):
            if other != name and callable(home[other]):
                add(home[other])
        found[name] = text

    for value in sorted(objects, key=lambda value: value.__name__):
        add(value)
    return list(found.values())


def _globals(table: symtable.SymbolTable) -> set[str]:
    """The global names in the code."""
    names = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return names.union(*map(_globals, table.get_children()))


def imports(body: str) -> str:
    """The imports that the rest of a module needs."""
    lines = ["from __future__ import annotations", ""]
    standard = [f"import {name}" for name in ("inspect", "math") if re.search(rf"\b{name}\.", body)]
    standard += ["from typing import Any"] if re.search(r"\bAny\b", body) else []
    lines += [*standard, ""] if standard else []
    lines += ["import torch"] if re.search(r"\btorch\.", body) else []
    lines += ["import torch.nn.functional as F"] if re.search(r"\bF\.", body) else []
    return "\n".join([*lines, "from torch import Tensor, nn"])
