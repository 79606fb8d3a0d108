"""A literal graph as Python code: one class with named submodules and a forward without loops.

The graph is traced on the meta device, without values, so that each line can show the shape of its result at no cost.
Containers become code. Layers become submodules, created by the call in their `repr`. Classes that PyTorch lacks are
copied into the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.registry import Flow, Value, error, flattened, takes_list
from .text import WIDTH, constructor, definitions, fit, is_ours

# Names of submodules, where the lower-case class name would say less.
PREFIXES = {"Linear": "fc", "CAddTable": "add", "JoinTable": "join", "ConvTranspose2d": "upconv", "PReLU": "prelu"}
NAMES = ("x", "y", "z", "u", "v", "w", *(f"x{i}" for i in range(1, 100_000)))
MAX_CALLS = 200_000  # of torch functions for one input
MAX_PRODUCTS = 2**43  # of multiplications, which take minutes; VGG-19 needs 2^35
MAX_VALUES = 2**29  # in all tensors that one input creates; 2^25 in VGG-19 for 224 x 224 pixels


@dataclass(eq=False)
class Variable:
    """A tensor without values, in the variable `name` or, if `part` is set, in a list of that name."""

    tensor: Tensor
    name: str = ""
    part: int | None = None
    last_use: int = -1  # index of a line

    def __str__(self) -> str:
        return self.name if self.part is None else f"{self.name}[{self.part}]"


@dataclass(eq=False)
class Line:
    """`made` = `call`(`taken`, `more`)."""

    call: str
    taken: Value
    more: str
    made: Value


def generate(root: nn.Module, class_name: str, shape: Sequence[int], docstring: str) -> tuple[str, dict[str, Tensor]]:
    """The code of a class that computes the same as `root`, with all definitions except imports; and its state_dict.

    Raises T7Error if `root` does not take an input of `shape`.
    """
    trace = Trace(root, shape)
    state = {
        f"{name}.{key}": value.detach().clone()
        for module, name in trace.names.items()
        for key, value in module.state_dict().items()
    }
    body = _forward(trace)
    flat = isinstance(trace.output, list) and all(isinstance(item, Variable) for item in trace.output)
    returned = "Tensor" if isinstance(trace.output, Variable) else "list[Tensor]" if flat else "Any"
    lines = [f"class {class_name}(nn.Module):"]
    lines += [f'    """{docstring}"""', "", "    def __init__(self) -> None:", "        super().__init__()"]
    for module, name in trace.names.items():
        lines += fit(f"        self.{name} = ", constructor(module))
    lines += ["", f"    def forward(self, x: Tensor) -> {returned}:", f"        # x: {tuple(shape)}", *body]
    copied = definitions({type(module) for module in trace.names} | trace.functions)
    return "\n\n\n".join([*copied, "\n".join(lines)]), state


class Trace(Flow):
    """The calls that a graph makes for an input of a shape. Raises T7Error if it does not take such an input.

    Attributes:
        lines: the calls, in order.
        output: the variable, or list of variables, with the result.
        names: the submodules in use, with their names.
        functions: the functions in use.
    """

    def __init__(self, root: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.lines: list[Line] = []
        self.names: dict[nn.Module, str] = {}
        self.functions: set[Any] = set()
        self.counts: dict[str, int] = {}
        self.empty: dict[nn.Module, dict[str, Tensor]] = {}
        self.input = Variable(torch.empty(*shape, device="meta"), "x")
        self.limits = _Limits()
        self.products = 0
        self.output = self.run(root, self.input)

    def layer(self, module: nn.Module, value: Value) -> Value:
        if takes_list(module) and not isinstance(value, list):
            raise error(module, "expected a list, got a tensor")
        if isinstance(value, list) and not takes_list(module):
            raise error(module, "expected a tensor, got a list")
        if module not in self.names:
            prefix = re.sub(r"(\d+d|Table)$", "", type(module).__name__).lower().replace("batchnorm", "bn")
            prefix = PREFIXES.get(type(module).__name__, prefix)
            self.counts[prefix] = self.counts.get(prefix, 0) + 1
            self.names[module] = f"{prefix}{self.counts[prefix]}"
            tensors = [*module.named_parameters(), *module.named_buffers()]
            self.empty[module] = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}

        def run(given: Any) -> Any:
            return torch.func.functional_call(module, self.empty[module], (given,))

        return self.line(module, f"self.{self.names[module]}", run, value, "")

    def call(
        self, owner: nn.Module, function: Callable[..., Tensor], value: Value, *arguments: int, view: bool = False
    ) -> Value:
        if isinstance(value, list) and not all(isinstance(item, Variable) for item in value):
            raise error(owner, "expected tensors to join, got lists")
        ours = is_ours(function)
        if ours:
            self.functions.add(function)
        name = function.__name__ if ours else f"torch.{function.__name__}"
        more = "".join(f", {argument}" for argument in arguments)
        return self.line(owner, name, lambda given: function(given, *arguments), value, more)

    def items(self, owner: nn.Module, value: Value, count: int) -> list[Value]:
        if not isinstance(value, list) or len(value) < count:
            got = f"one of {len(value)}" if isinstance(value, list) else "a tensor"
            raise error(owner, f"expected a list of {count}, got {got}")
        return value[:count]

    def size(self, owner: nn.Module, value: Value, dimension: int) -> int | None:
        if isinstance(value, list) or not -value.tensor.dim() <= dimension < value.tensor.dim():
            raise error(owner, f"expected a tensor with a dimension {dimension} (from 0), got {_shapes(value)}")
        return int(value.tensor.shape[dimension])

    def line(self, owner: nn.Module, call: str, function: Callable[[Any], Any], value: Value, more: str) -> Value:
        try:
            with torch.no_grad(), self.limits:
                result = function(_tensors(value))
        except (RuntimeError, IndexError, ValueError) as problem:  # shapes that do not fit, or a limit
            raise error(owner, f"cannot take {_shapes(value)}: {str(problem).partition(chr(10))[0]}") from None
        sizes = [variable.tensor.numel() for variable in flattened(value)]
        self.products += _products(owner) * max([*sizes, result.numel() if isinstance(result, Tensor) else 0])
        if self.products > MAX_PRODUCTS:
            raise error(owner, f"the network takes more than {MAX_PRODUCTS} multiplications")
        made: Value = Variable(result)
        if isinstance(result, list):
            made = [Variable(tensor, part=i) for i, tensor in enumerate(result)]
        for variable in flattened(value):
            variable.last_use = len(self.lines)
        self.lines.append(Line(call, value, more, made))
        return made


def _products(layer: nn.Module) -> int:
    """How many products go into one value of the output of a layer with a weight or a window."""
    weight, window = getattr(layer, "weight", None), getattr(layer, "kernel_size", 1)
    if isinstance(weight, Tensor):
        return weight.numel() // max(len(weight), 1)
    return math.prod(window) if isinstance(window, (tuple, list)) else int(window)


class _Limits(torch.overrides.TorchFunctionMode):
    """Raises RuntimeError once a network has called too many torch functions or created too many values."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.values = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        self.values += out.numel() if isinstance(out, Tensor) else 0
        if self.calls > MAX_CALLS or self.values > MAX_VALUES:
            raise RuntimeError(f"the network makes more than {MAX_VALUES} values or takes more than {MAX_CALLS} steps")
        return out


def _forward(trace: Trace) -> list[str]:
    """The body of the forward. Results reuse the names of variables that are no longer needed."""
    for variable in flattened(trace.output):
        variable.last_use = len(trace.lines)
    lines, lists, used = [], 0, {"x": trace.input}
    for i, line in enumerate(trace.lines):
        taken = _text(line.taken)
        made = flattened(line.made)
        shape = _shapes(line.made)
        if isinstance(line.made, list):
            lists += 1
            target = f"parts{lists}"
        else:
            free = {name for name, variable in used.items() if variable.last_use <= i}
            again = [variable.name for variable in flattened(line.taken) if variable.name in free]
            target = again[0] if again else next(name for name in NAMES if name not in used or name in free)
            used[target] = line.made
        for variable in made:
            variable.name = target
        call = f"{line.call}({taken}{line.more})"
        text = f"        {target} = {call}  # {shape}"
        lines += [text] if len(text) <= WIDTH else [f"        # {shape}", *fit(f"        {target} = ", call)]
    return [*lines, *fit("        return ", _text(trace.output))]


def _tensors(value: Value) -> Any:
    return [_tensors(item) for item in value] if isinstance(value, list) else value.tensor


def _text(value: Value) -> str:
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)


def _shapes(value: Value) -> str:
    tensors = [tuple(variable.tensor.shape) for variable in flattened(value)]
    if isinstance(value, list):
        return f"{len(tensors)} of {tensors[0]}" if tensors else "no tensors"
    return str(tensors[0])
