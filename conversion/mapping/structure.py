"""Recognise a ResNeXt in a Torch7 file by what it computes: which module is which layer.

    network = convolution, batch norm, ReLU, [max pooling], block, …, head
    block   = the sum of branch and shortcut, ReLU
    branch  = paths (convolution, batch norm, ReLU, convolution, batch norm, ReLU), joined; convolution, batch norm
    head    = the average of each feature map, and a linear layer; written in one of many ways

A file is refused, and the error names the place, if

- it holds no network or several, or the network has unused parameters or uses the same ones twice;
- a layer is not of the kind that this grammar expects, or its output is used elsewhere as well;
- sizes, strides, paddings, groups or dilation do not fit a ResNeXt (`values` checks convolutions);
- max pooling rounds sizes up, or paths are joined along a dimension other than the channels;
- the head does not average the whole map, sums without dividing, mixes images or channels, or continues after the
  classifier;
- a batch normalization's eps is not 1e-5 (`values` checks it, and lists which numbers are refused).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from resnext.architecture import Architecture
from resnext.model import ResNeXt

from ..t7 import T7Error, Table, Tensor, TorchObject, walk
from .dataflow import Dataflow, Op, trace

PARAMETERS = ("weight", "bias", "running_mean", "running_var", "running_std")
_OF_MODULES = ("modules", "output", "gradInput", "_type", *PARAMETERS)  # nn.Module writes some of these, and only it
_MAX_SIDE = 64  # of a feature map; the proof runs an image 4 or 32 times as large
_POOLED_STRIDE = {"imagenet": 32, "cifar": 4}  # pixels of the input to one of the last feature map


@dataclass(frozen=True)
class ConvNorm:
    """A convolution and the batch normalization after it. `padding` is the padding of a layer before them."""

    convolution: TorchObject
    norm: TorchObject
    padding: tuple[int, int]  # height, width
    output: Op


@dataclass(frozen=True)
class Block:
    """A bottleneck. Form C has one path. Form B has a path of two convolutions for each unit of cardinality."""

    paths: list[tuple[ConvNorm, ConvNorm]]
    expand: ConvNorm
    shortcut: ConvNorm | None
    output: Op


@dataclass(frozen=True)
class Network:
    """Everything about a ResNeXt in a file except its numbers.

    Attributes:
        model: the network's root object.
        architecture: read off the sizes in the file.
        form: the form of the bottlenecks, "B" or "C".
        image_size: height and width in pixels of the input that fits the pooling.
        stages: maps each stage to the object path of a module with the stage's output, which runs once.
        layers: maps the names of each convolution and its batch normalization in `ResNeXt` to the layers in the file,
            several for the paths of form B.
        linear: the classifier.
        empty: the `ResNeXt`, without weights.
    """

    model: TorchObject
    architecture: Architecture
    form: str
    image_size: int
    stages: dict[str, str]
    layers: dict[tuple[str, str], list[ConvNorm]]
    linear: TorchObject
    empty: ResNeXt


def recognise(root: Any) -> Network:
    """The ResNeXt in the root object of a file: itself, or the only network in its tables. Raises T7Error."""
    model = _find_model(root)
    flow = trace(model)
    stem = _conv_norm(_only_user(flow.input))
    stem_output, pooled = _stem_end(stem)
    output, blocks = stem_output, []
    while len(output.users) > 1:
        blocks.append(_block(output))
        output = blocks[-1].output
    if not blocks:
        raise model.error("not a ResNeXt: no bottleneck (a branch and its shortcut, added up) in the network")
    architecture, empty = _architecture(stem, blocks, flow.output)
    _check_max_pooling(stem_output.obj, pooled, architecture.stem)
    linear, side = _head(output, blocks[-1].expand.convolution.integer("nOutputPlane"), architecture.stem)
    ends = itertools.accumulate(architecture.layers)
    outputs = {"stem": stem_output} | {f"layer{i}": blocks[end - 1].output for i, end in enumerate(ends, 1)}
    network = Network(
        model,
        architecture,
        form="B" if len(blocks[0].paths) > 1 else "C",
        image_size=side * _POOLED_STRIDE[architecture.stem],
        stages={name: path for name, op in outputs.items() if (path := _path_of(op, flow)) is not None},
        layers=_layers(stem, blocks, empty),
        linear=linear,
        empty=empty,
    )
    _check_all_used(network)
    return network


# --- where the network is ---------------------------------------------------------------------------------------------


def _find_model(root: Any) -> TorchObject:
    if isinstance(root, TorchObject) and not _only_holds(root):
        return root
    if not isinstance(root, Table | TorchObject):
        raise T7Error(f"expected a network or a table that holds one, got {root!r}")
    inside = walk(root, lambda value: value.values() if _only_holds(value) else ())
    found = [obj for obj in inside if isinstance(obj, TorchObject) and not _only_holds(obj) and _is_network(obj)]
    if len(found) > 1:  # parts of a network beside the whole
        parts = {obj for network in found for obj in walk(network) if obj is not network}
        found = [obj for obj in found if obj not in parts]
    if len(found) == 1:
        return found[0]
    if isinstance(root.get("modelFile"), str):
        raise root.error(f"this is the index of a checkpoint; the network is in the file {root['modelFile']!r}")
    kind = "a table" if isinstance(root, Table) else root.class_name
    where = f"at {', '.join(obj.path for obj in found[:10])}" if found else f"in {kind} with the keys {_keys(root)}"
    raise root.error(f"expected one network, got {len(found)} {where}")


def _only_holds(value: Table | TorchObject) -> bool:
    """Whether this is a table, or an object that is no module, such as a script's optimizer with its network."""
    return isinstance(value, Table) or not any(name in value for name in _OF_MODULES)


def _keys(table: Table | TorchObject) -> str:
    return ", ".join(str(key) for key, _ in zip(table, range(10), strict=False)) or "(none)"


def _is_network(obj: TorchObject) -> bool:
    """Whether a module has parameters. A criterion's weights and a confusion matrix do not count."""
    return not obj.class_name.endswith("Criterion") and any(
        _parameters(part) for part in walk(obj) if isinstance(part, TorchObject)
    )


def _parameters(obj: TorchObject) -> list[str]:
    return [name for name in PARAMETERS if isinstance(value := obj.get(name), Tensor) and value.numel]


def _check_all_used(network: Network) -> None:
    """Raise T7Error for a layer that is used twice, and for parameters and running statistics that no layer uses."""
    used = {network.linear}
    for pairs in network.layers.values():
        for pair in pairs:
            if pair.norm in used or pair.convolution in used:
                obj = pair.norm if pair.norm in used else pair.convolution
                raise obj.error("not a ResNeXt: the module, which has parameters, appears more than once")
            used |= {pair.norm, pair.convolution}
    left_over = [
        f"{obj.path}.{name}"
        for obj in walk(network.model, _without_replicas)
        if isinstance(obj, TorchObject)
        for name in _parameters(obj)
        if obj not in used or (name == "running_std" and "running_var" in obj)
    ]
    if left_over:
        shown = ", ".join(left_over[:5])
        more = f" and {len(left_over) - 5} more" if len(left_over) > 5 else ""
        raise network.model.error(f"left over, with no place in a ResNeXt: {shown}{more}")


def _without_replicas(value: Mapping[Any, Any]) -> Iterable[Any]:
    """The values of a table or object, without the copies for other GPUs in an old DataParallelTable."""
    if isinstance(value, TorchObject) and value.class_name == "nn.DataParallelTable" and "modules" in value:
        return [child for key, child in value["modules"].items() if key == 1]
    return value.values()


# --- stem and bottlenecks ---------------------------------------------------------------------------------------------


def _only_user(op: Op, expected: str = "one layer") -> Op:
    if len(op.users) != 1:
        got = ", ".join(user.obj.class_name for user in op.users) or "none: the network ends here"
        raise op.obj.error(f"not a ResNeXt: expected {expected} after this one, got {got}")
    return op.users[0]


def _expect(op: Op, kind: str) -> Op:
    if op.kind != kind:
        raise op.obj.error(f"not a ResNeXt: expected {kind}, got {op.obj.class_name}")
    return op


def _take(op: Op, kind: str) -> Op:
    """The layer after another one. It must be the only one and of this kind."""
    return _expect(_only_user(op, kind), kind)


def _stem_end(stem: ConvNorm) -> tuple[Op, Op | None]:
    """ReLU and perhaps max pooling, in either order: the later of the two, and the pooling."""
    if [user.kind for user in stem.output.users] == ["max pooling"]:
        pooled = stem.output.users[0]
        return _take(pooled, "ReLU"), pooled
    relu = _take(stem.output, "ReLU")
    if [user.kind for user in relu.users] == ["max pooling"]:
        return relu.users[0], relu.users[0]
    return relu, None


def _conv_norm(op: Op) -> ConvNorm:
    """A convolution and the batch normalization after it. A layer before it may hold its zero padding."""
    padding = (0, 0)
    if op.kind == "zero padding":
        left, right, top, bottom = op.obj.integers("pad_l pad_r pad_t pad_b", minimum=0)
        if left != right or top != bottom:
            raise op.obj.error(f"not a ResNeXt: padding of {left}, {right}, {top} and {bottom}; expected the same")
        padding, op = (top, left), _only_user(op)
    norm = _take(_expect(op, "convolution"), "batch normalization")
    return ConvNorm(op.obj, norm.obj, padding, norm)


def _block(start: Op) -> Block:
    """The bottleneck after `start`."""
    shortcut: ConvNorm | None = None
    shortcuts, ends, paths = [], [], {}
    for user in start.users:
        if user.kind == "addition":
            shortcuts.append(start)
            continue
        first = _conv_norm(user)
        if [after.kind for after in first.output.users] == ["addition"]:
            shortcut = first
            shortcuts.append(first.output)
            continue
        second = _conv_norm(_only_user(_take(first.output, "ReLU")))
        ends.append(_take(second.output, "ReLU"))
        paths[ends[-1]] = (first, second)
    if len(shortcuts) != 1 or not paths:
        raise start.obj.error(
            f"not a ResNeXt: expected a bottleneck and one shortcut after this layer, got {len(paths)} paths and "
            f"{len(shortcuts)} shortcuts"
        )
    end = ends[0]
    if len(ends) > 1:
        end = _take(end, "join")
        if any(_only_user(other) is not end for other in ends) or len(end.inputs) != len(ends):
            raise end.obj.error("not a ResNeXt: expected the paths of one bottleneck, and no others, to be joined")
        _check_join(end.obj)
        ends = list(end.inputs)
    expand = _conv_norm(_only_user(end))
    total = _take(expand.output, "addition")
    if set(total.inputs) != {expand.output, shortcuts[0]} or len(total.inputs) != 2:
        raise total.obj.error("not a ResNeXt: expected the sum of a bottleneck and its shortcut")
    return Block([paths[end] for end in ends], expand, shortcut, output=_take(total, "ReLU"))


def _check_join(obj: TorchObject) -> None:
    """Raise T7Error unless nn.JoinTable, nn.Concat or nn.DepthConcat joins the channels."""
    dimension, inputs = obj.dimension(), obj.integer("nInputDims", 0)
    if (dimension, inputs) not in ((1, 0), (0, 3), (-3, 0), (-3, 3), (1, 4)):
        raise obj.error(
            f"expected the channels to be joined, got dimension {obj['dimension']} of {inputs or 'a batch'}"
        )


# --- architecture -----------------------------------------------------------------------------------------------------


def _architecture(stem: ConvNorm, blocks: list[Block], end: Op) -> tuple[Architecture, ResNeXt]:
    """The architecture, read off the sizes in the file, and its model without weights."""
    outputs = [block.expand.convolution.integer("nOutputPlane") for block in blocks]
    layers = tuple(len(list(group)) for _, group in itertools.groupby(outputs))
    if len(layers) not in (3, 4):
        raise end.obj.error(f"not a ResNeXt: {len(layers)} stages of {layers} bottlenecks; expected 3 or 4 stages")
    starts = set(itertools.accumulate(layers, initial=0))
    convolution, paths = blocks[0].paths[0][1].convolution, len(blocks[0].paths)
    groups = convolution.integer("groups", 1) * paths
    try:
        architecture = Architecture(
            layers,
            cardinality=groups,
            base_width=convolution.integer("nOutputPlane") * paths // max(groups, 1),
            stem="imagenet" if stem.convolution.integer("kW") == 7 else "cifar",
            shortcut="C" if any(block.shortcut for i, block in enumerate(blocks) if i not in starts) else "B",
            num_classes=_classes(end),
            in_channels=stem.convolution.integer("nInputPlane"),
        )
        return architecture, architecture.build_empty()
    except T7Error:
        raise
    except (ValueError, RuntimeError, OverflowError) as error:  # sizes that torch cannot build
        raise end.obj.error(f"not a ResNeXt: {error}") from None


def _classes(end: Op) -> int:
    """The number of outputs of the last layer with weights."""
    last = end
    while end.kind not in ("linear", "convolution"):
        if end.kind not in _HEAD:
            raise last.obj.error(f"not a ResNeXt: expected the network to end with linear, got {last.obj.class_name}")
        (end,) = end.inputs
    return _outputs(end)


def _outputs(op: Op) -> int:
    """The number of outputs of a classifier, which may be a convolution."""
    if op.kind == "convolution":
        return op.obj.integer("nOutputPlane", minimum=1)
    weight = op.obj.tensor("weight")
    if len(weight.shape) != 2:
        raise op.obj.error(f"expected a matrix as weight, got {weight!r}")
    return weight.shape[0]


def _layers(stem: ConvNorm, blocks: list[Block], empty: ResNeXt) -> dict[tuple[str, str], list[ConvNorm]]:
    layers = {("conv1", "bn1"): [stem]}
    names = [
        (f"{stage}.{index}", module)
        for stage, modules in empty.named_children()
        if stage.startswith("layer")
        for index, module in modules.named_children()
    ]
    for (name, module), block in zip(names, blocks, strict=True):
        layers[f"{name}.conv1", f"{name}.bn1"] = [first for first, _ in block.paths]
        layers[f"{name}.conv2", f"{name}.bn2"] = [second for _, second in block.paths]
        layers[f"{name}.conv3", f"{name}.bn3"] = [block.expand]
        if (module.downsample is not None) != (block.shortcut is not None):
            got = "a convolution" if block.shortcut else "the identity"
            raise block.expand.norm.error(f"not a ResNeXt: the shortcut of {name} is {got}")
        if block.shortcut is not None:
            layers[f"{name}.downsample.0", f"{name}.downsample.1"] = [block.shortcut]
    return layers


def _check_max_pooling(before: TorchObject, pooled: Op | None, stem: str) -> None:
    if (pooled is not None) != (stem == "imagenet"):
        wanted, size = ("max pooling", 7) if pooled is None else ("no max pooling", 3)
        raise before.error(f"not a ResNeXt: expected {wanted} after a stem of {size}x{size}")
    if pooled is not None:
        expected = {"kW": 3, "kH": 3, "dW": 2, "dH": 2, "padW": 1, "padH": 1, "dilationW": 1, "dilationH": 1}
        got = {name: pooled.obj.integer(name, int(name.startswith("dilation"))) for name in expected}
        if got != expected or pooled.obj.boolean("ceil_mode", False):
            raise pooled.obj.error(f"not a ResNeXt: expected max pooling {expected}, not ceil_mode; got {got}")


def _path_of(op: Op, flow: Dataflow) -> str | None:
    return next((obj.path for obj in op.givers if flow.calls[obj] == 1), None)


# --- head -------------------------------------------------------------------------------------------------------------


def _head(features: Op, channels: int, stem: str) -> tuple[TorchObject, int]:
    """The classifier, and the height and width of the feature maps that fit the pooling before it."""
    layers = list(_chain(features))
    sides = [op.obj.integer("kH") for op in layers if op.kind == "average pooling"]
    nominal = 7 if stem == "imagenet" else 8
    failures = []
    for side in [*sides[:1], nominal]:  # if several poolings follow each other, the first does not tell
        try:
            return _Head(channels, side).run(layers), side
        except T7Error as error:
            failures.append(error)
    raise failures[0]


def _chain(op: Op) -> Iterator[Op]:
    """The layers after `op` up to the network's output. Each must have only one successor."""
    while op.users:
        op = _only_user(op)
        yield op


class _Head:
    """Follows feature maps of known size through the head, and checks that each is averaged as a whole.

    `shape` is the shape of one image, at first (channels, height, width). `factor` is the ratio of the values to
    averages.
    """

    def __init__(self, channels: int, side: int) -> None:
        self.shape, self.channels, self.factor = [channels, side, side], channels, 1.0

    def run(self, layers: list[Op]) -> TorchObject:
        classifier = None
        for op in layers:
            if op.kind in ("linear", "convolution") and classifier is None:
                classifier = op.obj
                self._classify(op)
            elif op.kind in _HEAD:
                _HEAD[op.kind](self, op.obj)
            else:
                expected = "linear" if classifier is None else "no further layer"
                raise op.obj.error(f"not a ResNeXt: expected {expected}, got {op.obj.class_name}")
        if classifier is None:
            raise layers[-1].obj.error("not a ResNeXt: expected linear after this layer, but the network ends here")
        self._check_average(layers[-1].obj)
        if len(self.shape) != 1:
            raise layers[-1].obj.error(f"not a ResNeXt: expected one number for each class, got the shape {self.shape}")
        return classifier

    def _classify(self, op: Op) -> None:
        """A linear layer must come after the average; a 1x1 convolution may also come before it."""
        obj = op.obj
        if op.kind == "linear":
            if len(self.shape) != 1:
                raise obj.error(
                    f"not a ResNeXt: expected linear on a vector for each image, got the shape {self.shape}"
                )
            self._check_average(obj)
        else:
            expected = {"kH": 1, "kW": 1, "dH": 1, "dW": 1, "padH": 0, "padW": 0, "padding": 0, "groups": 1}
            got = {name: obj.integer(name, value) for name, value in expected.items()}
            if got != expected or len(self.shape) != 3 or self.factor != 1:
                raise obj.error(f"not a ResNeXt: expected linear, got a convolution with {got}")
        self.shape[0] = self.channels = _outputs(op)

    def _check_average(self, obj: TorchObject) -> None:
        if math.prod(self.shape) != self.channels:
            raise obj.error(f"expected an average over a whole square feature map at this layer, got {self.shape}")
        if not math.isclose(self.factor, 1, rel_tol=1e-6):
            raise obj.error(f"expected an average over a whole feature map, got {self.factor:g} times that")

    def average_pooling(self, obj: TorchObject) -> None:
        height, width = obj.integers("kH kW", minimum=1)
        if height > _MAX_SIDE:
            raise obj.error(f"expected pooling of at most {_MAX_SIDE}x{_MAX_SIDE}, got {height}x{width}")
        strides, padding = obj.integers("dH dW", minimum=1), obj.integers("padH padW", 0)
        tiles = len(self.shape) == 3 and all(
            size == kernel or (stride == kernel and size % kernel == 0)
            for size, kernel, stride in zip(self.shape[1:], (height, width), strides, strict=False)
        )
        if not tiles or any(padding):
            raise obj.error(
                f"expected an average over a whole square feature map of {self.shape[1:]}, "
                f"got {height}x{width}, padding {max(padding)}"
            )
        if not (obj.class_name.startswith("cudnn.") or obj.boolean("divide", False)):
            self.factor *= height * width  # without `divide`, as in older files, it returns the sum
        self.shape[1:] = [self.shape[1] // height, self.shape[2] // width]

    def adaptive_pooling(self, obj: TorchObject) -> None:
        if obj.integers("H W") != (1, 1) or len(self.shape) != 3:
            raise obj.error(f"expected an average over a whole feature map, got {obj['H']}x{obj['W']} averages")
        self.shape[1:] = [1, 1]

    def mean(self, obj: TorchObject) -> None:
        axis = self._axis(obj, obj.dimension(default=1))
        if axis == 0:
            raise obj.error("expected an average over feature maps, got one over channels")
        if not obj.boolean("sizeAverage", obj.class_name == "nn.Mean"):
            self.factor *= self.shape[axis]
        self.shape[axis : axis + 1] = [] if obj.boolean("squeeze", True) else [1]

    def scale(self, obj: TorchObject) -> None:
        self.factor *= obj.number("constant_scalar")

    def view(self, obj: TorchObject) -> None:
        size, dims = obj.sizes(), obj.integer("numInputDims", 0)
        if dims == 0 and size[:1] == [-1] and len(size) > 1:  # the rest is the batch
            size = size[1:]
        rest = math.prod(n for n in size if n != -1)
        if dims == len(self.shape) and size.count(-1) == 1 and rest > 0:
            size = [math.prod(self.shape) // rest if n == -1 else n for n in size]
        if 0 < dims < len(self.shape):
            raise obj.error(f"not a ResNeXt: a view of {dims} dimensions of images of shape {self.shape}")
        self._reshape(obj, size)

    def reshape(self, obj: TorchObject) -> None:
        if obj.get("batchMode") is False:
            raise obj.error("not a ResNeXt: expected images to be kept apart, got batchMode false")
        self._reshape(obj, obj.sizes())

    def collapse(self, obj: TorchObject) -> None:
        if obj.integer("nInputDim") > len(self.shape):  # it would take all images for one
            raise obj.error(f"not a ResNeXt: expected nInputDim of at most {len(self.shape)}, got {obj['nInputDim']}")
        self._reshape(obj, [math.prod(self.shape)])

    def _reshape(self, obj: TorchObject, size: list[int]) -> None:
        if (
            math.prod(size) != math.prod(self.shape)
            or [n for n in size if n != 1][:1] != [self.channels][: self.channels - 1]
        ):
            raise obj.error(
                f"not a ResNeXt: expected images of shape {self.shape} with their channels kept apart, got {size}"
            )
        self.shape = size

    def squeeze(self, obj: TorchObject) -> None:
        if obj.get("dim") is None:
            self.shape = [n for i, n in enumerate(self.shape) if n != 1 or i == 0]
            return
        axis = self._axis(obj, obj.dimension("dim"))
        if self.shape[axis] == 1 and axis:
            del self.shape[axis]

    def select(self, obj: TorchObject) -> None:
        axis = self._axis(obj, obj.dimension())
        if self.shape[axis] != 1 or axis == 0 or obj.position("index") not in (0, -1):
            raise obj.error(f"not a ResNeXt: it selects one of {self.shape[axis]}")
        del self.shape[axis]

    def _axis(self, obj: TorchObject, dimension: int) -> int:
        """The dimension of one image. The batch dimension comes before it."""
        dims = obj.integer("nInputDims", 0) or obj.integer("numInputDims", 0)
        axis = len(self.shape) + dimension if dimension < 0 else dimension - (dims != len(self.shape))
        if not 0 <= axis < len(self.shape):
            raise obj.error(f"not a ResNeXt: dimension {dimension + 1} of images of shape {self.shape}")
        return axis


_HEAD = {
    "adaptive pooling": _Head.adaptive_pooling,
    "average pooling": _Head.average_pooling,
    "factor": _Head.scale,
    "mean": _Head.mean,
    "collapse": _Head.collapse,
    "reshape": _Head.reshape,
    "select": _Head.select,
    "squeeze": _Head.squeeze,
    "view": _Head.view,
}
