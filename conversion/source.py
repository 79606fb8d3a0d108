"""A literal graph as Python source: one class with named submodules and a forward without loops.

The graph is walked as it is run on an example, so that each line can say the shape of what it makes. Containers become
code; layers become submodules, created by the call that is their `repr`; the classes that PyTorch does not have are
copied into the file.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from conversion import modules, modules_pooling, modules_shape, modules_tables
from conversion.containers import Concat, ConcatTable, DenseConnectLayer, DepthConcat, Parallel, ParallelTable

WIDTH = 120
COPIED = (modules, modules_shape, modules_pooling, modules_tables)

# What a submodule is called, where its class in lower case would say less.
PREFIXES = {"Linear": "fc", "CAddTable": "add", "JoinTable": "join", "ConvTranspose2d": "upconv", "PReLU": "prelu"}
VARIABLES = ("x", "y", "z", "u", "v", "w", *(f"x{i}" for i in range(1, 1000)))


@dataclass(frozen=True)
class Variable:
    """A tensor, and the expression for it in the forward that is being written."""

    text: str
    tensor: Tensor

    @property
    def name(self) -> str:
        return self.text.partition("[")[0]


Value = Any  # a Variable, or a list of Values


def generate(root: nn.Module, class_name: str, example: Tensor, origin: str) -> tuple[str, dict[str, Tensor]]:
    """Source of a class that computes what `root` does, and its state_dict.

    `origin` says in the docstring where the network is from. Raises RuntimeError where `root` does not take `example`.
    """
    writer = _ForwardWriter()
    with torch.no_grad():
        out = writer.run(root, Variable("x", example.clone()), frozenset())
    state = {
        f"{name}.{key}": value.detach().clone()
        for module, name in writer.names.items()
        for key, value in module.state_dict().items()
    }
    returned = "Tensor" if isinstance(out, Variable) else "list[Tensor]" if _flat(out) else "Any"
    lines = [f"class {class_name}(nn.Module):"]
    lines += [f'    """{origin}"""', "", "    def __init__(self) -> None:", "        super().__init__()"]
    for module, name in writer.names.items():
        lines += _fit(f"        self.{name} = ", constructor(module))
    lines += ["", f"    def forward(self, x: Tensor) -> {returned}:"]
    lines += [f"        # x: {_shape(example)}", *writer.lines, f"        return {_text(out)}"]
    copied = _definitions({type(module) for module in writer.names} | writer.functions)
    body = "\n\n\n".join([*copied, "\n".join(lines)])
    return f"{_imports(body)}\n\n\n{body}\n", state


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


class _ForwardWriter:
    """Runs a graph and writes down what it does, a line each.

    A variable may be overwritten as soon as no later line needs it; `live` are those that one does.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[nn.Module, str] = {}
        self.functions: set[Any] = set()
        self.counts: dict[str, int] = {}
        self.lists: set[str] = set()  # variables that hold a list

    def run(self, module: nn.Module, value: Value, live: frozenset[str]) -> Value:
        if isinstance(module, nn.Sequential):
            for child in module:
                value = self.run(child, value, live)
            return value
        if isinstance(module, (ConcatTable, Concat, DepthConcat)):
            return self.join(module, self.branches([(child, value) for child in module], live), live)
        if isinstance(module, ParallelTable):
            if not isinstance(value, list) or len(value) < len(module):
                raise RuntimeError(f"nn.ParallelTable of {len(module)} takes a list of as many values")
            return self.branches(list(zip(module, value, strict=False)), live)
        if isinstance(module, Parallel):
            return self.join(module, self.slices(module, value, live), live)
        if isinstance(module, DenseConnectLayer):
            return self.dense(module, value, live)
        return self.layer(module, value, live)

    def branches(self, pairs: list[tuple[nn.Module, Value]], live: frozenset[str]) -> list[Value]:
        """Each module on its value; what the later ones take must last until then."""
        out: list[Value] = []
        for i, (child, value) in enumerate(pairs):
            later = [other for _, other in pairs[i + 1 :]]
            out.append(self.run(child, value, live | _names(later) | _names(out)))
        return out

    def join(self, module: nn.Module, out: list[Value], live: frozenset[str]) -> Value:
        tensors = [_plain(value) for value in out]
        if isinstance(module, ConcatTable):
            return out
        if isinstance(module, DepthConcat):
            self.functions.add(modules_tables.depth_concat)
            joined = modules_tables.depth_concat(tensors, module.dimension)
            return self.assign(f"depth_concat({_text(out)}, {module.dimension})", joined, out, live)
        dimension = module.output_dimension if isinstance(module, Parallel) else module.dimension
        return self.assign(f"torch.cat({_text(out)}, {dimension})", torch.cat(tensors, dimension), out, live)  # type: ignore[arg-type]

    def slices(self, module: Parallel, value: Value, live: frozenset[str]) -> list[Value]:
        dimension, whole = module.input_dimension, _plain(value)
        if whole.shape[dimension] > len(module):
            raise RuntimeError(f"nn.Parallel of {len(module)} modules on {whole.shape[dimension]} slices")
        out: list[Value] = []
        for i, child in zip(range(whole.shape[dimension]), module, strict=False):
            last = i == whole.shape[dimension] - 1
            keep = live | _names(out) | (frozenset() if last else _names(value))
            text = f"{_text(value)}.select({dimension}, {i})"
            out.append(self.run(child, self.assign(text, whole.select(dimension, i), value, keep), keep))
        return out

    def dense(self, module: DenseConnectLayer, value: Value, live: frozenset[str]) -> list[Value]:
        taken = value if isinstance(value, list) else [value]
        keep, joined = live | _names(taken), value
        if isinstance(value, list):
            joined = self.assign(f"torch.cat({_text(value)}, 1)", torch.cat(_plain(value), 1), value, keep)
        for child in module:
            joined = self.run(child, joined, keep)
        return [*taken, joined]

    def layer(self, module: nn.Module, value: Value, live: frozenset[str]) -> Value:
        if isinstance(module, nn.Identity):
            return value
        if isinstance(module, (modules_tables.SelectTable, modules_tables.NarrowTable)) and isinstance(value, list):
            return module(value)
        if isinstance(module, modules_tables.FlattenTable) and isinstance(value, list):
            return _flattened(value)
        result = module(_plain(value))
        return self.assign(f"self.{self.name(module)}({_text(value)})", result, value, live)

    def assign(self, expression: str, result: Any, used: Value, live: frozenset[str]) -> Value:
        """A line that gives the result to a variable: one that was used here for the last time, or a new one."""
        several = isinstance(result, list)
        reusable = [v.name for v in _flattened(used) if v.name not in live and v.name not in self.lists]
        taken = live | self.lists | (_names(used) if several else frozenset())
        if several:
            target = next(f"parts{i}" for i in range(1, 10**6) if f"parts{i}" not in self.lists)
            self.lists.add(target)
        else:
            target = reusable[0] if reusable else next(name for name in VARIABLES if name not in taken)
        shape = f"{len(result)} of {_shape(result[0])}" if several else _shape(result)
        line = f"        {target} = {expression}  # {shape}"
        if len(line) <= WIDTH:
            self.lines.append(line)
        else:
            self.lines += [f"        # {shape}", *_fit(f"        {target} = ", expression)]
        if several:
            return [Variable(f"{target}[{i}]", tensor) for i, tensor in enumerate(result)]
        return Variable(target, result)

    def name(self, module: nn.Module) -> str:
        if module not in self.names:
            kind = type(module).__name__
            short = re.sub(r"(\d+d|Table)$", "", kind).lower().replace("batchnorm", "bn")
            prefix = PREFIXES.get(kind, short)
            self.counts[prefix] = self.counts.get(prefix, 0) + 1
            self.names[module] = f"{prefix}{self.counts[prefix]}"
        return self.names[module]


def _flattened(value: Value) -> list[Variable]:
    return [value] if isinstance(value, Variable) else [item for part in value for item in _flattened(part)]


def _flat(value: Value) -> bool:
    return all(isinstance(item, Variable) for item in value)


def _names(value: Value) -> frozenset[str]:
    return frozenset(variable.name for variable in _flattened(value))


def _plain(value: Value) -> Any:
    return value.tensor if isinstance(value, Variable) else [_plain(item) for item in value]


def _text(value: Value) -> str:
    return value.text if isinstance(value, Variable) else f"[{', '.join(map(_text, value))}]"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _fit(start: str, call: str) -> list[str]:
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


def _definitions(objects: set[Any]) -> list[str]:
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
    source = re.sub(r"as_tensor\(([\w\[\]]+)\)", r"\1", source.replace("list[Any]", "list[Tensor]"))
    return source.replace("[value for value in x]", "x")


def _imports(body: str) -> str:
    lines = ["from __future__ import annotations", ""]
    standard = ["import math"] if "math." in body else []
    standard += ["from typing import Any"] if re.search(r"\bAny\b", body) else []
    lines += [*standard, ""] if standard else []
    lines += ["import torch"] if re.search(r"\btorch\.", body) else []
    lines += ["import torch.nn.functional as F"] if re.search(r"\bF\.", body) else []
    return "\n".join([*lines, "from torch import Tensor, nn"])
