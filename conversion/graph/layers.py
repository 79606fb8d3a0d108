"""One table: each Torch7 class to what builds it, as a module that computes what it computes in evaluation.

`BUILDERS` are layers, built from their fields; `CONTAINERS` hold modules and are built from these too. To add a layer
is to add an entry. Where the semantics agree a layer is PyTorch's own, else one of `modules*.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from conversion.graph import layers_plain as plain
from conversion.graph import layers_shape as shape
from conversion.graph import layers_weighted as weighted
from conversion.graph import modules, modules_shape, modules_tables
from conversion.graph.containers import (
    Concat,
    ConcatTable,
    DenseConnectLayer,
    DepthConcat,
    Parallel,
    ParallelTable,
    Sequential,
)
from conversion.graph.fields import dimension
from conversion.t7 import TorchObject

Builder = Callable[[TorchObject], nn.Module]
ContainerBuilder = Callable[[TorchObject, list[nn.Module]], nn.Module]


def _same(kind: Callable[[], nn.Module], obj: TorchObject) -> nn.Module:
    """A layer without options."""
    return kind()


def _simple(kind: Callable[[], nn.Module]) -> Builder:
    return partial(_same, kind)


BUILDERS: dict[str, Builder] = {
    # activations
    "cudnn.ClippedReLU": plain.clipped_relu,
    "cudnn.LogSoftMax": _simple(partial(modules.SoftMax, log=True, instance=True)),
    "cudnn.ReLU": plain.threshold,
    "cudnn.Sigmoid": partial(plain.pointwise, nn.Sigmoid, modules.SigmoidInPlace),
    "cudnn.SoftMax": _simple(partial(modules.SoftMax, instance=True)),
    "cudnn.SpatialLogSoftMax": _simple(partial(modules.SoftMax, log=True)),
    "cudnn.SpatialSoftMax": _simple(modules.SoftMax),
    "cudnn.Tanh": partial(plain.pointwise, nn.Tanh, modules.TanhInPlace),
    "nn.Abs": _simple(modules.Abs),
    "nn.Clamp": plain.hard_tanh,
    "nn.ELU": plain.elu,
    "nn.Exp": _simple(modules.Exp),
    "nn.HardShrink": partial(plain.shrink, nn.Hardshrink),
    "nn.HardTanh": plain.hard_tanh,
    "nn.LeakyReLU": plain.leaky_relu,
    "nn.Log": _simple(modules.Log),
    "nn.LogSigmoid": _simple(nn.LogSigmoid),
    "nn.LogSoftMax": _simple(partial(modules.SoftMax, log=True)),
    "nn.PReLU": weighted.prelu,
    "nn.Power": plain.power,
    "nn.RReLU": plain.rrelu,
    "nn.ReLU": plain.threshold,
    "nn.ReLU6": partial(plain.in_place, nn.ReLU6),
    "nn.Sigmoid": _simple(nn.Sigmoid),
    "nn.SoftMax": _simple(modules.SoftMax),
    "nn.SoftPlus": plain.softplus,
    "nn.SoftShrink": partial(plain.shrink, nn.Softshrink),
    "nn.SoftSign": _simple(nn.Softsign),
    "nn.SpatialLogSoftMax": _simple(partial(modules.SoftMax, log=True)),
    "nn.SpatialSoftMax": _simple(modules.SoftMax),
    "nn.Sqrt": _simple(modules.Sqrt),
    "nn.Square": _simple(modules.Square),
    "nn.Tanh": _simple(nn.Tanh),
    "nn.TanhShrink": _simple(nn.Tanhshrink),
    "nn.Threshold": plain.threshold,
    # convolutions, Linear, learnt and constant factors and offsets
    "cudnn.SpatialConvolution": weighted.convolution,
    "cudnn.SpatialFullConvolution": weighted.full_convolution,
    "cudnn.VolumetricConvolution": partial(weighted.convolution, volumetric=True),
    "cudnn.VolumetricFullConvolution": partial(weighted.full_convolution, volumetric=True),
    "nn.Add": weighted.add,
    "nn.AddConstant": plain.add_constant,
    "nn.CAdd": weighted.cadd,
    "nn.CMul": weighted.cmul,
    "nn.Linear": weighted.linear,
    "nn.Mul": weighted.mul,
    "nn.MulConstant": plain.mul_constant,
    "nn.SpatialConvolution": weighted.convolution,
    "nn.SpatialConvolutionMM": weighted.convolution,
    "nn.SpatialDilatedConvolution": weighted.convolution,
    "nn.SpatialFullConvolution": weighted.full_convolution,
    "nn.VolumetricConvolution": partial(weighted.convolution, volumetric=True),
    "nn.VolumetricDilatedConvolution": partial(weighted.convolution, volumetric=True),
    "nn.VolumetricFullConvolution": partial(weighted.full_convolution, volumetric=True),
    # normalisation and dropout
    "cudnn.BatchNormalization": partial(weighted.batch_norm, nn.BatchNorm1d),
    "cudnn.SpatialBatchNormalization": partial(weighted.batch_norm, nn.BatchNorm2d),
    "cudnn.SpatialCrossMapLRN": plain.lrn,
    "cudnn.VolumetricBatchNormalization": partial(weighted.batch_norm, nn.BatchNorm3d),
    "fbnn.SpatialBatchNormalization": partial(weighted.batch_norm, nn.BatchNorm2d),
    "nn.BatchNormalization": partial(weighted.batch_norm, nn.BatchNorm1d),
    "nn.Dropout": plain.dropout,
    "nn.InstanceNormalization": weighted.instance_norm,
    "nn.Normalize": plain.normalize,
    "nn.SpatialBatchNormalization": partial(weighted.batch_norm, nn.BatchNorm2d),
    "nn.SpatialCrossMapLRN": plain.lrn,
    "nn.SpatialDropout": plain.spatial_dropout,
    "nn.VolumetricBatchNormalization": partial(weighted.batch_norm, nn.BatchNorm3d),
    "nn.VolumetricDropout": plain.spatial_dropout,
    # pooling, upsampling, padding
    "cudnn.SpatialAveragePooling": plain.cudnn_average_pooling,
    "cudnn.SpatialMaxPooling": plain.max_pooling,
    "cudnn.VolumetricAveragePooling": plain.volumetric_average_pooling,
    "cudnn.VolumetricMaxPooling": partial(plain.max_pooling, volumetric=True),
    "nn.Padding": shape.pad,
    "nn.ShaveImage": shape.shave_image,
    "nn.SpatialAdaptiveAveragePooling": partial(plain.adaptive_pooling, nn.AdaptiveAvgPool2d, "H W"),
    "nn.SpatialAdaptiveMaxPooling": partial(plain.adaptive_pooling, nn.AdaptiveMaxPool2d, "H W"),
    "nn.SpatialAveragePooling": plain.average_pooling,
    "nn.SpatialDilatedMaxPooling": plain.max_pooling,
    "nn.SpatialMaxPooling": plain.max_pooling,
    "nn.SpatialReflectionPadding": partial(plain.edge_padding, nn.ReflectionPad2d),
    "nn.SpatialReplicationPadding": partial(plain.edge_padding, nn.ReplicationPad2d),
    "nn.SpatialUpSamplingBilinear": plain.upsampling_bilinear,
    "nn.SpatialUpSamplingNearest": plain.upsampling_nearest,
    "nn.SpatialZeroPadding": partial(plain.edge_padding, nn.ZeroPad2d),
    "nn.VolumetricAveragePooling": plain.volumetric_average_pooling,
    "nn.VolumetricDilatedMaxPooling": partial(plain.max_pooling, volumetric=True),
    "nn.VolumetricMaxPooling": partial(plain.max_pooling, volumetric=True),
    "nn.VolumetricReplicationPadding": partial(plain.volumetric_padding, nn.ReplicationPad3d),
    # shapes
    "nn.Contiguous": _simple(modules_shape.Contiguous),
    "nn.Copy": shape.copy,
    "nn.GradientReversal": _simple(nn.Identity),
    "nn.Identity": _simple(nn.Identity),
    "nn.L1Penalty": _simple(nn.Identity),
    "nn.Max": partial(shape.max_, False),
    "nn.Mean": partial(shape.sum_, True),
    "nn.Min": partial(shape.max_, True),
    "nn.Narrow": shape.narrow,
    "nn.Replicate": shape.replicate,
    "nn.Reshape": shape.reshape,
    "nn.Select": shape.select,
    "nn.Squeeze": shape.squeeze,
    "nn.Sum": partial(shape.sum_, False),
    "nn.TotalVariation": _simple(nn.Identity),  # of fast-neural-style: it acts on gradients alone
    "nn.Transpose": shape.transpose,
    "nn.Unsqueeze": shape.unsqueeze,
    "nn.View": shape.view,
    # tables
    "nn.CAddTable": shape.add_table,
    "nn.CDivTable": _simple(modules_tables.CDivTable),
    "nn.CMaxTable": _simple(modules_tables.CMaxTable),
    "nn.CMinTable": _simple(partial(modules_tables.CMaxTable, smallest=True)),
    "nn.CMulTable": _simple(modules_tables.CMulTable),
    "nn.CSubTable": _simple(modules_tables.CSubTable),
    "nn.FlattenTable": _simple(modules_tables.FlattenTable),
    "nn.JoinTable": shape.join_table,
    "nn.MixtureTable": shape.mixture_table,
    "nn.NarrowTable": shape.narrow_table,
    "nn.SelectTable": shape.select_table,
    "nn.SplitTable": shape.split_table,
}


def _sequential(obj: TorchObject, children: list[nn.Module]) -> nn.Module:
    return Sequential(*children)


def _listed(kind: Callable[[list[nn.Module]], nn.Module], obj: TorchObject, children: list[nn.Module]) -> nn.Module:
    return kind(children)


def _concat(kind: type[Concat] | type[DepthConcat], obj: TorchObject, children: list[nn.Module]) -> nn.Module:
    return kind(children, dimension(obj))


def _parallel(obj: TorchObject, children: list[nn.Module]) -> nn.Module:
    return Parallel(children, dimension(obj, "inputDimension"), dimension(obj, "outputDimension"))


def _first(obj: TorchObject, children: list[nn.Module]) -> nn.Module:
    """What a decorator decorates; an nn.DataParallelTable's further modules are copies of the first."""
    if not children:
        raise obj.error(f"an {obj.class_name} without a network")
    return children[0]


CONTAINERS: dict[str, ContainerBuilder] = {
    "nn.Concat": partial(_concat, Concat),
    "nn.ConcatTable": partial(_listed, ConcatTable),
    "nn.DataParallelTable": _first,
    "nn.DenseConnectLayerCustom": partial(_listed, DenseConnectLayer),
    "nn.DepthConcat": partial(_concat, DepthConcat),
    "nn.DontCast": _first,
    "nn.Parallel": _parallel,
    "nn.ParallelTable": partial(_listed, ParallelTable),
    "nn.Sequential": _sequential,
    "nn.Serial": _first,
}
