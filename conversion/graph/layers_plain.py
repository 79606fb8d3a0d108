"""Torch7 layers without weights, from their fields: activations, pooling and padding."""

from __future__ import annotations

from typing import Any

from torch import nn

from conversion.graph.fields import boolean, dimension, integer, integers, number
from conversion.graph.layers_weighted import KERNEL, STRIDE, add_constant_tensor, padding
from conversion.graph.modules import AddConstant, CrossMapLRN, Dropout, MulConstant, Normalize, Power
from conversion.graph.modules_pooling import (
    AvgPool2d,
    AvgPool3d,
    MaxPool2d,
    MaxPool3d,
    UpSamplingBilinear,
    UpSamplingNearest,
)
from conversion.t7 import Tensor as T7Tensor
from conversion.t7 import TorchObject

# --- activations --------------------------------------------------------------------------------------------------


def threshold(obj: TorchObject) -> nn.Module:
    """nn.Threshold, and nn.ReLU, which is one with threshold and value 0."""
    inplace = boolean(obj, "inplace", False)
    limit, value = number(obj, "threshold", 0), number(obj, "val", 0)
    return nn.ReLU(inplace) if limit == value == 0 else nn.Threshold(limit, value, inplace)


def in_place(kind: type[nn.Module], obj: TorchObject) -> nn.Module:
    """A layer with no option but `inplace`."""
    return kind(inplace=boolean(obj, "inplace", False))


def pointwise(kind: type[nn.Module], overwriting: type[nn.Module], obj: TorchObject) -> nn.Module:
    """cudnn's, which may work in place where PyTorch's cannot."""
    return overwriting() if boolean(obj, "inplace", False) else kind()


def elu(obj: TorchObject) -> nn.Module:
    """nn.ELU."""
    return nn.ELU(number(obj, "alpha", 1), boolean(obj, "inplace", False))


def leaky_relu(obj: TorchObject) -> nn.Module:
    """nn.LeakyReLU."""
    return nn.LeakyReLU(number(obj, "negval", 0.01), boolean(obj, "inplace", False))


def rrelu(obj: TorchObject) -> nn.Module:
    """nn.RReLU in evaluation: the mean slope."""
    slope = (number(obj, "lower", 1 / 8) + number(obj, "upper", 1 / 3)) / 2
    return nn.LeakyReLU(slope, boolean(obj, "inplace", False))


def hard_tanh(obj: TorchObject) -> nn.Module:
    """nn.HardTanh and nn.Clamp."""
    low, high = number(obj, "min_val", -1), number(obj, "max_val", 1)
    if not low < high:
        raise obj.error(f"expected min_val below max_val, got {low} and {high}")
    return nn.Hardtanh(low, high, boolean(obj, "inplace", False))


def clipped_relu(obj: TorchObject) -> nn.Module:
    """cudnn.ClippedReLU: between 0 and `ceiling`."""
    return nn.Hardtanh(0.0, number(obj, "ceiling"), boolean(obj, "inplace", False))


def softplus(obj: TorchObject) -> nn.Module:
    """nn.SoftPlus."""
    return nn.Softplus(number(obj, "beta", 1), number(obj, "threshold", 20))


def shrink(kind: type[nn.Module], obj: TorchObject) -> nn.Module:
    """nn.HardShrink and nn.SoftShrink."""
    return kind(number(obj, "lambda", 0.5))


def power(obj: TorchObject) -> nn.Module:
    """nn.Power."""
    return Power(number(obj, "pow"))


def mul_constant(obj: TorchObject) -> nn.Module:
    """nn.MulConstant."""
    return MulConstant(number(obj, "constant_scalar"), boolean(obj, "inplace", False))


def add_constant(obj: TorchObject) -> nn.Module:
    """nn.AddConstant, of a number or a tensor."""
    if isinstance(obj["constant_scalar"], T7Tensor):
        return add_constant_tensor(obj)
    return AddConstant(number(obj, "constant_scalar"), boolean(obj, "inplace", False))


def dropout(obj: TorchObject) -> nn.Module:
    """nn.Dropout, of either version."""
    _check_evaluation(obj)
    p = number(obj, "p", 0.5)
    return Dropout(p, v2=boolean(obj, "v2", False), inplace=boolean(obj, "inplace", False))


def spatial_dropout(obj: TorchObject) -> nn.Module:
    """nn.SpatialDropout and nn.VolumetricDropout, which scale in evaluation and copy always."""
    _check_evaluation(obj)
    return Dropout(number(obj, "p", 0.5), v2=False)


def _check_evaluation(obj: TorchObject) -> None:
    if boolean(obj, "stochastic_inference", False):
        raise obj.error("it drops at random in evaluation too (stochastic_inference); no module can agree with that")


def normalize(obj: TorchObject) -> nn.Module:
    """nn.Normalize."""
    return Normalize(number(obj, "p"), number(obj, "eps", 1e-10), dimension(obj, "dim", -1))


def lrn(obj: TorchObject) -> nn.Module:
    """nn.SpatialCrossMapLRN, and cudnn's, which calls its offset K."""
    k = number(obj, "K", 1) if "K" in obj else number(obj, "k", 1)
    return CrossMapLRN(integer(obj, "size"), number(obj, "alpha", 1e-4), number(obj, "beta", 0.75), k)


# --- pooling and padding ------------------------------------------------------------------------------------------


def max_pooling(obj: TorchObject, volumetric: bool = False) -> nn.Module:
    """Spatial and Volumetric max pooling, dilated or not."""
    kernel, stride, pads = (
        integers(obj, KERNEL[volumetric]),
        integers(obj, STRIDE[volumetric]),
        padding(obj, volumetric),
    )
    dilation = integers(obj, "dilationT dilationH dilationW" if volumetric else "dilationH dilationW", 1)
    ceil_mode = boolean(obj, "ceil_mode", False)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if ceil_mode and not any(pads) and any(span < step for span, step in zip(spans, stride, strict=True)):
        kind: Any = MaxPool3d if volumetric else MaxPool2d
        return kind(kernel, stride, dilation)
    return (nn.MaxPool3d if volumetric else nn.MaxPool2d)(kernel, stride, pads, dilation, ceil_mode=ceil_mode)


def average_pooling(obj: TorchObject) -> nn.Module:
    """nn.SpatialAveragePooling; without the field `divide`, as in the oldest files, the result is the sum."""
    return _average_pooling(obj, boolean(obj, "divide", False))


def cudnn_average_pooling(obj: TorchObject) -> nn.Module:
    """cudnn.SpatialAveragePooling, which always divides."""
    return _average_pooling(obj, True)


def _average_pooling(obj: TorchObject, divide: bool) -> nn.Module:
    return AvgPool2d(
        integers(obj, KERNEL[0]),
        integers(obj, STRIDE[0]),
        padding(obj),
        boolean(obj, "ceil_mode", False),
        boolean(obj, "count_include_pad", True),
        divide,
    )


def volumetric_average_pooling(obj: TorchObject) -> nn.Module:
    """nn.VolumetricAveragePooling and cudnn's."""
    return AvgPool3d(
        integers(obj, KERNEL[1]),
        integers(obj, STRIDE[1]),
        padding(obj, True),
        boolean(obj, "ceil_mode", False),
        boolean(obj, "count_include_pad", True),
    )


def adaptive_pooling(kind: type[nn.Module], names: str, obj: TorchObject) -> nn.Module:
    """Pooling to a size, which the fields `names` hold."""
    return kind(integers(obj, names))


def edge_padding(kind: type[nn.Module], obj: TorchObject) -> nn.Module:
    """Zeros, reflection or replication around an image; negative widths crop."""
    return kind(integers(obj, "pad_l pad_r pad_t pad_b"))


def volumetric_padding(kind: type[nn.Module], obj: TorchObject) -> nn.Module:
    """The same around a volume."""
    return kind(integers(obj, "pleft pright ptop pbottom pfront pback"))


def upsampling_nearest(obj: TorchObject) -> nn.Module:
    """nn.SpatialUpSamplingNearest."""
    return UpSamplingNearest(integer(obj, "scale_factor"))


def upsampling_bilinear(obj: TorchObject) -> nn.Module:
    """nn.SpatialUpSamplingBilinear, by a factor or to a size."""
    if "scale_factor" in obj:
        return UpSamplingBilinear(integer(obj, "scale_factor"))
    height, width = integers(obj, "oheight owidth")
    return UpSamplingBilinear(0, (height, width))
