"""What the files of this folder share: which Torch7 class is made by what, and how a value flows through a module.

A new layer touches the file of its theme: a module that computes what Torch7 computes in evaluation, unless PyTorch
has one, and a builder that makes it from the fields of an object, entered with `builds`. `build.py` imports the themes.

Modules hold no reference to this folder: convert_graph.py copies their source, without decorators, into what it
writes. They need nothing but torch, and the `repr` of a module is the call that makes it.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..t7 import T7Error, TorchObject

Builder = Callable[..., nn.Module]  # of an object, and the modules made of its children
Children = Callable[[TorchObject], list[TorchObject]]
Kind = TypeVar("Kind", bound=Callable[..., Any])

BUILDERS: dict[str, Builder] = {}
CHILDREN: dict[str, Children] = {}  # of the classes that hold modules
VIEWS: set[type[nn.Module]] = set()  # modules whose result shares the memory of their input

MAX_LIST = 10_000  # tensors in a list, nested ones included
MAX_PASSED = 200_000  # tensors that the modules of a network take; those of ResNeXt-101 take some 600


def builds(*classes: str, children: Children | None = None, **options: Any) -> Callable[[Kind], Kind]:
    """A decorator for what makes the modules of Torch7 classes: a builder, or a module that needs no fields.

    A builder is called with the object, the modules made of its `children`, and `options`; the class of a module with
    the last two.
    """

    def enter(kind: Kind) -> Kind:
        for name in classes:
            BUILDERS[name] = functools.partial(_make if isinstance(kind, type) else _build, kind, options)
            if children is not None:
                CHILDREN[name] = children
        return kind

    return enter


def _build(builder: Builder, options: dict[str, Any], obj: TorchObject, *children: nn.Module) -> nn.Module:
    return builder(obj, *children, **options)


def _make(kind: Builder, options: dict[str, Any], obj: TorchObject, *children: nn.Module) -> nn.Module:
    return kind(*children, **options)


# --- what builders need ---------------------------------------------------------------------------------------------


def stored(obj: TorchObject, name: str, shape: tuple[int, ...]) -> Tensor:
    """A field as a tensor of `shape`, which the file may hold flattened; half precision becomes single."""
    array = obj.tensor(name, shape).numpy()
    return torch.from_numpy(array.astype("f4") if array.dtype.itemsize == 2 else array).reshape(shape)


def has(obj: TorchObject, name: str) -> bool:
    """Whether an optional tensor is there: Lua code asks `if self.bias then`."""
    return obj.get(name, False) is not False


def filled(kind: Callable[..., nn.Module], *arguments: Any, tensors: dict[str, Tensor], **options: Any) -> nn.Module:
    """A module with these parameters and buffers, made without storage for others."""
    with torch.device("meta"):
        module = kind(*arguments, **options)
    for name, value in tensors.items():
        setattr(module, name, nn.Parameter(value) if name in module._parameters else value)
    return module


# --- how a value flows through modules ------------------------------------------------------------------------------

Value = Any  # what a Flow makes of a tensor, or a list of Values


class Values(list[Value]):
    """A list of values, and how many tensors there are in it and its lists. Few bytes of a file can mean very many."""

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
        """What a module makes of a value. Raises T7Error where it cannot take it."""
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
        """What a module that holds no others makes of a value."""

    @abstractmethod
    def call(
        self, owner: nn.Module, function: Callable[..., Tensor], value: Value, *arguments: int, view: bool = False
    ) -> Value:
        """What a function that a container applies makes of a value; a `view` shares the value's memory."""

    @abstractmethod
    def items(self, owner: nn.Module, value: Value, count: int) -> list[Value]:
        """The `count` first values of a list."""

    @abstractmethod
    def size(self, owner: nn.Module, value: Value, dimension: int) -> int | None:
        """The size of a tensor, where it is known."""


@functools.singledispatch
def flow(module: nn.Module, value: Value, to: Flow) -> Value:
    """What a module makes of a value as `to` sees it. Containers, and layers that only pick from a list, register."""
    return to.layer(module, value)


@flow.register
def _(module: nn.Identity, value: Value, to: Flow) -> Value:
    return value


def error(module: nn.Module, cause: str) -> T7Error:
    """A T7Error that points at what a module was made of."""
    return T7Error(f"{type(module).__name__}: {cause}", object_path=str(getattr(module, "torch7_path", "")))


def takes_list(module: nn.Module) -> bool:
    """Whether the forward of a layer takes a list, not a tensor: by its annotation."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())
    return str(parameters[1].annotation) in ("Any", "list[Any]")
