"""The text of what convert_graph.py writes: calls, definitions and imports, as a formatter would leave them."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from types import ModuleType
from typing import Any

from torch import nn

from conversion.graph import modules, modules_pooling, modules_shape, modules_tables

WIDTH = 120
COPIED = (modules, modules_shape, modules_pooling, modules_tables)


def constructor(module: nn.Module) -> str:
    """The call that makes a module like this one: its repr without what is the default anyway.

    PyTorch's own repr names every option, some of them unknown to older releases.
    """
    call = ast.parse(repr(module), mode="eval").body
    if not isinstance(call, ast.Call):
        raise TypeError(f"the repr of a module is no call: {module!r}")
    defaults = inspect.signature(type(module)).parameters
    call.keywords = [
        keyword for keyword in call.keywords if keyword.arg and _literal(keyword.value) != defaults[keyword.arg].default
    ]
    text = ast.unparse(call).replace("'", '"')
    return text if sys.modules[type(module).__module__] in COPIED else f"nn.{text}"


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:  # float("inf")
        return node


def fit(start: str, call: str) -> list[str]:
    """`start` and a call as lines of at most WIDTH, broken as a formatter would break them."""
    if len(start + call) <= WIDTH:
        return [start + call]
    indent = " " * (len(start) - len(start.lstrip()))
    head, arguments = call[: call.index("(") + 1], call[call.index("(") + 1 : -1]
    if len(indent) + 4 + len(arguments) <= WIDTH:
        return [start + head, f"{indent}    {arguments}", f"{indent})"]
    lines = [start + head]
    for argument in _split(arguments):
        if len(indent) + 5 + len(argument) <= WIDTH:
            lines.append(f"{indent}    {argument},")
        else:  # a list of many variables
            lines += [
                f"{indent}    [",
                *(f"{indent}        {item}," for item in _split(argument[1:-1])),
                f"{indent}    ],",
            ]
    return [*lines, f"{indent})"]


def _split(arguments: str) -> list[str]:
    """Arguments at their commas, but for those inside brackets."""
    parts, depth = [""], 0
    for char in arguments:
        depth += (char in "([") - (char in ")]")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def definitions(objects: set[Any]) -> list[str]:
    """Source of the classes and functions that are not PyTorch's, and of those that they use, in our files' order."""
    home: dict[str, tuple[ModuleType, Any]] = {}
    for module in COPIED:
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__:
                home[name] = module, value
    wanted: dict[str, str] = {}
    todo = [value.__name__ for value in objects if sys.modules[value.__module__] in COPIED]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted[name] = _cleaned(inspect.getsource(home[name][1]), name)
            todo += [other for other in set(re.findall(r"\w+", wanted[name])) if other in home]
    return [wanted[name] for name in home if name in wanted]


def _cleaned(source: str, name: str) -> str:
    """A definition without remarks to linters, and with lists of tensors where the written forward has no others."""
    source = re.sub(r"  # (type: ignore|noqa).*", "", source).rstrip()
    if name in ("MixtureTable", "as_tensor", "as_list"):
        return source
    source = source.replace("        x = as_list(x)\n", "")
    source = re.sub(r"as_tensor\(([\w\[\]]+)\)", r"\1", source.replace("list[Any]", "list[Tensor]"))
    return source.replace("[value for value in x]", "x")


def imports(body: str) -> str:
    """The imports that the rest of a module needs."""
    lines = ["from __future__ import annotations", ""]
    standard = ["import math"] if "math." in body else []
    standard += ["from typing import Any"] if re.search(r"\bAny\b", body) else []
    lines += [*standard, ""] if standard else []
    lines += ["import torch"] if re.search(r"\btorch\.", body) else []
    lines += ["import torch.nn.functional as F"] if re.search(r"\bF\.", body) else []
    return "\n".join([*lines, "from torch import Tensor, nn"])
