"""What a checkpoint holds: the network among what a training script saved, and the names that other ports use.

`find_weights` takes the network's tensors out of a checkpoint. `read_layout` gives them the names of our ResNeXt.
Ports are recognised by order and shapes, not by their names.
A state_dict is read as a sentence: each convolution with its batch norm is a word, and

    network = stem, block, …, [linear]
    block   = 1x1, grouped 3x3, 1x1, and where the shape changes a 1x1 as shortcut, before, among or after them

What has exactly one reading as a ResNeXt is taken. Names decide only what shapes leave open, and tell which port a file
comes from. Files of TensorFlow's family (channels last, depthwise kernels) are turned into torch's shapes first.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from resnext.architecture import Architecture, check_shapes

_LEAVES = {
    "weight": ("weight", "weights", "kernel", "depthwise_kernel", "depthwise_weights", "gamma", "scale"),
    "bias": ("bias", "biases", "beta", "offset"),
    "running_mean": ("running_mean", "moving_mean", "_mean", "mean"),
    "running_var": ("running_var", "moving_variance", "moving_var", "_variance", "variance", "var"),
    "num_batches_tracked": ("num_batches_tracked",),
}
_MODULE = re.compile(r"[./][^./]*$")  # to be cut off an entry
_ROLE = {leaf: role for role, leaves in _LEAVES.items() for leaf in leaves}
_SHORTCUT = re.compile(r"shortcut|downsample|skip|identity|residual|proj|(?<![a-z])sc(?![a-z])|branch1(?![0-9])|_0_")


@dataclass(frozen=True)
class Layout:
    """The names that a port gives to the modules of a ResNeXt of form C, as templates, and how it is told from others.

    `{stage}` counts from 1, `{block}` from 0; `{place}` is the stage plus `first - 1`.
    """

    title: str
    stem: tuple[str, str] = ("conv1", "bn1")
    block: str = "layer{stage}.{block}."
    modules: tuple[str, ...] = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1")
    classifier: str = "fc"
    first: int = 1
    counters: bool = True  # num_batches_tracked

    def theirs(self, name: str) -> str | None:
        """The port's name of an entry of form C, such as `layer1.0.conv1.weight`; None where it has no such entry."""
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked" and not self.counters:
            return None
        if module in self._outside:
            return f"{self._outside[module]}.{leaf}"
        stage, block, inner = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", module).groups()  # type: ignore[union-attr]
        where = self.block.format(stage=stage, block=block, place=int(stage) + self.first - 1)
        return f"{where}{self.modules[_MODULES.index(inner)]}.{leaf}"

    def ours(self, name: str) -> str | None:
        """The inverse of `theirs`; None for an entry that does not belong to a network of this port."""
        module, _, leaf = name.rpartition(".")
        outside = {theirs: ours for ours, theirs in self._outside.items()}
        if leaf not in _LEAVES:
            return None
        if module in outside:
            return f"{outside[module]}.{leaf}"
        match = self._pattern.fullmatch(module)
        if match is None:
            return None
        found = match.groupdict()
        stage = int(found["stage"]) if "stage" in found else int(found["place"]) - self.first + 1
        inner = _MODULES[self.modules.index(found["inner"])]
        return f"layer{stage}.{int(found['block'])}.{inner}.{leaf}" if 1 <= stage <= 4 else None

    @property
    def _outside(self) -> dict[str, str]:
        return {"conv1": self.stem[0], "bn1": self.stem[1], "fc": self.classifier}

    @property
    def _pattern(self) -> re.Pattern[str]:
        pattern = re.escape(self.block)
        for field_ in ("stage", "place", "block"):
            pattern = pattern.replace(rf"\{{{field_}\}}", rf"(?P<{field_}>\d+)", 1)
            pattern = pattern.replace(rf"\{{{field_}\}}", rf"(?P={field_})")
        return re.compile(f"{pattern}(?P<inner>{'|'.join(map(re.escape, self.modules))})")


_MODULES = Layout("").modules
_NESTED = ("0.0.0.0", "0.0.0.1", "0.0.0.3", "0.0.0.4", "0.0.1", "0.0.2", "0.1.0", "0.1.1")  # as the authors' files
_BRANCH = ("main_branch.0", "main_branch.1", "main_branch.3", "main_branch.4", "main_branch.6", "main_branch.7")
LAYOUTS = {
    "torchvision": Layout("torchvision's names"),
    "timm": Layout("timm's names, which are torchvision's"),
    "mmpretrain": Layout(
        "the names of mmpretrain",
        stem=("backbone.conv1", "backbone.bn1"),
        block="backbone.layer{stage}.{block}.",
        classifier="head.fc",
    ),
    "detectron2": Layout(
        "the names of detectron2",
        stem=("stem.conv1", "stem.conv1.norm"),
        block="res{place}.{block}.",
        modules=(
            *(f"conv{number}{norm}" for number in (1, 2, 3) for norm in ("", ".norm")),
            "shortcut",
            "shortcut.norm",
        ),
        classifier="linear",
        first=2,
        counters=False,
    ),
    "cadene": Layout(
        "the names of Cadene/pretrained-models.pytorch",
        stem=("features.0", "features.1"),
        block="features.{place}.{block}.",
        modules=_NESTED,
        classifier="last_linear",
        first=4,
    ),
    "clcarwin": Layout(
        "the names of clcarwin/convert_torch_to_pytorch",
        stem=("0", "1"),
        block="{place}.{block}.",
        modules=_NESTED,
        classifier="10.1",
        first=4,
    ),
    "huanghoujing": Layout(
        "the names of huanghoujing/resnext-pytorch",
        block="stage{stage}.{block}.",
        modules=(*_BRANCH, "shortcut_transform.0", "shortcut_transform.1"),
    ),
    "prlz77": Layout(
        "the names of prlz77/ResNeXt.pytorch",
        stem=("conv_1_3x3", "bn_1"),
        block="stage_{stage}.stage_{stage}_bottleneck_{block}.",
        modules=(
            "conv_reduce",
            "bn_reduce",
            "conv_conv",
            "bn",
            "conv_expand",
            "bn_expand",
            "shortcut.shortcut_conv",
            "shortcut.shortcut_bn",
        ),
        classifier="classifier",
    ),
}  # that files can be written in; whatever has another is read by its structure
_PORTS = (  # a key that only this port has, its title, and what is known of it that its weights do not tell
    (r"layer1\.0\.conv1\.weight", LAYOUTS["torchvision"].title, ""),
    (r"layer1\.0\.paths\.0\.conv1\.weight", "our own names", ""),
    (r"stage1\.0\.(main_branch|paths)\.", LAYOUTS["huanghoujing"].title, ""),
    (r"features\.4\.0\.0\.", LAYOUTS["cadene"].title, ""),
    (r"4\.0\.0\.0\.", LAYOUTS["clcarwin"].title, ""),
    (r"backbone\.layer1\.0\.", LAYOUTS["mmpretrain"].title, ""),
    (
        r"(.*\.)?res2\.0\.conv1\.norm\.",
        LAYOUTS["detectron2"].title,
        "most published files of detectron2 take BGR input, not RGB, which the weights do not tell; the stride is "
        "taken to be on the 3x3 as in its ResNeXt configurations, not on the 1x1 (STRIDE_IN_1X1)",
    ),
    (r"stage_1\.stage_1_bottleneck_0\.", LAYOUTS["prlz77"].title, ""),
    (r"conv2\.0\.split_transforms\.", "the names of weiaicunzai/pytorch-cifar100", ""),
    (
        r"conv2_block1_1_conv/",
        "the names of keras-applications",
        "its batch norms have an eps of 1.001e-5, ours of 1e-5: outputs differ by about 1e-6 of their size",
    ),
    (r".*conv2/block1/1/conv/", "the names of TensorNets", ""),
    (r"bb_0_0\.conv0\.", "the names of PaddleClas", ""),
)
_OURS = re.compile(
    r"(?:conv1|bn1|fc|layer[1-4]\.\d+\.(?:(?:paths\.\d+\.)?(?:conv|bn)[1-3]|downsample\.[01]))"
    r"\.(?:weight|bias|running_mean|running_var|num_batches_tracked)"
)
_GATE = re.compile(r"(?i)(^|[._])(se|se_module|se_block|se_layer)[._]|squeeze|excit")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
_COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel
_EMA = re.compile(r"(?i)(?<![a-z])ema(?![a-z])|averag|shadow")
_NO_NETWORK = re.compile(r"(?i)optim|sched|scaler|callback|loop|_state$(?<!model_state)")
_STEMS = {(channels, kernel, kernel) for channels in (1, 3) for kernel in (3, 7)}  # weights, less their outputs
_DOWNSAMPLE = ("downsample.0", "downsample.1")
_SILENT = (
    "what weights cannot tell is taken to be as in the paper: the stride on the 3x3, a ReLU after the addition, "
    "RGB input normalised as ImageNet's"
)


_ADVICE = (
    "If it is a ResNeXt all the same, build it with the code that it belongs to, and save its weights under "
    "torchvision's names"
)


_Placed = list[tuple[str, "_Module"]]


class LayoutError(ValueError):
    """The entries have no reading as a ResNeXt, or more than one. Says what fits least and where."""


@dataclass(frozen=True)
class Weights:
    """The tensors of one network in a checkpoint, and what was passed over to get at them, for people."""

    tensors: dict[str, Tensor]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How a state_dict is read.

    Attributes:
        names: each entry of the file to the entry of a ResNeXt.
        form: of the names, "A", "B" or "C".
        recognised: by what, for people: "the names of mmpretrain" or "order and shapes".
        remark: what the user should know of such files, or "".
        left_out: entries of the file that are not the network's.
    """

    names: dict[str, str]
    form: str
    recognised: str
    remark: str
    left_out: tuple[str, ...] = ()


@dataclass
class _Module:
    """A convolution, batch norm or linear layer of the file: entries by role."""

    name: str
    entries: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        dims = len(self.shapes.get("weight", ()))
        if dims == 4:
            return "convolution"
        return "linear" if dims == 2 else "norm"

    @property
    def weight(self) -> tuple[int, ...]:
        return self.shapes["weight"]

    @property
    def channels(self) -> int:
        return next((shape[0] for role, shape in self.shapes.items() if role != "num_batches_tracked" and shape), 0)

    def __str__(self) -> str:
        role = next(iter(self.entries))
        return f"{self.entries.get('weight', self.entries[role])} {self.shapes.get('weight', self.shapes[role])}"


_ANY_NORM = _Module("")


@dataclass(frozen=True)
class _Unit:
    """A convolution and the batch norm after it. In form A some convolutions have none, and one norm follows a sum."""

    convolution: _Module | None
    norm: _Module | None

    @property
    def outputs(self) -> int:
        return self.convolution.weight[0] if self.convolution else 0

    @property
    def inputs(self) -> int:
        """Input channels of a group."""
        return self.convolution.weight[1] if self.convolution else 0

    @property
    def kernel(self) -> int:
        return self.convolution.weight[2] if self.convolution else 0

    def named(self, convolution: str, norm: str) -> _Placed:
        """Its modules under the names that they have in a ResNeXt."""
        return [(name, module) for name, module in ((convolution, self.convolution), (norm, self.norm)) if module]

    def __str__(self) -> str:
        return str(self.convolution or self.norm)


def find_weights(checkpoint: object, ema: bool | None = None) -> Weights:
    """The weights of the network in what a training script saved: a state_dict, or mappings that hold one.

    Args:
        checkpoint: what `torch.load` returned.
        ema: True for the moving average of the weights, False for the weights themselves. By default the average where
            there is one, as timm's `load_checkpoint` does; a remark says so.

    Prefixes of wrappers (`module.`, `_orig_mod.`, `model.`, …) are removed. Raises LayoutError where there is no
    network, more than one, or not the kind that `ema` asks for.
    """
    found = list(_state_dicts(checkpoint, ""))
    if not found and (tensors := _named_tensors(checkpoint)):
        found = [("", tensors)]
    if not found:
        raise LayoutError(f"expected a state_dict, got {_describe(checkpoint)}")
    averaged = [each for each in found if _EMA.search(each[0])]
    if not averaged and len(found) == 2 and found[1][0] == "['current_model_state']":  # Lightning's WeightAveraging
        averaged = found[:1]
    plain = [each for each in found if each not in averaged]
    if ema is not None and not (averaged if ema else plain):
        kind = "moving average of the weights (EMA)" if ema else "weights but their moving average (EMA)"
        paths = ", ".join(path or "a plain state_dict" for path, _ in found)
        raise LayoutError(f"ema={ema}, but the checkpoint has no {kind}; it has {paths}")
    chosen = averaged if (bool(averaged) if ema is None else ema) else plain
    if len(chosen) > 1:
        raise LayoutError(
            f"more than one network: {', '.join(path for path, _ in chosen)}; save the state_dict of the one you mean"
        )
    path, tensors = chosen[0]
    remarks = [f"took {path}"] if path else []
    if ema is None and averaged and plain:
        remarks = [f"took the moving average of the weights, {path}; ema=False takes {plain[0][0]}"]
    tensors = {name: value for name, value in tensors.items() if name not in _COUNTERS}
    while prefix := next((each for each in _WRAPPERS if all(name.startswith(each) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        remarks.append(f"removed the prefix {prefix}")
    return Weights(tensors, tuple(remarks))


def recognise_ours(names: Iterable[str]) -> str:
    """By what our own names are recognised, or "" where some entry has another kind of name."""
    names = list(names)
    if not names or not all(map(_OURS.fullmatch, names)):
        return ""
    return "our own names" if any(".paths." in name for name in names) else "torchvision's names"


def _state_dicts(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors with a convolution among them, and where it is; optimizers are passed over."""
    if not isinstance(value, Mapping) or depth > 4:
        return
    if tensors := _named_tensors(value):
        if any(each.dim() == 4 for each in tensors.values()):
            yield path, tensors
        return
    for key, inner in value.items():
        if not _NO_NETWORK.search(str(key)):
            yield from _state_dicts(inner, f"{path}[{key!r}]", depth + 1)


def _named_tensors(value: object) -> dict[str, Tensor]:
    """A mapping of names to tensors; empty for anything else. Files of Python 2 may have names of bytes."""
    if not isinstance(value, Mapping) or not all(isinstance(each, Tensor) for each in value.values()):
        return {}
    return {name.decode() if isinstance(name, bytes) else str(name): each for name, each in value.items()}


def _describe(checkpoint: object) -> str:
    kind = type(checkpoint).__name__
    if not isinstance(checkpoint, Mapping):
        return kind
    if not checkpoint:
        return f"{kind} without entries"
    keys = [f"{type(value).__name__} under {key!r}" for key, value in itertools.islice(checkpoint.items(), 3)]
    more = f" and {len(checkpoint) - 3} more" if len(checkpoint) > 3 else ""
    return f"{kind} without the tensors of a network: got {', '.join(keys)}{more}"


def read_layout(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Reading]:
    """The weights under the names of a ResNeXt, in the order of the file, and how they were recognised.

    A backbone inside a larger network (a detector's, say) is found by its prefix. Raises LayoutError where there is no
    reading, or more than one: it says what makes it another network, and which entries do not fit the nearest layout.
    """
    tensors = _with_flat_classifier(_as_torch(state_dict))
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    try:
        if not any(len(shape) == 4 for shape in shapes.values()):
            raise LayoutError("no entry 'conv1.weight', and no other convolution")
        reading = _read_network(shapes)
        renamed = _widened({ours: tensors[theirs] for theirs, ours in reading.names.items()})
        if reading.form == "C":
            _check_network(renamed, reading)
        return renamed, reading
    except LayoutError as error:
        other = _what_else(shapes)
        reason = f"{other}; {error}" if other else str(error)
        raise LayoutError(f"not the weights of a ResNeXt: {reason}; {_compare(shapes)}. {_ADVICE}") from None


def _check_network(state_dict: Mapping[str, Tensor], reading: Reading) -> None:
    """Raise LayoutError, by the names of the file, where these are bottlenecks but of other sizes than a ResNeXt's."""
    theirs = {ours: name for name, ours in reading.names.items()}
    shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
    try:
        found = Architecture.from_shapes(shapes)
        expected = {name: tuple(value.shape) for name, value in found.build_empty().state_dict().items()}
        counted = any(name.endswith("num_batches_tracked") for name in shapes)
        check_shapes(
            {theirs[name]: shape for name, shape in shapes.items()},
            {theirs.get(k, k): v for k, v in expected.items() if counted or not k.endswith("num_batches_tracked")},
            found.name,
        )
    except (ValueError, RuntimeError, TypeError) as error:  # RuntimeError: sizes that torch cannot build
        reason = str(error).splitlines()[0].removeprefix("not the weights of ")
        raise LayoutError(f"bottlenecks, but not of the sizes that a ResNeXt has; compared with {reason}") from None
    convolution, norm = (theirs.get(f"layer2.0.{name}.weight", "") for name in _DOWNSAMPLE)
    if re.search(r"(?i)(shortcut|downsample|skip)\.1\.weight$", convolution) and norm.endswith(".2.weight"):
        raise LayoutError(
            f"something without weights stands ahead of the shortcut's {convolution}: average pooling, as in ResNet-D?"
        )


def _what_else(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What is known of other networks: their mark in these entries, in words; "" where there is none."""
    convolutions = [(name, shape) for name, shape in shapes.items() if len(shape) == 4]
    kernels = [shape[2] for _, shape in convolutions]
    if not kernels:
        return ""
    first_1x1 = kernels.index(1) if 1 in kernels else len(kernels)
    gate = next((name for name in shapes if _GATE.search(name)), None)
    if gate:
        return f"it has squeeze-and-excitation modules, as SENet ({gate})"
    if not any(_ROLE.get(re.split(r"[./]", name.removesuffix(":0"))[-1]) == "running_mean" for name in shapes):
        return "it has no batch norms with running statistics, as VGG"
    if 3 * kernels.count(1) < len(kernels):
        return "its blocks are of 3x3 convolutions (basic blocks, as in ResNet-18 and VGG), not bottlenecks"
    if first_1x1 > 1 and kernels[1:first_1x1] == [3] * (first_1x1 - 1):
        return f"its stem has {first_1x1} convolutions (a deep stem, as in ResNet-C and -D): {convolutions[1][0]}"
    for (name, _), (_, before), (_, after) in zip(convolutions[2:], convolutions[1:], convolutions[2:], strict=False):
        if before[2] == after[2] == 3:
            return f"a block has several 3x3 convolutions, as in Res2Net ({name})"
    ahead = next(_norms_ahead(shapes), None)
    return f"its batch norms stand ahead of their convolutions (pre-activation, ResNet v2): {ahead}" if ahead else ""


def _norms_ahead(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Norms whose channels are those that the convolution of the same number takes, not those that it puts out."""
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        convolution = shapes.get(re.sub(r"(?:bn|norm)(?=\d*$)", "conv", module) + ".weight", ())
        if leaf == "weight" and len(shape) == 1 and len(convolution) == 4:
            outputs, inputs, kernel, _ = convolution
            if kernel == 1 and shape[0] == inputs != outputs:
                yield name


def write_layout(state_dict: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """A state_dict of form C under the names of a layout of `LAYOUTS`."""
    renamed = ((LAYOUTS[layout].theirs(name), value) for name, value in state_dict.items())
    return {name: value for name, value in renamed if name is not None}


def _compare(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Which known layout is nearest to these names, and which entries do not fit it."""
    fits = {key: sum(layout.ours(name) is not None for name in shapes) for key, layout in LAYOUTS.items()}
    key = max(fits, key=lambda key: fits[key])
    layout = LAYOUTS[key]
    if 5 * fits[key] < len(shapes):
        return f"its names are not those of a known layout ({', '.join(LAYOUTS)}), but {', '.join([*shapes][:3])}, …"
    ours = {renamed: shape for name, shape in shapes.items() if (renamed := layout.ours(name))}
    try:
        found = Architecture.from_shapes(ours)
        expected = {name: tuple(value.shape) for name, value in found.build_empty().state_dict().items()}
        counted = any(name.endswith("num_batches_tracked") for name in shapes)
        check_shapes(
            shapes,
            {
                theirs: shape
                for name, shape in expected.items()
                if (counted or not name.endswith("num_batches_tracked")) and (theirs := layout.theirs(name))
            },
            found.name,
        )
    except (ValueError, RuntimeError, TypeError) as error:  # RuntimeError: sizes that torch cannot build
        reason = str(error).splitlines()[0]
        if "left over: " not in reason and (others := [name for name in shapes if not layout.ours(name)]):
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            reason += f"; left over: {', '.join(others[:3])}{more}"
        return f"nearest are {layout.title} ({fits[key]} of {len(shapes)} entries), but: {reason}"
    return f"by their names and shapes they are of {found.name} in {layout.title}"


def _read_network(shapes: Mapping[str, tuple[int, ...]]) -> Reading:
    """The reading of all entries, else that of the entries under a prefix which have one."""
    try:
        return _read(shapes)
    except LayoutError as error:
        readings: dict[tuple[str, ...], Reading] = {}
        for prefix in _prefixes_of_stems(shapes):
            inside = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
            with contextlib.suppress(LayoutError):
                reading = _read(inside)
                left_out = tuple(name for name in shapes if name not in inside)
                readings.setdefault(tuple(inside), replace(reading, left_out=left_out))
        if len(readings) != 1:
            raise error
        return next(iter(readings.values()))


def _prefixes_of_stems(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What stands ahead of the names of convolutions that could be a stem, the shortest first."""
    stems = [name for name, shape in shapes.items() if len(shape) == 4 and shape[1] <= 4 and shape[2] in (3, 7)]
    prefixes = {name[: match.end()] for name in stems[:8] for match in re.finditer(r"[./]", name)}
    return sorted(
        (prefix for prefix in prefixes if not all(map(str.startswith, shapes, [prefix] * len(shapes)))), key=len
    )


def _read(shapes: Mapping[str, tuple[int, ...]]) -> Reading:
    """The one reading of these entries: in the order of the file, else in one that their names tell."""
    problems = []
    for order in _orders(shapes):
        try:
            names, form = _names(_modules({name: shapes[name] for name in order}))
        except LayoutError as error:
            problems.append(error)
            continue
        port = next((port for port in _PORTS if any(re.match(port[0], name) for name in shapes)), None)
        if port is None:
            return Reading(names, form, "order and shapes, as the port of ResNeXt that it is", _SILENT)
        return Reading(names, form, port[1], port[2])
    raise problems[0]


def _orders(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """The file's own order; that of names; that of names with the stem first; a known layout's; that of shapes.

    A file in the order of its names as text, as safetensors has them, has layer3.10 ahead of layer3.2: it is not used
    in that order, which would read blocks of the same shapes in the wrong one.
    """
    by_name = sorted(shapes, key=_natural)
    convolutions = [name for name in shapes if len(shapes[name]) == 4]
    if convolutions != sorted(convolutions) or convolutions == sorted(convolutions, key=_natural):
        yield list(shapes)
    yield by_name
    if paths := dict.fromkeys(name[: name.index(".paths.") + 1] for name in by_name if ".paths." in name):
        yield _paths_first(by_name, shapes, list(paths))
    stem = next((name for name in by_name if len(shapes[name]) == 4 and shapes[name][1:] in _STEMS), "")
    stem = re.split(r"[./_]", stem)[0]
    yield sorted(by_name, key=lambda name: re.split(r"[./_]", name)[0] != stem)
    for layout in LAYOUTS.values():
        ours = {name: layout.ours(name) or "" for name in shapes}
        if all(ours.values()):
            yield sorted(shapes, key=lambda name: _place(ours[name]))

    if by_shapes := _order_by_shapes({name: shapes[name] for name in by_name}):
        yield by_shapes


def _paths_first(names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], blocks: Sequence[str]) -> list[str]:
    """The stem, each block with its paths ahead of what is after them, the classifier."""

    def place(name: str) -> tuple[int, int, bool]:
        block = next((index for index, prefix in enumerate(blocks, 1) if name.startswith(prefix)), 0)
        outside = len(blocks) + 1 if len(shapes[name]) == 2 else 0
        return block or outside, len(shapes[name]) != 4 and not block, ".paths." not in name

    return sorted(names, key=lambda name: (place(name)[0], place(name)[1:]))


def _order_by_shapes(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The order in which the blocks that names tell apart use their entries; empty where their shapes leave it open.

    For files in the order of names (safetensors) whose names are not in the order of use: expand, reduce, transform.
    """
    with contextlib.suppress(LayoutError):
        modules = _modules(shapes)
        convolutions = [module for module in modules if module.kind == "convolution"]
        stem = next((each for each in convolutions if each.weight[1:] in _STEMS), None)
        middles = [each for each in convolutions if each is not stem and each.weight[2] == 3]
        if stem is None or not middles or any(stem.weight[1:] == each.weight[1:] for each in middles):
            return []
        prefixes = [_own_prefix(each.name, [other.name for other in middles if other is not each]) for each in middles]
        inside = {module.name for module in modules if module.name.startswith(tuple(prefixes))}
        outside = [module for module in modules if module.name not in inside]
        order = [stem, *(module for module in outside if module is not stem)]
        channels = stem.weight[0]
        for prefix in prefixes:
            block = _sort_block([module for module in modules if module.name.startswith(prefix)], channels)
            order += block
            channels = block[4].weight[0]
        return [entry for module in order for entry in module.entries.values()]
    return []


def _own_prefix(name: str, others: Sequence[str]) -> str:
    """The shortest beginning of a name, up to a separator, that no other one has."""
    for match in re.finditer(r"[./_]", name):
        if not any(other.startswith(name[: match.end()]) for other in others):
            return name[: match.end()]
    raise LayoutError(f"{name}: not in a block of its own")


def _sort_block(modules: Sequence[_Module], channels: int) -> list[_Module]:
    """Its convolutions as they are used, the shortcut last, each with its norm. Raises LayoutError if that is open."""
    convolutions = [module for module in modules if module.kind == "convolution"]
    norms = [module for module in modules if module.kind == "norm"]
    if len(convolutions) not in (3, 4) or len(norms) != len(convolutions):
        raise LayoutError("not a block")
    fits = []
    for order in itertools.permutations(convolutions):
        units = [_Unit(convolution, _ANY_NORM) for convolution in order]
        shortcut = units[3:]
        if _is_bottleneck(units[:3], channels):
            outputs = units[2].outputs
            sides = [(each.kernel, each.inputs, each.outputs) for each in shortcut]
            if sides == [(1, channels, outputs)] or (not sides and outputs == channels):
                fits.append(order)
    if len(fits) != 1:
        raise LayoutError("no single order of its convolutions")
    scored: list[tuple[int, int, tuple[_Module, ...]]] = []
    for pairing in itertools.permutations(norms):
        if all(norm.channels == each.weight[0] for norm, each in zip(pairing, fits[0], strict=True)):
            scored.append((sum(map(_likeness, fits[0], pairing)), len(scored), pairing))
    best = sorted(scored, reverse=True)[:2]
    if not best or (len(best) == 2 and best[0][0] == best[1][0]):
        raise LayoutError("no single way to give its convolutions their norms")
    return [module for pair in zip(fits[0], best[0][2], strict=True) for module in pair]


def _likeness(convolution: _Module, norm: _Module) -> int:
    """How much the names say that these belong together."""
    mine, theirs = (set(re.findall(r"\d+|[a-z]+", module.name.lower())) for module in (convolution, norm))
    return len(mine & theirs) - len(mine ^ theirs) + 4 * _related(convolution, norm)


def _place(name: str) -> tuple[int, ...]:
    """Where an entry of form C stands in a network."""
    module = name.rpartition(".")[0]
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", module):
        return int(match[1]), int(match[2]), _MODULES.index(match[3])
    return (9,) if module == "fc" else (0, ("conv1", "bn1").index(module))


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in a name by their value: conv10 after conv9."""
    return [(int(digits), "") if digits else (-1, text) for digits, text in re.findall(r"(\d+)|(\D+)", name)]


def _modules(shapes: Mapping[str, tuple[int, ...]]) -> list[_Module]:
    """The modules that the entries belong to, in the order of the entries. Raises LayoutError for a strange entry."""
    modules: dict[str, _Module] = {}
    for entry, shape in shapes.items():
        name, _, leaf = entry.removesuffix(":0").replace("/", ".").rpartition(".")
        role = _ROLE.get(leaf)
        module = modules.setdefault(name, _Module(name))
        if role is None or role in module.entries:
            raise LayoutError(f"{entry} {shape} has no place in a ResNeXt")
        module.entries[role], module.shapes[role] = entry, shape
    return list(modules.values())


def _names(modules: Sequence[_Module]) -> tuple[dict[str, str], str]:
    """Entries to entries of a ResNeXt, and its form. Raises LayoutError."""
    linear = [module for module in modules if module.kind == "linear"]
    if len(linear) > 1:
        raise LayoutError(f"two linear layers, {linear[0]} and {linear[1]}; a ResNeXt has one")
    units = _units([module for module in modules if module.kind != "linear"])
    readings = list(_readings(units))
    if not readings:
        raise LayoutError(_misfit(units))
    if len(readings) > 1:
        readings = [reading for reading in readings if _shortcuts_are_named(reading)]
    if len(readings) != 1:
        raise LayoutError("order and shapes have more than one reading as a ResNeXt: which 1x1 is the shortcut?")
    names: dict[str, str] = {}
    for where, module in readings[0]:
        names |= {entry: f"{where}.{role}" for role, entry in module.entries.items()}
    names |= {entry: f"fc.{role}" for module in linear for role, entry in module.entries.items()}
    form = "C"
    if any(".paths." in name for name in names.values()):
        form = "A" if any(re.search(r"paths\.0\.conv3", name) for name in names.values()) else "B"
    return names, form


def _units(modules: Sequence[_Module]) -> list[_Unit]:
    """Each convolution with its batch norm: the module after it, or the n-th of both where their names agree."""
    for module in modules:
        if module.kind == "convolution" and "bias" in module.entries:
            raise LayoutError(f"{module.entries['bias']}: a convolution with a bias, which a ResNeXt does not have")
        if module.kind == "convolution" and module.weight[2] != module.weight[3]:
            raise LayoutError(f"{module}: not a square kernel")
    units: list[_Unit] = []
    for module in modules:
        if module.kind == "convolution":
            units.append(_Unit(module, None))
        elif units and units[-1].norm is None and units[-1].convolution:
            units[-1] = _Unit(units[-1].convolution, module)
        else:
            units.append(_Unit(None, module))
    convolutions = [unit.convolution for unit in units if unit.convolution]
    norms = [unit.norm for unit in units if unit.norm]
    paired = len(units) == len(convolutions) == len(norms)
    if not paired and len(convolutions) == len(norms) and all(map(_related, convolutions, norms)):
        units = [_Unit(convolution, norm) for convolution, norm in zip(convolutions, norms, strict=True)]
    if units and units[0].convolution is None:
        raise LayoutError(f"{units[0]}: a batch norm ahead of the first convolution, which a ResNeXt does not have")
    for unit in units:
        if unit.convolution and unit.norm and unit.norm.channels != unit.outputs:
            raise LayoutError(f"{unit.norm} after {unit.convolution}: another number of channels")
    return units


def _related(convolution: _Module, norm: _Module) -> bool:
    """Whether the names say that these belong together: conv1 and bn1, or downsample.0 and downsample.1."""
    mine, theirs = (
        re.findall(r"\d+|[a-z]+", module.name.lower().replace("batch_norm", "norm")) for module in (convolution, norm)
    )
    if len(mine) != len(theirs):
        return theirs[: len(mine)] == mine
    differing = {(a, b) for a, b in zip(mine, theirs, strict=True) if a != b}
    if len(differing) != 1:
        return False
    a, b = differing.pop()
    return int(b) == int(a) + 1 if a.isdecimal() and b.isdecimal() else not (a.isdecimal() or b.isdecimal())


def _readings(units: Sequence[_Unit]) -> Iterator[_Placed]:
    """Every reading of the units as a network, one for each place that the shortcut may have in its block."""
    if not units or units[0].norm is None or units[0].kernel not in (3, 7):
        return  # no stem
    seen: list[list[str]] = []
    for place in range(4):  # of the shortcut: before the first, second or third convolution, or after them
        blocks = _blocks(units, place)
        if blocks is None:
            continue
        placed = units[0].named("conv1", "bn1")
        stage, index, channels = 0, 0, units[0].outputs
        for block in blocks:
            outputs = block.outputs
            stage, index = (stage + 1, 0) if outputs != channels or not stage else (stage, index + 1)
            channels = outputs
            placed += [(f"layer{stage}.{index}.{where}", module) for where, module in block.modules]
        key = [f"{where}={module.name}" for where, module in placed]
        if sorted(key) not in seen:
            seen.append(sorted(key))
            yield placed


@dataclass(frozen=True)
class _Block:
    """A bottleneck as read: how many units it takes, its output channels, and its modules by their names."""

    length: int
    outputs: int
    modules: _Placed


_State = tuple[int, int]  # the next unit, and the channels of the map there


def _blocks(units: Sequence[_Unit], place: int) -> list[_Block] | None:
    """The bottlenecks after the stem, with their shortcuts at `place`; None where they have no single reading."""
    reached = _reach(units, place)
    ends = [state for state in reached if state[0] == len(units) and state[0] > 1]
    if len(ends) != 1:
        return None
    path, step = [], reached[ends[0]]
    while step is not None:
        path.append(step[1])
        step = reached[step[0]]
    return path[::-1]


def _reach(units: Sequence[_Unit], place: int) -> dict[_State, tuple[_State, _Block] | None]:
    """How far bottlenecks can be read: each state, and the step to it. A shortcut may look like a 1x1."""
    start = (1, units[0].outputs)
    reached: dict[_State, tuple[_State, _Block] | None] = {start: None}
    waiting = [start]
    while waiting:
        at, channels = waiting.pop()
        for block in _blocks_at(units, at, channels, place):
            end = (at + block.length, block.outputs)
            if end not in reached:
                reached[end] = ((at, channels), block)
                waiting.append(end)
    return reached


def _blocks_at(units: Sequence[_Unit], start: int, channels: int, place: int) -> Iterator[_Block]:
    """The bottlenecks that can start at a unit: with its shortcut at `place`, and without one."""
    window = list(units[start : start + 4])
    if len(window) == 4:
        shortcut = window.pop(place)
        fits = shortcut.kernel == 1 and shortcut.inputs == channels and shortcut.norm is not None
        if fits and shortcut.outputs == window[2].outputs and _is_bottleneck(window, channels):
            yield _Block(4, shortcut.outputs, _plain(window) + shortcut.named(*_DOWNSAMPLE))
    window = list(units[start : start + 3])
    if len(window) == 3 and window[2].outputs == channels and _is_bottleneck(window, channels):
        yield _Block(3, channels, _plain(window))
    yield from _blocks_of_paths(units, start, channels)


def _is_bottleneck(units: Sequence[_Unit], channels: int) -> bool:
    first, middle, last = units
    return (
        all(unit.norm is not None for unit in units)
        and (first.kernel, middle.kernel, last.kernel) == (1, 3, 1)
        and channels % first.inputs == 0
        and first.outputs == middle.outputs == last.inputs
        and middle.outputs % middle.inputs == 0
        and (first.inputs == channels or channels // first.inputs == middle.outputs // middle.inputs)
    )


def _plain(units: Sequence[_Unit]) -> _Placed:
    return [placed for number, unit in enumerate(units, 1) for placed in unit.named(f"conv{number}", f"bn{number}")]


def _blocks_of_paths(units: Sequence[_Unit], start: int, channels: int) -> Iterator[_Block]:
    """The bottlenecks of forms A and B that can start at a unit, the shortcut before or after the paths."""

    def shortcut_at(index: int, outputs: int) -> _Placed:
        unit = units[index] if index < len(units) else None
        fits = unit and unit.norm and (unit.kernel, unit.inputs, unit.outputs) == (1, channels, outputs)
        return unit.named(*_DOWNSAMPLE) if unit and fits else []

    for first, length in itertools.product((start, start + 1), (2, 3)):
        paths, end = 0, first
        while _is_path(units[end : end + length], channels, length):
            paths, end = paths + 1, end + length
            if length == 3 and units[end - 1].norm:
                break  # the sum's
        if paths < 2 or (length == 2 and end >= len(units)):
            continue
        modules = [
            (f"paths.{number}.{where}", module)
            for number in range(paths)
            for where, module in _plain(units[first + number * length : first + (number + 1) * length])
        ]
        last = units[end - 1] if length == 3 else units[end]
        after = shortcut_at(end + (length == 2), last.outputs)
        if length == 2:  # form B joins the paths ahead of one 1x1
            if not last.norm or last.kernel != 1 or last.inputs != paths * units[first + 1].outputs:
                continue
            modules += last.named("conv3", "bn3")
            end += 1
        elif last.norm:  # form A sums them ahead of one batch norm, here right after the last path
            modules[-1] = ("bn3", last.norm)
        elif after and end + 1 < len(units) and (norm := units[end + 1].norm) and not units[end + 1].convolution:
            yield _Block(end + 2 - start, last.outputs, [*modules, ("bn3", norm), *after])
            continue
        else:
            continue
        if first > start:
            if before := shortcut_at(start, last.outputs):
                yield _Block(end - start, last.outputs, modules + before)
            continue
        if after:
            yield _Block(end + 1 - start, last.outputs, modules + after)
        if last.outputs == channels:
            yield _Block(end - start, channels, modules)


def _is_path(units: Sequence[_Unit], channels: int, length: int) -> bool:
    if len(units) < length or [unit.kernel for unit in units] != [1, 3, 1][:length]:
        return False
    widths = units[0].outputs == units[1].inputs == units[1].outputs
    normed = units[0].norm is not None and units[1].norm is not None
    return units[0].inputs == channels and widths and normed and (length == 2 or units[2].inputs == units[1].outputs)


def _shortcuts_are_named(placed: _Placed) -> bool:
    """Whether the names of the file call those modules shortcuts that this reading takes for them."""
    return all(bool(_SHORTCUT.search(module.name.lower())) == ("downsample" in where) for where, module in placed)


def _misfit(units: Sequence[_Unit]) -> str:
    """The first unit that no reading reaches, in words."""
    if not units:
        return "no convolution"
    stem = units[0]
    if stem.kernel not in (3, 7) or stem.norm is None:
        return f"it starts with {stem}; expected a convolution of 7x7 or 3x3 and its batch norm"
    furthest, channels = max(state for place in range(4) for state in _reach(units, place))
    if furthest >= len(units):
        return "the last bottleneck is cut short"
    shown = ", ".join(str(unit) for unit in units[furthest : furthest + 3])
    return (
        f"no bottleneck of a ResNeXt starts at {shown}; expected 1x1, grouped 3x3 and 1x1 convolutions on {channels} "
        "channels, and a 1x1 as shortcut where the shape changes"
    )


def _with_flat_classifier(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier that is a 1x1 convolution, the only one with a bias, as the linear layer that it is."""
    biased = [
        name
        for name, value in tensors.items()
        if value.dim() == 4
        and tuple(value.shape[2:]) == (1, 1)
        and name.endswith(".weight")
        and f"{name.removesuffix('weight')}bias" in tensors
    ]
    others = [value for name, value in tensors.items() if value.dim() == 4 and name not in biased]
    features = max((value.shape[0] for value in others), default=0)
    linear = any(value.dim() == 2 for value in tensors.values())
    if len(biased) == 1 and not linear and tensors[biased[0]].shape[1] == features:
        tensors[biased[0]] = tensors[biased[0]].flatten(1)
    return tensors


def _as_torch(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Kernels of TensorFlow's family (kH, kW, in, out) as torch's (out, in, kH, kW); all else as it is."""
    kernels = [value for value in state_dict.values() if value.dim() == 4]
    last = bool(kernels) and all(value.shape[0] == value.shape[1] for value in kernels)
    if not last or all(value.shape[2] == value.shape[3] for value in kernels):
        return _with_linear_upright(dict(state_dict))
    return _with_linear_upright(
        {name: _channels_first(value) if value.dim() == 4 else value for name, value in state_dict.items()}
    )


def _channels_first(kernel: Tensor) -> Tensor:
    height, width, inputs, outputs = kernel.shape
    if height > 1 and outputs < inputs and inputs % outputs == 0:  # depthwise, summed over the inputs of a group
        groups = inputs // outputs
        return kernel.reshape(height, width, groups, outputs, outputs).permute(2, 4, 3, 0, 1).reshape(
            inputs, outputs, height, width
        )  # fmt: skip
    return kernel.permute(3, 2, 0, 1).contiguous()


def _with_linear_upright(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A linear weight (in, out), as TensorFlow and Paddle have it, as (out, in); the length of its bias tells."""
    foreign = any(name.endswith((":0", "._mean")) for name in tensors)  # decides for a square matrix
    lengths = {_MODULE.sub("", name): value.shape[0] for name, value in tensors.items() if value.dim() == 1}
    for name, value in tensors.items():
        if value.dim() == 2:
            rows, columns = value.shape
            if lengths.get(_MODULE.sub("", name), rows) != rows or (rows == columns and foreign):
                tensors[name] = value.t().contiguous()
    return tensors


def _widened(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A first 1x1 that is grouped, as some ports have it, as the dense one of the paper: zeros between the groups."""
    for name, value in state_dict.items():
        if match := re.fullmatch(r"(layer\d\.\d+\.)conv1\.weight", name):
            shortcut = state_dict.get(f"{match[1]}downsample.0.weight")
            channels = state_dict[f"{match[1]}conv3.weight"].shape[0] if shortcut is None else shortcut.shape[1]
            if value.shape[1] != channels:
                dense = value.new_zeros(value.shape[0], channels, 1, 1)
                groups, width = channels // value.shape[1], value.shape[1]
                for group, part in enumerate(value.chunk(groups)):
                    rows = slice(group * len(part), (group + 1) * len(part))
                    dense[rows, group * width : (group + 1) * width] = part
                state_dict[name] = dense
    return state_dict
