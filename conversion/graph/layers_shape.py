"""Torch7 layers that reshape, cut, reduce or handle tables, from their fields."""

from __future__ import annotations

from torch import nn

from conversion.graph.fields import boolean, dimension, index, integer, number, sizes
from conversion.graph.modules_shape import (
    Copy,
    Max,
    Narrow,
    Padding,
    Replicate,
    Reshape,
    Select,
    ShaveImage,
    Squeeze,
    Sum,
    Transpose,
    Unsqueeze,
    View,
)
from conversion.graph.modules_tables import CAddTable, JoinTable, MixtureTable, NarrowTable, SelectTable, SplitTable
from conversion.t7 import Table, TorchObject


def view(obj: TorchObject) -> nn.Module:
    """nn.View."""
    return View(*sizes(obj), input_dims=integer(obj, "numInputDims", 0))


def reshape(obj: TorchObject) -> nn.Module:
    """nn.Reshape; batchMode may be nil."""
    mode = obj.get("batchMode")
    return Reshape(*sizes(obj), batch_mode=None if mode is None else boolean(obj, "batchMode", False))


def narrow(obj: TorchObject) -> nn.Module:
    """nn.Narrow."""
    return Narrow(dimension(obj), integer(obj, "index"), integer(obj, "length", 1))


def select(obj: TorchObject) -> nn.Module:
    """nn.Select."""
    return Select(dimension(obj), index(obj))


def squeeze(obj: TorchObject) -> nn.Module:
    """nn.Squeeze of one dimension, or of all."""
    return Squeeze(dimension(obj, "dim") if "dim" in obj else None, integer(obj, "numInputDims", 0))


def unsqueeze(obj: TorchObject) -> nn.Module:
    """nn.Unsqueeze."""
    return Unsqueeze(dimension(obj, "pos"), integer(obj, "numInputDims", 0))


def transpose(obj: TorchObject) -> nn.Module:
    """nn.Transpose: a list of pairs."""
    pairs = []
    for pair in obj["permutations"].as_list() if isinstance(obj["permutations"], Table) else [None]:
        values = pair.as_list() if isinstance(pair, Table) else []
        if len(values) != 2 or not all(isinstance(value, int) and 0 < value <= 64 for value in values):
            raise obj.error(f"expected pairs of dimensions, counted from 1, as permutations, got {pair!r}")
        pairs.append((values[0] - 1, values[1] - 1))
    return Transpose(*pairs)


def replicate(obj: TorchObject) -> nn.Module:
    """nn.Replicate."""
    return Replicate(integer(obj, "nfeatures"), dimension(obj, "dim", 1), integer(obj, "ndim", 0))


def copy(obj: TorchObject) -> nn.Module:
    """nn.Copy; between tensors of one type its methods are replaced by functions that hand the input on."""
    return nn.Identity() if "updateOutput" in obj else Copy()


def pad(obj: TorchObject) -> nn.Module:
    """nn.Padding."""
    return Padding(
        dimension(obj, "dim"),
        integer(obj, "pad"),
        integer(obj, "nInputDim", 0),
        number(obj, "value", 0),
        integer(obj, "index", 1),
    )


def shave_image(obj: TorchObject) -> nn.Module:
    """nn.ShaveImage of fast-neural-style."""
    return ShaveImage(integer(obj, "size"))


def sum_(average: bool, obj: TorchObject) -> nn.Module:
    """nn.Sum and nn.Mean; the field sizeAverage says more than the class."""
    return Sum(
        dimension(obj, default=1),
        integer(obj, "nInputDims", 0),
        boolean(obj, "sizeAverage", average),
        boolean(obj, "squeeze", True),
    )


def max_(smallest: bool, obj: TorchObject) -> nn.Module:
    """nn.Max and nn.Min."""
    return Max(dimension(obj, default=1), integer(obj, "nInputDims", 0), smallest)


# --- tables -------------------------------------------------------------------------------------------------------


def add_table(obj: TorchObject) -> nn.Module:
    """nn.CAddTable."""
    return CAddTable(boolean(obj, "inplace", False))


def join_table(obj: TorchObject) -> nn.Module:
    """nn.JoinTable."""
    return JoinTable(dimension(obj), integer(obj, "nInputDims", 0))


def split_table(obj: TorchObject) -> nn.Module:
    """nn.SplitTable."""
    return SplitTable(dimension(obj), integer(obj, "nInputDims", 0))


def select_table(obj: TorchObject) -> nn.Module:
    """nn.SelectTable by a number."""
    return SelectTable(index(obj))


def narrow_table(obj: TorchObject) -> nn.Module:
    """nn.NarrowTable."""
    offset, length = integer(obj, "offset"), integer(obj, "length", 1)
    if offset < 1 or length < 0:
        raise obj.error(f"expected an offset from 1 and a length, got {offset} and {length}")
    return NarrowTable(offset - 1, length)


def mixture_table(obj: TorchObject) -> nn.Module:
    """nn.MixtureTable."""
    return MixtureTable(dimension(obj, "dim") if "dim" in obj else None)
