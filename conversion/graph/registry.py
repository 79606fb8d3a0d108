"""What the files of this folder share: which Torch7 class becomes what, and how a value flows through a module.

A new layer touches only the file of its theme. It needs a module that computes what Torch7 computes in evaluation,
unless PyTorch has one, and `builds` to say which fields of the object are its arguments. Where the fields need checks,
a builder makes the module from the object. `build.py` imports the themes.

Modules must not refer to this folder or to anything but torch: convert_graph.py copies their code, without decorators,
into what it writes. It creates them by their `repr`.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from operator import methodcaller
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..t7 import T7Error, TorchObject

Children = Callable[[TorchObject], list[TorchObject]]
Kind = TypeVar("Kind", bound=Callable[..., Any])

BUILDERS: dict[str, Callable[..., nn.Module]] = {}  # called with an object, and the modules made of its children
CHILDREN: dict[str, Children] = {}  # of the classes that hold modules
VIEWS: set[type[nn.Module]] = set()  # modules whose result shares the memory of their input

MAX_LIST = 10_000  # tensors in a list, including nested lists
MAX_PASSED = 200_000  # tensors that all modules of a network take together; about 600 in ResNeXt-101

# Fields of an object, for `builds`: `number("eps", 1e-5)` stands for `obj.number("eps", 1e-5)`.
boolean, dimension, integer, integers, number, position = (
    functools.partial(methodcaller, name)
    for name in ("boolean", "dimension", "integer", "integers", "number", "position")
)
in_place = boolean("inplace", False)


def builds(*classes: str, children: Children | None = None, **options: Any) -> Callable[[Kind], Kind]:
    """A decorator for what makes the modules of Torch7 classes: a class of modules, or a builder.

    A class is called with the modules made of `children`, and with `options`, which may be fields of the object. A
    builder is called with the object, those modules and `options`.
    """

    def enter(kind: Kind) -> Kind:
        def build(obj: TorchObject, *modules: nn.Module) -> nn.Module:
            if not isinstance(kind, type):
                return kind(obj, *modules, **options)
            values = {name: read(obj) if isinstance(read, methodcaller) else read for name, read in options.items()}
            return kind(*modules, **values)

        for name in classes:
            BUILDERS[name] = build
            if children is not None:
                CHILDREN[name] = children
        return kind

    return enter


class Layer(nn.Module):
    """A module that keeps each argument as an attribute of the same name. Its repr is the call that creates it."""

    def extra_repr(self) -> str:
        shown: list[str] = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name)
            value = tuple(value) if isinstance(value, list) else value
            if parameter.kind == parameter.VAR_POSITIONAL:
                shown += map(repr, value)
            else:
                shown.append(f"{value!r}" if parameter.default is parameter.empty else f"{name}={value!r}")
        return ", ".join(shown)


# --- what builders need ---------------------------------------------------------------------------------------------


def stored(obj: TorchObject, name: str, shape: tuple[int, ...]) -> Tensor:
    """A field as a tensor of `shape`. The file may hold it flattened. Half precision becomes single."""
    array = obj.tensor(name, shape).numpy()
    return torch.from_numpy(array.astype("f4") if array.dtype.itemsize == 2 else array).reshape(shape)


def has(obj: TorchObject, name: str) -> bool:
    """Whether an optional tensor is there. Lua code asks `if self.bias then`, so false counts as absent."""
    return obj.get(name, False) is not False


def filled(kind: Callable[..., nn.Module], *arguments: Any, tensors: dict[str, Tensor], **options: Any) -> nn.Module:
    """A module with these parameters and buffers, created without allocating its own."""
    with torch.device("meta"):
        module = kind(*arguments, **options)
    for name, value in tensors.items():
        setattr(module, name, nn.Parameter(value) if name in module._parameters else value)
    return module


# --- how a value flows through modules ------------------------------------------------------------------------------

Value = Any  # a Flow's stand-in for a tensor, or a list of Values


class Values(list[Value]):
    """A list of values that counts its tensors, including those in nested lists: a small file can make very many."""

    def __init__(self, items: list[Value]) -> None:
        super().__init__(items)
        self.tensors: int = sum(item.tensors if isinstance(item, Values) else 1 for item in items)


def flattened(value: Value) -> list[Any]:
    """The tensors of a value, in order."""
    return [item for part in value for item in flattened(part)] if isinstance(value, list) else [value]


class Flow(ABC):
    """Follows a value through a network, module by module, without running the containers."""

    def __init__(self) -> None:
        self.passed = 0

    def run(self, module: nn.Module, value: Value) -> Value:
        """The module's output for a value. Raises T7Error if the module cannot take the value."""
        self.passed += value.tensors if isinstance(value, Values) else 1
        out = flow(module, value, self)
        if isinstance(out, list) and not isinstance(out, Values):
            out = Values(out)
        if isinstance(out, Values) and out.tensors > MAX_LIST:
            raise error(module, f"expected at most {MAX_LIST} tensors in a list, got {out.tensors}")
        if self.passed > MAX_PASSED:
            raise error(module, f"expected modules that take at most {MAX_PASSED} tensors in all")
        return out

    @abstractmethod
    def layer(self, module: nn.Module, value: Value) -> Value:
        """The output of a module that holds no other modules."""

    @abstractmethod
    def call(
        self, owner: nn.Module, function: Callable[..., Tensor], value: Value, *arguments: int, view: bool = False
    ) -> Value:
        """The result of a function that a container calls. With `view`, it shares the value's memory."""

    @abstractmethod
    def items(self, owner: nn.Module, value: Value, count: int) -> list[Value]:
        """The first `count` values of a list."""

    @abstractmethod
    def size(self, owner: nn.Module, value: Value, dimension: int) -> int | None:
        """The size of a dimension of a tensor, None if it is not known."""


@functools.singledispatch
def flow(module: nn.Module, value: Value, to: Flow) -> Value:
    """The module's output as `to` sees it. Containers and layers that only pick from a list register their own."""
    return to.layer(module, value)


@flow.register
def _(module: nn.Identity, value: Value, to: Flow) -> Value:
    return value


def error(module: nn.Module, cause: str) -> T7Error:
    """A T7Error that points at the object that a module was made from."""
    return T7Error(f"{type(module).__name__}: {cause}", object_path=str(getattr(module, "torch7_path", "")))


def takes_list(module: nn.Module) -> bool:
    """Whether a layer takes a list and not a tensor, judging by the annotation of its forward."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())
    return str(parameters[1].annotation) in ("Any", "list[Any]")
