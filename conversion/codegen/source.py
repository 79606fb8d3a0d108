"""A literal graph as Python source: one class with named submodules and a forward without loops.

The graph is walked as it is run on an example, so that each line can say the shape of what it makes. Containers become
code; layers become submodules, created by the call that is their `repr`; the classes that PyTorch does not have are
copied into the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conversion.codegen.source_text import WIDTH, constructor, definitions, fit
from conversion.graph import modules_tables
from conversion.graph.containers import Concat, ConcatTable, DenseConnectLayer, DepthConcat, Parallel, ParallelTable

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
    """Source of a class that computes what `root` does, with all that it needs but imports; and its state_dict.

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
        lines += fit(f"        self.{name} = ", constructor(module))
    lines += ["", f"    def forward(self, x: Tensor) -> {returned}:"]
    lines += [f"        # x: {_shape(example)}", *writer.lines, f"        return {_text(out)}"]
    copied = definitions({type(module) for module in writer.names} | writer.functions)
    return "\n\n\n".join([*copied, "\n".join(lines)]), state


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
            self.lines += [f"        # {shape}", *fit(f"        {target} = ", expression)]
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
