"""The shape of the input, inferred."""

import numpy as np

from conversion import graph, t7
from conversion.codegen import input_shape
from tests.helpers.torch7_networks import Layer, Longs, Net, average, pool, seq, view, write
from tests.helpers.torch7_trees import put


def infer(tmp_path, root):
    obj = t7.load(write(tmp_path, root))
    return input_shape.infer(obj, graph.to_module(obj))


def test_input_shapes_are_inferred(tmp_path):
    net = Net()
    cifar = seq(net.conv(3, 4, 3, 1, 1), average(8, 8), average(4, 1), view(4, dims=3), net.linear(4, 2))
    assert infer(tmp_path, cifar) == (1, 3, 32, 32)  # at 224, View would make a batch of 49 of it
    lenet = seq(net.conv(1, 4, 5), pool("nn.SpatialMaxPooling", 2, 2), view(576), net.linear(576, 2))
    assert infer(tmp_path, lenet) == (1, 1, 28, 28)
    assert infer(tmp_path, seq(net.linear(7, 2))) == (1, 7)
    assert infer(tmp_path, seq(net.bn(5), net.conv(5, 1))) == (1, 5, 224, 224)
    used = net.conv(3, 4, kind="cudnn.SpatialConvolution")
    used.fields["iSize"] = Longs([16, 3, 20, 30])
    assert infer(tmp_path, seq(used)) == (1, 3, 20, 30)
    deep = Layer("nn.VolumetricConvolution", **{**net.conv(3, 4, 3).fields, "kT": 3, "dT": 1, "padT": 0,
                 "weight": net.array(4, 3, 3, 3, 3)})  # fmt: skip
    assert infer(tmp_path, seq(deep)) == (1, 3, 16, 224, 224)


def test_a_kept_shape_that_is_none_is_passed_over(tmp_path):
    convolution = Net().conv(3, 4)
    convolution.fields["bias"] = np.full(4, np.inf, "f4")
    obj = t7.load(write(tmp_path, convolution))
    put(obj, "iSize", obj["bias"].storage)
    assert input_shape.infer(obj, graph.to_module(obj)) == (1, 3, 224, 224)
