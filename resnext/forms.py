"""Exact rewrites of weights between the three forms of figure 3 (arXiv 1611.05431): tensors are sliced or joined.

    form A  layer1.0.paths.7.conv1, .bn1, .conv2, .bn2, .conv3; layer1.0.bn3
    form B  layer1.0.paths.7.conv1, .bn1, .conv2, .bn2; layer1.0.conv3, layer1.0.bn3
    form C  layer1.0.conv1, .bn1, .conv2, .bn2, .conv3, .bn3

Path p of width d has the channels p * d up to (p + 1) * d of form C: rows of the weights of conv1 and conv2 and entries
of their batch norms, columns of the weight of conv3.

The forms are the same function only where bn1 and bn2 normalise each channel by itself, as batch norm does. Group norm
and layer norm mix channels, and would mix others on a path than in form C: such weights are not rewritten, and forms A
and B cannot be built with such layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

FORMS = ("A", "B", "C")

_PATH = re.compile(r"(layer\d\.\d+)\.paths\.(\d+)\.(.+)")
_BRANCH = re.compile(r"(layer\d\.\d+)\.((?:conv|bn)[123]\..+)")
_BLOCK = re.compile(r"layer\d\.\d+(?=\.)")
_ANYWHERE = re.compile(r"layer\d\.\d+\.(?:paths\.\d+\.)?conv1\.weight$")
_WEIGHTS = ("conv1.weight", "conv2.weight", "conv3.weight")
_ON_PATHS: dict[str, tuple[str, ...]] = {
    "C": (),
    "A": ("conv1", "bn1", "conv2", "bn2", "conv3"),
    "B": ("conv1", "bn1", "conv2", "bn2"),
}


def find_form(names: Iterable[str]) -> str:
    """Form A, B or C, by the names of a state_dict; C where no name has a path in it."""
    paths = [match for name in names if (match := _PATH.fullmatch(name))]
    if not paths:
        return "C"
    return "A" if any(match[3].startswith("conv3.") for match in paths) else "B"


def convert_state_dict(state_dict: Mapping[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    """The weights of a network of form `source` for the same network of form `target`, in the order of its state_dict.

    Nothing is computed: C to A to B to C gives the very same bytes. Tensors that are sliced or joined are new and
    contiguous; the others, like those of the stem and the classifier, are those of `state_dict` themselves.

    Raises ValueError for an unknown form, for weights that are not those of a ResNeXt of form `source`, and for weights
    whose bn1 or bn2 have no running statistics, because with other normalisations the forms are different functions.
    """
    for form in (source, target):
        if form not in FORMS:
            raise ValueError(f"unknown form {form!r}; expected one of {', '.join(FORMS)}")
    prefixes = {name[: match.start()] for name in state_dict if (match := _ANYWHERE.search(name)) and match.start()}
    if prefixes:
        raise ValueError(f"expected names like layer1.0.bn3.weight, got {min(prefixes)!r} before them; remove it")
    if not any(_BLOCK.match(name) for name in state_dict):
        raise ValueError("expected the weights of a ResNeXt, got no bottleneck (layer1.0)")
    found = find_form(state_dict)
    if found != source:
        raise ValueError(f"expected weights of form {source}, got those of form {found}; give source={found!r}")
    joined = _join(state_dict, source)
    if source == target:
        return dict(state_dict)
    _check_statistics(joined)
    return _split(joined, target)


def _join(state_dict: Mapping[str, Tensor], form: str) -> dict[str, Tensor]:
    """From any form to form C. Raises ValueError where the bottlenecks are not of that form."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in state_dict.items():
        if match := _PATH.fullmatch(name):
            parts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = value
    cardinality = max((max(numbered) + 1 for numbered in parts.values()), default=1)
    joined: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if match := _PATH.fullmatch(name):
            block, rest = match[1], match[3]
            name = f"{block}.{rest}"
            if name in joined:
                continue
            for path in range(cardinality):
                if path not in parts[name]:
                    raise ValueError(f"missing: {block}.paths.{path}.{rest}, of {cardinality} paths")
            value = _join_tensors(block, rest, [parts[name][path] for path in range(cardinality)])
        elif (match := _BRANCH.fullmatch(name)) and match[2].split(".")[0] in _ON_PATHS[form]:
            raise ValueError(f"left over: {name}, which form {form} has on its paths")
        joined[name] = value
    blocks = dict.fromkeys(match[0] for name in joined if (match := _BLOCK.match(name)))
    for name in (f"{block}.{weight}" for block in blocks for weight in _WEIGHTS):
        if name not in joined:
            raise ValueError(f"missing: {name}, for form {form}")
    return joined


def _check_statistics(state_dict: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the norms that the paths divide have running statistics, as batch norms do."""
    for block in dict.fromkeys(match[0] for name in state_dict if (match := _BLOCK.match(name))):
        for norm in ("bn1", "bn2"):
            if f"{block}.{norm}.running_var" not in state_dict:
                raise ValueError(
                    f"missing: {block}.{norm}.running_var; the forms are the same function only with batch norms, and "
                    "other normalisations have no running statistics (to rewrite gradients, give them together with "
                    "the buffers: {**model.state_dict(), **gradients})"
                )


def _join_tensors(block: str, name: str, tensors: list[Tensor]) -> Tensor:
    for path, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            raise ValueError(
                f"{block}.paths.{path}.{name}: {tuple(tensor.shape)}, expected {tuple(tensors[0].shape)} as on path 0"
            )
    if name.startswith("conv") and tensors[0].dim() != 4:
        raise ValueError(f"{block}.paths.0.{name}: {tuple(tensors[0].shape)}, expected the weight of a convolution")
    if tensors[0].dim() > 0:
        return torch.cat(tensors, 1 if name.startswith("conv3.") else 0)
    if any(not torch.equal(tensor, tensors[0]) for tensor in tensors):
        raise ValueError(f"{block}.{name}: the paths have different values; form C has one value for all of them")
    return tensors[0].clone()  # num_batches_tracked


def _split(state_dict: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    """From form C to another."""
    if form == "C":
        return state_dict
    branches: dict[str, dict[str, Tensor]] = {}
    for name, value in state_dict.items():
        if match := _BRANCH.fullmatch(name):
            branches.setdefault(match[1], {})[match[2]] = value
    result: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        match = _BRANCH.fullmatch(name)
        if match is None:
            result[name] = value
        elif match[1] in branches:
            result.update(_split_branch(match[1], branches.pop(match[1]), form))
    return result


def _split_branch(block: str, branch: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    cardinality = _cardinality(block, branch)
    parts = {
        name: _split_tensor(f"{block}.{name}", value, cardinality)
        for name, value in branch.items()
        if name.split(".")[0] in _ON_PATHS[form]
    }
    result = {
        f"{block}.paths.{path}.{name}": tensors[path] for path in range(cardinality) for name, tensors in parts.items()
    }
    return result | {f"{block}.{name}": value for name, value in branch.items() if name not in parts}


def _cardinality(block: str, branch: Mapping[str, Tensor]) -> int:
    weight = branch.get("conv2.weight")
    if weight is None or weight.dim() != 4 or not weight.shape[1] or weight.shape[0] % weight.shape[1]:
        shape = None if weight is None else tuple(weight.shape)
        raise ValueError(
            f"{block}.conv2.weight: expected a grouped convolution (C * d, d, 3, 3) of form C, got {shape}"
        )
    return weight.shape[0] // weight.shape[1]


def _split_tensor(name: str, value: Tensor, cardinality: int) -> list[Tensor]:
    if value.dim() == 0:
        return [value.clone() for _ in range(cardinality)]
    dim = 1 if ".conv3." in name else 0
    if value.dim() <= dim or value.shape[dim] % cardinality:
        raise ValueError(f"{name}: {tuple(value.shape)} cannot be cut into {cardinality} paths along dimension {dim}")
    return [part.clone(memory_format=torch.contiguous_format) for part in value.chunk(cardinality, dim)]
