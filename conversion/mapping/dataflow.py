"""What a Torch7 network computes in evaluation, however it is written: operations on tensors.

One pass over the file's modules. Containers, tables and layers that do nothing in evaluation disappear, and layers that
compute the same get the same kind. `structure` reads the fields with their sizes.

    removed if                            layer
    always                                Identity, Contiguous, FlattenTable, GradientReversal, L1Penalty, ZeroGrad, …
    its output is float or double         Copy
    it is of version 2, or p is 0         Dropout (SpatialDropout: p is 0)
    its constant is neutral               MulConstant 1, AddConstant 0, Power 1, WhiteNoise of mean 0, upsampling by 1
    it adds nothing                       SpatialZeroPadding and its like, Padding
    it has one input                      CAddTable, JoinTable
    one of several outputs is wanted      SelectTable, NarrowTable
    it only holds another module          Decorator, Serial, DontCast, NaN, DataParallelTable (its first)
    it only reorders a table              ReverseTable

It refuses any network with a module that contains itself; with a module whose output is used after the same module, or
a layer that works in place, has overwritten it; or with more than MAX_CALLS calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Union

from ..t7 import Table, Tensor, TorchObject

MAX_CALLS = 100_000  # a ResNeXt-152 of form B makes 10,000
MAX_NESTED = 150

_FLOATS = ("torch.FloatTensor", "torch.DoubleTensor", "torch.CudaTensor", "torch.CudaDoubleTensor")


@dataclass(eq=False)
class Op:
    """A tensor, and the layer that computes it from others.

    Attributes:
        kind: what the layer does, a value of `KINDS`, or its class name if it is not known.
        obj: the module.
        inputs: the tensors that it takes.
        users: the operations that take its output, once for each use.
        givers: the modules whose output it is, innermost first: a container returns the output of its last module.
    """

    kind: str
    obj: TorchObject
    inputs: tuple[Op, ...]
    memory: object  # the Torch7 buffer that holds the tensor
    written: int  # how often that buffer had been written by then
    users: list[Op] = field(default_factory=list)
    givers: list[TorchObject] = field(default_factory=list)


Value = Union[Op, "list[Value]"]  # a table of tensors is a list


@dataclass(frozen=True)
class Dataflow:
    """The operations of a network, from its input to its output, and how often each module runs."""

    input: Op
    output: Op
    calls: Counter[TorchObject]


def trace(model: TorchObject) -> Dataflow:
    """The operations that a network's output depends on. Raises T7Error."""
    tracer = _Tracer()
    image = Op("input", model, (), memory=None, written=0)
    output = tracer.run(model, image)
    if not isinstance(output, Op):
        raise model.error("expected a network that returns a tensor; this one returns a table")
    seen, stack = {output}, [output]
    while stack:
        op = stack.pop()
        for taken in op.inputs:
            taken.users.append(op)
            if taken not in seen:
                seen.add(taken)
                stack.append(taken)
    return Dataflow(image, output, tracer.calls)


# --- kinds of layers --------------------------------------------------------------------------------------------------

KINDS = {
    "cudnn.SpatialConvolution": "convolution",
    "nn.SpatialConvolution": "convolution",
    "nn.SpatialConvolutionMM": "convolution",
    "nn.SpatialDilatedConvolution": "convolution",
    "nn.SpatialZeroPadding": "zero padding",
    "cudnn.SpatialBatchNormalization": "batch normalization",
    "fbnn.SpatialBatchNormalization": "batch normalization",
    "nn.SpatialBatchNormalization": "batch normalization",
    "cudnn.SpatialMaxPooling": "max pooling",
    "nn.SpatialDilatedMaxPooling": "max pooling",
    "nn.SpatialMaxPooling": "max pooling",
    "nn.CAddTable": "addition",
    "nn.JoinTable": "join",
    "cudnn.SpatialAveragePooling": "average pooling",
    "nn.SpatialAveragePooling": "average pooling",
    "nn.SpatialAdaptiveAveragePooling": "adaptive pooling",
    "nn.Mean": "mean",
    "nn.Sum": "mean",
    "nn.MulConstant": "factor",
    "nn.Collapse": "collapse",
    "nn.Reshape": "reshape",
    "nn.Select": "select",
    "nn.Squeeze": "squeeze",
    "nn.View": "view",
    "nn.Linear": "linear",
    "nn.LinearNoBias": "linear",
}


def _zero(*names: str) -> Callable[[TorchObject], bool]:
    return lambda obj: all(obj.number(name, 0) == 0 for name in names)


def _always(obj: TorchObject) -> bool:
    return True


def _keeps_type(obj: TorchObject) -> bool:
    return getattr(obj.get("output"), "class_name", obj.get("_type")) in _FLOATS


def _drops_nothing(obj: TorchObject) -> bool:
    scales = obj.class_name != "nn.Dropout" or not obj.boolean("v2", False)
    return not obj.boolean("stochastic_inference", False) and (not scales or obj.number("p", 0.5) == 0)


# Layers that do nothing in evaluation, and the condition on their fields.
_NOTHING: dict[str, Callable[[TorchObject], bool]] = {
    "nn.AddConstant": lambda obj: not isinstance(obj["constant_scalar"], Tensor) and obj.number("constant_scalar") == 0,
    "nn.Contiguous": _always,
    "nn.Copy": _keeps_type,
    "nn.CopyGrad": _always,
    "nn.Dropout": _drops_nothing,
    "nn.GradientReversal": _always,
    "nn.Identity": _always,
    "nn.L1Penalty": _always,
    "nn.MulConstant": lambda obj: obj.number("constant_scalar") == 1,
    "nn.NormStabilizer": _always,
    "nn.Padding": _zero("pad"),
    "nn.Power": lambda obj: obj.number("pow") == 1,
    "nn.PrintSize": _always,
    "nn.SpatialDropout": _drops_nothing,
    "nn.SpatialReflectionPadding": _zero("pad_l", "pad_r", "pad_t", "pad_b"),
    "nn.SpatialReplicationPadding": _zero("pad_l", "pad_r", "pad_t", "pad_b"),
    "nn.SpatialUpSamplingNearest": lambda obj: obj.number("scale_factor") == 1,
    "nn.SpatialZeroPadding": _zero("pad_l", "pad_r", "pad_t", "pad_b"),
    "nn.TotalDropout": _always,
    "nn.TotalVariation": _always,
    "nn.Transpose": lambda obj: isinstance(obj["permutations"], Table) and not obj["permutations"],
    "nn.WhiteNoise": _zero("mean"),
    "nn.ZeroGrad": _always,
}


def _ranges(low: str, high: str, minimum: float, maximum: float) -> Callable[[TorchObject], bool]:
    return lambda obj: obj.number(low, minimum) == 0 and obj.number(high, maximum) >= _FLOAT32_MAX


_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
# Layers that are max(x, 0) where their fields say so.
_RELU: dict[str, Callable[[TorchObject], bool]] = {
    "cudnn.ReLU": _zero("threshold", "val"),
    "nn.ReLU": _zero("threshold", "val"),
    "nn.Threshold": _zero("threshold", "val"),
    "nn.LeakyReLU": lambda obj: obj.number("negval", 0.01) == 0,
    "nn.Clamp": _ranges("min_val", "max_val", -1, 1),
    "nn.Clip": _ranges("minval", "maxval", -1, 1),
    "nn.ELU": lambda obj: obj.number("alpha", 1) == 0,
    "nn.HardTanh": _ranges("min_val", "max_val", -1, 1),
}

# cudnn creates its descriptors from the mode, so that must agree with the class.
_CUDNN_MODES = {
    "cudnn.ReLU": ("CUDNN_ACTIVATION_RELU",),
    "cudnn.SpatialBatchNormalization": ("CUDNN_BATCHNORM_SPATIAL", "CUDNN_BATCHNORM_SPATIAL_PERSISTENT"),
    "cudnn.SpatialMaxPooling": ("CUDNN_POOLING_MAX",),
    "cudnn.SpatialAveragePooling": ("CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING", "CUDNN_POOLING_AVERAGE_COUNT_IN",
                                    "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING", "CUDNN_POOLING_AVERAGE"),
}  # fmt: skip
_ALIASES = ("view", "reshape", "collapse", "squeeze")  # their output lies in the memory of their input


def _kind(obj: TorchObject) -> str:
    name = obj.class_name
    mode, modes = obj.get("mode"), _CUDNN_MODES.get(name)
    if mode is not None and modes is not None and mode not in modes:
        raise obj.error(f"mode {mode!r} is not that of {name}; expected {modes[0]}")
    if name in _RELU and _RELU[name](obj):
        return "ReLU"
    return KINDS.get(name, name)


# --- the pass ---------------------------------------------------------------------------------------------------------


class _Tracer:
    def __init__(self) -> None:
        self.calls: Counter[TorchObject] = Counter()
        self.written: Counter[object] = Counter()
        self.open: list[TorchObject] = []
        self.total = 0

    def run(self, obj: TorchObject, value: Value) -> Value:
        """The output of a module for an input."""
        self.total += 1
        self.calls[obj] += 1
        if self.total > MAX_CALLS or len(self.open) > MAX_NESTED:
            raise obj.error(f"expected at most {MAX_CALLS} calls of modules, nested {MAX_NESTED} deep")
        if obj in self.open:
            raise obj.error("not a ResNeXt: the module contains itself")
        self.open.append(obj)
        container = _CONTAINERS.get(obj.class_name)
        out = container(self, obj, value) if container else self._layer(obj, value)
        self.open.pop()
        if isinstance(out, Op):
            out.givers.append(obj)
        return out

    def sequential(self, obj: TorchObject, value: Value) -> Value:
        for child in obj.objects():
            value = self.run(child, value)
        return value

    def first(self, obj: TorchObject, value: Value) -> Value:
        held = obj.objects()
        if not held:
            raise obj.error(f"expected {obj.class_name} to hold a network")
        return self.run(held[0], value)  # the others of an nn.DataParallelTable are copies on other GPUs

    def concat_table(self, obj: TorchObject, value: Value) -> Value:
        return [self.run(child, value) for child in obj.objects()]

    def concat(self, obj: TorchObject, value: Value) -> Value:
        return self._op("join", obj, self._table(obj, self.concat_table(obj, value)))

    def parallel_table(self, obj: TorchObject, value: Value) -> Value:
        children = obj.objects()
        if not isinstance(value, list) or len(value) != len(children):
            raise obj.error(f"expected a table of {len(children)} for as many modules")
        return [self.run(child, part) for child, part in zip(children, value, strict=True)]

    def select_table(self, obj: TorchObject, value: Value) -> Value:
        index = obj.position("index")
        if not isinstance(value, list) or not -len(value) <= index < len(value):
            raise obj.error("expected a table that has the selected element")
        return value[index]

    def narrow_table(self, obj: TorchObject, value: Value) -> Value:
        start, length = obj.integer("offset", minimum=1) - 1, obj.integer("length", 1, minimum=1)
        if not isinstance(value, list) or start + length > len(value):
            raise obj.error("expected a table that has the selected elements")
        return value[start : start + length]

    def reverse_table(self, obj: TorchObject, value: Value) -> Value:
        if not isinstance(value, list):
            raise obj.error("expected a table")
        return value[::-1]

    def flatten_table(self, obj: TorchObject, value: Value) -> Value:
        if not isinstance(value, list):
            return value
        flat: list[Value] = []
        for part in value:
            inner = self.flatten_table(obj, part)
            flat += inner if isinstance(inner, list) else [inner]
            if len(flat) > MAX_CALLS:
                raise obj.error(f"expected a table of at most {MAX_CALLS} tensors")
        return flat

    def _layer(self, obj: TorchObject, value: Value) -> Value:
        if obj.class_name in _NOTHING and _NOTHING[obj.class_name](obj):
            return value
        kind = _kind(obj)
        if kind in ("addition", "join"):
            return self._op(kind, obj, self._table(obj, value))
        if not isinstance(value, Op):
            raise obj.error(f"not a ResNeXt: {obj.class_name} of a table")
        return self._op(kind, obj, [value])

    @staticmethod
    def _table(obj: TorchObject, value: Value) -> list[Op]:
        if not isinstance(value, list) or not value or not all(isinstance(part, Op) for part in value):
            raise obj.error(f"expected a table of tensors for {obj.class_name}")
        return value  # type: ignore[return-value]

    def _op(self, kind: str, obj: TorchObject, inputs: list[Op]) -> Op:
        """A new tensor, or the only input of an operation that joins or adds."""
        for taken in inputs:
            if self.written[taken.memory] != taken.written:
                raise obj.error(
                    f"the output of {taken.obj!r} is used here, after another call or a layer in place overwrote it"
                )
        if kind in ("addition", "join") and len(inputs) == 1:
            return inputs[0]
        memory = inputs[0].memory if kind in _ALIASES or obj.boolean("inplace", False) else obj
        if memory is obj and any(taken.memory is obj for taken in inputs):
            raise obj.error(f"{obj.class_name} overwrites its own input: it appears more than once in the network")
        self.written[memory] += kind not in _ALIASES
        return Op(kind, obj, tuple(inputs), memory, self.written[memory])


_CONTAINERS: dict[str, Callable[[_Tracer, TorchObject, Any], Value]] = {
    "nn.Concat": _Tracer.concat,
    "nn.ConcatTable": _Tracer.concat_table,
    "nn.DataParallelTable": _Tracer.first,
    "nn.Decorator": _Tracer.first,
    "nn.DepthConcat": _Tracer.concat,
    "nn.DontCast": _Tracer.first,
    "nn.FlattenTable": _Tracer.flatten_table,
    "nn.NaN": _Tracer.first,
    "nn.NarrowTable": _Tracer.narrow_table,
    "nn.ParallelTable": _Tracer.parallel_table,
    "nn.ReverseTable": _Tracer.reverse_table,
    "nn.SelectTable": _Tracer.select_table,
    "nn.Sequential": _Tracer.sequential,
    "nn.Serial": _Tracer.first,
}
