"""The numbers of a ResNeXt's layers in a Torch7 file, checked, in PyTorch's shapes.

They keep the file's precision, except that computed values are in double precision. A file is refused if a parameter is
missing, has a different number of elements, or holds NaN or infinity; if a running variance is below 0; or if a
convolution or batch normalization does not fit the architecture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import nn

from ..t7 import TorchObject
from .structure import ConvNorm

_FLOAT32_EPS = float(np.finfo(np.float32).eps)


class ParameterReader:
    """Reads parameters and running statistics, and counts in `remarks` whatever is not copied unchanged."""

    def __init__(self) -> None:
        self.remarks: Counter[str] = Counter()

    def conv_norm(
        self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, pairs: Sequence[ConvNorm]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The weight of a convolution, and the four vectors of the batch normalization after it.

        Several pairs are the paths of form B. Form C joins them along the output channels.
        """
        weights, vectors = [], []
        for pair in pairs:
            shape = _check_convolution(convolution, pair, len(pairs))
            weights.append(self._read(pair.convolution, "weight", shape))
            vectors.append(self._norm(norm, pair, shape[0]))
        if len(pairs) == 1:
            return weights[0], vectors[0]
        self.remarks["convolutions of form B joined"] += len(pairs)
        return np.concatenate(weights), {name: np.concatenate([v[name] for v in vectors]) for name in vectors[0]}

    def linear(self, linear: nn.Linear, obj: TorchObject) -> dict[str, np.ndarray]:
        """Weight and bias of the classifier, which may be a 1x1 convolution in the file."""
        weight = self._read(obj, "weight", (linear.out_features, linear.in_features))
        return {"weight": weight, "bias": self._read_or(0, obj, "bias", linear.out_features)}

    def _norm(self, norm: nn.BatchNorm2d, pair: ConvNorm, channels: int) -> dict[str, np.ndarray]:
        obj, shape = pair.norm, (channels,)
        eps = obj.number("eps", 1e-5)
        if not abs(eps - norm.eps) <= _FLOAT32_EPS * norm.eps:
            raise obj.error(f"eps {eps!r}, expected {norm.eps}")
        values = {
            "weight": self._read_or(1, obj, "weight", channels),
            "bias": self._read_or(0, obj, "bias", channels),
            "running_mean": self._read(obj, "running_mean", shape),
            "running_var": self._variance(obj, norm.eps, shape),
        }
        if _has(pair.convolution, "bias"):
            bias = self._read(pair.convolution, "bias", shape)
            if bias.any():  # before a batch normalization a bias only shifts the mean
                values["running_mean"] = values["running_mean"].astype(np.float64) - bias
                self.remarks["convolution biases taken into running_mean"] += 1
            else:
                self.remarks["convolution biases that are all zero left out"] += 1
        return values

    def _variance(self, obj: TorchObject, eps: float, shape: tuple[int, ...]) -> np.ndarray:
        """The running variance. It may be slightly below 0 from rounding; the caller takes such a value for 0."""
        if "running_var" in obj or "running_std" not in obj:
            variance, least = self._read(obj, "running_var", shape), 0.0
        else:  # version 1 of the class kept 1 / sqrt(var + eps)
            std = self._read(obj, "running_std", shape)
            with np.errstate(divide="ignore"):
                variance = (std.astype(np.float64) ** -2 - eps).astype(std.dtype)  # as Torch7 reads such a file
            # A variance of 0 returns with the rounding error of 1 / sqrt(eps), a few units in CUDA's float32. Files in
            # double precision may come from float32.
            least = -16 * max(_FLOAT32_EPS, float(np.finfo(std.dtype).eps)) * eps
            self.remarks["running_std turned into running_var"] += 1
        if not (variance >= least).all():
            raise obj.error(f"running_var is {variance.min()} somewhere; expected at least 0 everywhere")
        self.remarks["running variances of 0 (channels that died)"] += int((variance <= 0).sum())
        tiny = float(np.finfo(np.float32).tiny)
        self.remarks["running variances that are denormal"] += int(((variance > 0) & (variance < tiny)).sum())
        return variance

    def _read_or(self, default: float, obj: TorchObject, name: str, count: int) -> np.ndarray:
        """An optional vector. Without it, Torch7 computes as if all its elements were `default`."""
        if _has(obj, name):
            return self._read(obj, name, (count,))
        kind = "linear" if name == "bias" and "running_mean" not in obj else "batch normalization"
        self.remarks[f"{kind} without {name}: {default} everywhere"] += 1
        return np.full(count, default, np.float32)

    def _read(self, obj: TorchObject, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A copy of a field as an array of `shape`, in the file's precision. The file may hold it flattened."""
        if name not in obj:
            raise obj.error(f"missing: {name} {shape}")
        value = obj.tensor(name, shape).copy().reshape(shape)
        if value.dtype.itemsize != 4:
            change = "rounded to" if value.dtype.itemsize > 4 else "turned into"
            self.remarks[f"{value.dtype} tensors {change} float32"] += 1
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(np.float32, copy=False)).all()
        if not finite:
            raise obj.error(f"{name} holds NaN or infinity; expected finite float32 values")
        return value

    def notes(self) -> list[str]:
        """Whatever was not copied unchanged, with counts."""
        return [f"{count} {remark}" for remark, count in sorted(self.remarks.items()) if count]


def _has(obj: TorchObject, name: str) -> bool:
    """Whether a layer has an optional vector. Lua's `if self.bias` treats false like nil."""
    return obj.get(name, False) is not False


def _check_convolution(expected: nn.Conv2d, pair: ConvNorm, paths: int) -> tuple[int, ...]:
    """Check that the fields describe the expected convolution. Returns the shape of the weight in PyTorch."""
    obj, grouped = pair.convolution, expected.groups > 1
    both = obj.integer("padding", 0)  # in files older than padH and padW
    stride = 1 if obj.class_name == "nn.SpatialConvolutionMM" else None  # its oldest files have no other stride
    fields = {
        "nInputPlane": (obj.integer("nInputPlane"), expected.in_channels // (paths if grouped else 1)),
        "nOutputPlane": (obj.integer("nOutputPlane"), expected.out_channels // paths),
        "groups": (obj.integer("groups", 1), expected.groups // paths if grouped else 1),
        "kH": (obj.integer("kH"), expected.kernel_size[0]),
        "kW": (obj.integer("kW"), expected.kernel_size[1]),
        "dH": (obj.integer("dH", stride), expected.stride[0]),
        "dW": (obj.integer("dW", stride), expected.stride[1]),
        "padH": (obj.integer("padH", both) + pair.padding[0], expected.padding[0]),
        "padW": (obj.integer("padW", both) + pair.padding[1], expected.padding[1]),
        "dilationH": (obj.integer("dilationH", 1), 1),
        "dilationW": (obj.integer("dilationW", 1), 1),
    }
    if wrong := [f"{name} {got}, expected {wanted}" for name, (got, wanted) in fields.items() if got != wanted]:
        raise obj.error(f"not a ResNeXt: {'; '.join(wrong)}")
    inputs, outputs, groups = (fields[name][0] for name in ("nInputPlane", "nOutputPlane", "groups"))
    return outputs, inputs // groups, *expected.kernel_size
