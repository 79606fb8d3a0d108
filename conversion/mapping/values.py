"""The numbers of a ResNeXt's layers in a Torch7 file, as float32 arrays in PyTorch's shapes; each used exactly once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from conversion.mapping.structure import ConvNorm
from conversion.t7 import Tensor, TorchObject, walk

PARAMETERS = ("weight", "bias", "running_mean", "running_var", "running_std")


def whole_number(obj: TorchObject, name: str, default: int | None = None) -> int:
    """A field that must be a whole number below 2^31. Raises T7Error."""
    value = obj[name] if default is None else obj.get(name, default)
    if type(value) is not int or abs(value) >= 2**31:
        raise obj.error(f"expected a whole number as {name}, got {value!r}")
    return value


def _networks(value: Mapping[Any, Any]) -> Iterable[Any]:
    """What lies in a table or object, less the copies on other GPUs that old files of a DataParallelTable hold."""
    if isinstance(value, TorchObject) and value.class_name == "nn.DataParallelTable" and "modules" in value:
        return [child for key, child in value["modules"].items() if key == 1]
    return value.values()


class ParameterReader:
    """Reads parameters and running statistics, checks them, and keeps account of what was used."""

    def __init__(self) -> None:
        self._used: set[tuple[TorchObject, str]] = set()
        self._remarks: Counter[str] = Counter()

    def conv_norm(
        self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, sources: Sequence[ConvNorm]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The weight of a convolution, and the four vectors of the batch normalization after it.

        Several sources are the paths of form B; form C holds them one after the other along the output channels.
        """
        weights, vectors = [], []
        for source in sources:
            shape = self._check_convolution(convolution, source.convolution, len(sources))
            weights.append(self._read(source.convolution, "weight", shape))
            vectors.append(self._norm(norm, source, shape[0]))
        if len(sources) == 1:
            return weights[0], vectors[0]
        self._remarks["convolutions of form B joined"] += len(sources)
        return np.concatenate(weights), {name: np.concatenate([v[name] for v in vectors]) for name in vectors[0]}

    def linear(self, linear: nn.Linear, obj: TorchObject) -> dict[str, np.ndarray]:
        """Weight and bias of the classifier."""
        return {
            "weight": self._read(obj, "weight", (linear.out_features, linear.in_features)),
            "bias": self._read(obj, "bias", (linear.out_features,)),
        }

    def _check_convolution(self, expected: nn.Conv2d, obj: TorchObject, paths: int) -> tuple[int, ...]:
        """Hold the fields against the convolution that they must describe; the shape of the weight in PyTorch."""
        grouped = expected.groups > 1
        both = whole_number(obj, "padding", 0)  # in files older than padH and padW
        fields = {
            "nInputPlane": (whole_number(obj, "nInputPlane"), expected.in_channels // (paths if grouped else 1)),
            "nOutputPlane": (whole_number(obj, "nOutputPlane"), expected.out_channels // paths),
            "groups": (whole_number(obj, "groups", 1), expected.groups // paths if grouped else 1),
            "kH": (whole_number(obj, "kH"), expected.kernel_size[0]),
            "kW": (whole_number(obj, "kW"), expected.kernel_size[1]),
            "dH": (whole_number(obj, "dH", 1), expected.stride[0]),
            "dW": (whole_number(obj, "dW", 1), expected.stride[1]),
            "padH": (whole_number(obj, "padH", both), expected.padding[0]),
            "padW": (whole_number(obj, "padW", both), expected.padding[1]),
        }
        if wrong := [f"{name} {got}, expected {wanted}" for name, (got, wanted) in fields.items() if got != wanted]:
            raise obj.error(f"not a ResNeXt: {'; '.join(wrong)}")
        inputs, outputs, groups = (fields[name][0] for name in ("nInputPlane", "nOutputPlane", "groups"))
        return outputs, inputs // groups, *expected.kernel_size

    def _norm(self, norm: nn.BatchNorm2d, source: ConvNorm, channels: int) -> dict[str, np.ndarray]:
        obj, shape = source.norm, (channels,)
        eps = obj.get("eps", 1e-5)
        if eps != norm.eps:
            raise obj.error(f"eps {eps!r}, expected {norm.eps}")
        values = {name: self._read(obj, name, shape) for name in ("weight", "bias", "running_mean")}
        if "running_var" in obj or "running_std" not in obj:
            values["running_var"] = self._read(obj, "running_var", shape)
        else:  # before version 2 of the class: 1 / sqrt(var + eps)
            std = self._take(obj, "running_std", shape)
            with np.errstate(divide="ignore"):
                variance = (std.astype(np.float64) ** -2 - eps).astype(std.dtype)
            values["running_var"] = self._finite_float32(obj, "running_std", variance)
            self._remarks["running_std turned into running_var"] += 1
        if not (values["running_var"] > 0).all():
            raise obj.error(f"running_var is {values['running_var'].min()} somewhere; expected more than 0 everywhere")
        if isinstance(source.convolution.get("bias"), Tensor):
            bias = self._read(source.convolution, "bias", shape)
            if bias.any():  # ahead of a batch normalization a bias does no more than shift the mean
                values["running_mean"] = values["running_mean"] - bias
                self._remarks["convolution biases taken into running_mean"] += 1
            else:
                self._remarks["convolution biases that are all zero left out"] += 1
        return values

    def _read(self, obj: TorchObject, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A field of `shape` as a float32 array of its own."""
        return self._finite_float32(obj, name, self._take(obj, name, shape))

    def _take(self, obj: TorchObject, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A field of `shape`, which the file may hold flattened, in the file's precision. It is used by that."""
        if name not in obj:
            raise obj.error(f"missing: {name} {shape}")
        tensor = obj[name]
        if not isinstance(tensor, Tensor) or tensor.dtype.kind != "f":
            raise obj.error(f"expected a tensor of real numbers as {name}, got {tensor!r}")
        if tensor.numel != math.prod(shape):
            raise obj.error(f"{name} has shape {tensor.shape}, expected {shape}")
        if (obj, name) in self._used:
            raise obj.error(f"{name} is used twice: the module appears more than once in the network")
        self._used.add((obj, name))
        return tensor.copy().reshape(shape)

    def _finite_float32(self, obj: TorchObject, name: str, value: np.ndarray) -> np.ndarray:
        if value.dtype != np.float32:
            self._remarks[f"{value.dtype} tensors rounded to float32" if value.dtype.itemsize > 4 else
                          f"{value.dtype} tensors turned into float32"] += 1  # fmt: skip
            with np.errstate(over="ignore"):
                value = value.astype(np.float32)
        if not np.isfinite(value).all():
            raise obj.error(f"{name} holds NaN or infinity; expected finite values")
        return value

    def check_all_used(self, root: Any) -> None:
        """Raise T7Error that names every parameter and running statistic in the file which has not been used."""
        left_over = [
            (obj, f"{obj.path}.{name}")
            for obj in walk(root, _networks)
            for name in PARAMETERS
            if isinstance(obj, TorchObject)
            and isinstance(obj.get(name), Tensor)
            and obj[name].numel
            and (obj, name) not in self._used
        ]
        if left_over:
            shown = ", ".join(path for _, path in left_over[:5])
            more = f" and {len(left_over) - 5} more" if len(left_over) > 5 else ""
            raise left_over[0][0].error(f"left over, with no place in a ResNeXt: {shown}{more}")

    def notes(self) -> list[str]:
        """What was not taken over as it stands, with counts."""
        return [f"{count} {remark}" for remark, count in sorted(self._remarks.items())]
