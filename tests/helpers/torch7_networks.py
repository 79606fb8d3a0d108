"""Torch7 files of small networks with random weights, built as the published Lua code builds them."""

import numpy as np
import pytest
import torch

from conversion import graph, t7
from tests.helpers.torch7_writer import TABLE, TORCH, Writer, read


class Layer:
    """An object of a Torch7 class; the same object twice is written as a reference."""

    def __init__(self, class_name, **fields):
        self.class_name, self.fields = class_name, fields


class Longs(list):
    """A LongStorage."""


def dump(root):
    """The bytes of a file: numbers, strings, lists and dicts (tables), arrays (FloatTensor), Longs, layers."""
    writer, indices, kept = Writer(), {}, []

    def index(obj):
        kept.append(obj)
        indices[id(obj)] = len(indices) + 1
        return indices[id(obj)]

    def value(item):
        if item is None:
            return writer.nil
        if isinstance(item, bool):
            return writer.boolean(int(item))
        if isinstance(item, (int, float)):
            return writer.number(item)
        if isinstance(item, str):
            return writer.string(item.encode("utf-8", "surrogateescape"))
        if id(item) in indices:
            return writer.ref(TORCH if isinstance(item, (Layer, Longs, np.ndarray)) else TABLE, indices[id(item)])
        if isinstance(item, Longs):
            return writer.storage(index(item), "Long", item)
        if isinstance(item, np.ndarray):
            at = index(item)
            strides = [int(np.prod(item.shape[i + 1 :])) for i in range(item.ndim)]
            values = item.ravel()
            if not any(item.strides):  # one value, expanded
                strides, values = [0] * item.ndim, values[:1]
            return writer.tensor(at, "Float", item.shape, strides, writer.storage(index(object()), "Float", values))
        if isinstance(item, Layer):
            at = index(item)
            return writer.torch(at, item.class_name, table(index(object()), item.fields))
        return table(index(item), item if isinstance(item, dict) else dict(enumerate(item, 1)))

    def table(at, fields):
        return writer.fields(at, *((value(key), value(entry)) for key, entry in fields.items() if entry is not None))

    return value(root)


def write(folder, root):
    path = folder / "net.t7"
    path.write_bytes(dump(root))
    return path


def build(folder, root):
    """The literal graph of a network that was written to a file."""
    return graph.to_module(read(folder, dump(root)))


def by_hand(folder, root, given, expected):
    """A layer gives what is expected of a tensor, or of a list of them, and so does its TorchScript."""
    module, several = build(folder, root), isinstance(given, list) and isinstance(given[0], torch.Tensor)
    values = given if several else [torch.as_tensor(given, dtype=torch.float32)]
    with torch.no_grad():
        got = module([x.clone() for x in values] if several else values[0].clone())
        if not several:
            assert torch.equal(torch.jit.script(module)(values[0].clone()), got)
    expected = torch.tensor(expected)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def refused(folder, root, cause):
    """A layer is refused for a cause."""
    with pytest.raises(t7.T7Error) as caught:
        build(folder, root)
    assert cause in str(caught.value)


class Net:
    """Builds layers with weights from one seed."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)

    def array(self, *shape, low=-1.0, high=1.0):
        return self.random.uniform(low, high, shape).astype("f4")

    def conv(self, inputs, outputs, k=3, d=1, p=0, *, kind="nn.SpatialConvolution", bias=True, groups=1, **extra):
        scale = (inputs // groups * k * k) ** -0.5
        shape = (outputs, inputs // groups * k * k) if kind.endswith("MM") else (outputs, inputs // groups, k, k)
        if "Full" in kind:
            shape = (inputs, outputs, k, k)
        return Layer(
            kind, nInputPlane=inputs, nOutputPlane=outputs, kW=k, kH=k, dW=d, dH=d, padW=p, padH=p, groups=groups,
            weight=self.array(*shape, low=-2 * scale, high=2 * scale),
            bias=self.array(outputs) if bias else None, **extra,
        )  # fmt: skip

    def bn(self, planes, kind="nn.SpatialBatchNormalization"):
        return Layer(
            kind, eps=1e-5, momentum=0.1, affine=True, weight=self.array(planes), bias=self.array(planes),
            running_mean=self.array(planes), running_var=self.array(planes, low=0.5, high=2)
        )  # fmt: skip

    def linear(self, inputs, outputs):
        scale = inputs**-0.5
        return Layer(
            "nn.Linear", weight=self.array(outputs, inputs, low=-2 * scale, high=2 * scale), bias=self.array(outputs)
        )


def seq(*modules):
    return Layer("nn.Sequential", modules=list(modules))


def table(*modules, kind="nn.ConcatTable", **fields):
    return Layer(kind, modules=list(modules), **fields)


def relu(inplace=True, kind="nn.ReLU"):
    return Layer(kind, inplace=inplace, threshold=0, val=0)


def pool(kind, k, d, p=0, **fields):
    return Layer(kind, kW=k, kH=k, dW=d, dH=d, padW=p, padH=p, **{"ceil_mode": False, **fields})


def average(k, d=1, **fields):
    return pool("nn.SpatialAveragePooling", k, d, count_include_pad=True, divide=True, **fields)


def view(*size, dims=None):
    return Layer("nn.View", size=Longs(size), numElements=int(np.prod(size)), numInputDims=dims)


def alexnet():
    """As imagenet-multiGPU builds it: two towers, LRN from the paper, the first dropout; input 3 x 67 x 67 here."""
    net = Net(1)
    tower = [
        seq(
            net.conv(3, 8, 11, 4, 2), relu(), Layer("nn.SpatialCrossMapLRN", size=5, alpha=1e-4, beta=0.75, k=2),
            pool("nn.SpatialMaxPooling", 3, 2), net.conv(8, 12, 5, 1, 2, kind="nn.SpatialConvolutionMM"), relu(),
            pool("nn.SpatialMaxPooling", 3, 2),
        )
        for _ in range(2)
    ]  # fmt: skip
    return seq(
        table(*tower, kind="nn.Concat", dimension=2), view(24 * 3 * 3),
        Layer("nn.Dropout", p=0.5, v2=False), net.linear(216, 20), Layer("nn.Threshold", threshold=0, val=1e-6),
        Layer("nn.Dropout", p=0.5, v2=True), net.linear(20, 10), Layer("nn.LogSoftMax"),
    )  # fmt: skip


def vgg():
    """cudnn's layers, an in-place ReLU behind each, nn.View of a sample; input 3 x 32 x 32."""
    net, layers, planes = Net(2), [], 3
    for size in (8, 8, "M", 16, "M", 16, "M"):
        if size == "M":
            layers.append(pool("cudnn.SpatialMaxPooling", 2, 2))
            continue
        layers += [net.conv(planes, size, 3, 1, 1, kind="cudnn.SpatialConvolution"), relu(kind="cudnn.ReLU")]
        planes = size
    head = [view(256, dims=3), net.linear(256, 32), relu(), Layer("nn.Dropout", p=0.5, v2=True), net.linear(32, 10)]
    return seq(*layers, *head, Layer("cudnn.LogSoftMax"))


def inception():
    """GoogLeNet's module with nn.DepthConcat, ceil-mode pooling, Inception v3's averages and a pooling to 1 x 1."""
    net = Net(3)

    def unit(inputs, outputs, k, p=0):
        return [net.conv(inputs, outputs, k, 1, p, bias=False), net.bn(outputs), relu()]

    branches = [
        seq(*unit(8, 4, 1)),
        seq(*unit(8, 4, 1), *unit(4, 6, 3, 1)),
        seq(*unit(8, 2, 1), *unit(2, 4, 5)),
        seq(
            pool("nn.SpatialAveragePooling", 3, 1, 1, count_include_pad=False, divide=True), *unit(8, 4, 1),
        ),
        seq(pool("nn.SpatialMaxPooling", 3, 1, 1), *unit(8, 4, 1)),
    ]  # fmt: skip
    return seq(
        *unit(3, 8, 3), pool("nn.SpatialMaxPooling", 3, 2, ceil_mode=True),
        table(*branches, kind="nn.DepthConcat", dimension=2),
        Layer("nn.SpatialAdaptiveAveragePooling", W=1, H=1), view(-1, dims=3), net.linear(22, 10), Layer("nn.SoftMax"),
    )  # fmt: skip


def resnet():
    """fb.resnet.torch for CIFAR with shortcut A; input 3 x 16 x 16 here."""
    net = Net(4)

    def block(inputs, outputs, d):
        body = seq(
            net.conv(inputs, outputs, 3, d, 1, kind="cudnn.SpatialConvolution", bias=False),
            net.bn(outputs, "cudnn.SpatialBatchNormalization"), relu(kind="cudnn.ReLU"),
            net.conv(outputs, outputs, 3, 1, 1, kind="cudnn.SpatialConvolution", bias=False),
            net.bn(outputs, "cudnn.SpatialBatchNormalization"),
        )  # fmt: skip
        zeros = Layer("nn.MulConstant", constant_scalar=0, inplace=False)
        widen = table(Layer("nn.Identity"), zeros, kind="nn.Concat", dimension=2)
        shortcut = Layer("nn.Identity") if inputs == outputs else seq(average(1, d), widen)
        return seq(table(body, shortcut), Layer("nn.CAddTable", inplace=True), relu(kind="cudnn.ReLU"))

    return seq(
        net.conv(3, 8, 3, 1, 1, kind="cudnn.SpatialConvolution"), net.bn(8), relu(kind="cudnn.ReLU"),
        seq(block(8, 8, 1), block(8, 8, 1)), seq(block(8, 16, 2), block(16, 16, 1)),
        pool("cudnn.SpatialAveragePooling", 8, 1), view(16, dims=3), net.linear(16, 10),
    )  # fmt: skip


def densenet(custom=False):
    """A dense block with its transition: nn.Concat of Identity and layer, or the memory-saving lists."""
    net, growth, planes, layers = Net(5), 4, 8, []
    for _ in range(3):
        first = [net.bn(planes, "cudnn.SpatialBatchNormalization"), relu(kind="cudnn.ReLU")]
        rest = [net.conv(planes, growth, 3, 1, 1, kind="cudnn.SpatialConvolution", bias=False)]
        if custom:
            layers.append(table(seq(*first), seq(*rest), kind="nn.DenseConnectLayerCustom"))
        else:
            layer = seq(*first, *rest, Layer("nn.Dropout", p=0.2, v2=True))
            layers.append(table(Layer("nn.Identity"), layer, kind="nn.Concat", dimension=2))
        planes += growth
    joined = [Layer("nn.JoinTable", dimension=2)] if custom else []
    return seq(
        net.conv(3, 8, 3, 1, 1), *layers, *joined, net.bn(planes), relu(), net.conv(planes, 10, 1), average(2, 2),
        average(4, 4), Layer("nn.Reshape", size=Longs([10])), net.linear(10, 5),
    )  # fmt: skip


def style():
    """fast-neural-style: reflection, instance normalisation, residual blocks that shave, both kinds of upsampling."""
    net = Net(6)

    def norm(planes):
        return Layer("nn.InstanceNormalization", eps=1e-5, nOutput=planes, prev_N=-1, weight=net.array(planes),
                     bias=net.array(planes))  # fmt: skip

    body = seq(net.conv(8, 8), norm(8), relu(), net.conv(8, 8), norm(8))
    edges = {"pad_l": 12, "pad_r": 12, "pad_t": 12, "pad_b": 12}
    return seq(
        Layer("nn.SpatialReflectionPadding", **edges), net.conv(3, 4, 9, 1, 4), norm(4), relu(),
        net.conv(4, 8, 3, 2, 1), norm(8), relu(),
        seq(table(body, Layer("nn.ShaveImage", size=2)), Layer("nn.CAddTable", inplace=False)),
        net.conv(8, 4, 3, 2, 1, kind="nn.SpatialFullConvolution", adjW=1, adjH=1), norm(4), relu(),
        Layer("nn.SpatialUpSamplingNearest", scale_factor=2), net.conv(4, 3, 9, 1, 4), Layer("nn.Tanh"),
        Layer("nn.MulConstant", constant_scalar=150, inplace=False), Layer("nn.TotalVariation", strength=1e-6),
    )  # fmt: skip


def resnext(layers, cardinality, base_width, *, stem="cifar", form="C", classes=5, side=4, seed=0):
    """A ResNeXt of any size, as the published Lua code builds it; its average pooling is over `side` x `side`."""
    net = Net(seed)

    def unit(inputs, outputs, k=1, d=1, groups=1):
        return [net.conv(inputs, outputs, k, d, k // 2, bias=False, groups=groups), net.bn(outputs)]

    def path(inputs, width, d, groups=1):
        return [*unit(inputs, width), relu(), *unit(width, width, 3, d, groups), relu()]

    def block(inputs, planes, d):
        width, outputs = planes * base_width // 64, 4 * planes
        if form == "B":
            paths = table(*(seq(*path(inputs, width, d)) for _ in range(cardinality)))
            branch = [paths, table(kind="nn.JoinTable", dimension=2)]
        else:
            branch = path(inputs, width * cardinality, d, cardinality)
        shortcut = table(kind="nn.Identity") if inputs == outputs else seq(*unit(inputs, outputs, 1, d))
        branch = seq(*branch, *unit(width * cardinality, outputs))
        return seq(table(branch, shortcut), table(kind="nn.CAddTable", inplace=True), relu())

    stages, channels = [], 64
    for index, count in enumerate(layers):
        planes = 64 * 2**index
        stages.append(
            seq(*(block(4 * planes if i else channels, planes, 1 if i or not index else 2) for i in range(count)))
        )
        channels = 4 * planes
    first = [*unit(3, 64, 3), relu()]
    if stem == "imagenet":
        first = [*unit(3, 64, 7, 2), relu(), pool("nn.SpatialMaxPooling", 3, 2, 1)]
    return seq(*first, *stages, average(side), view(channels, dims=3), net.linear(channels, classes))


NETWORKS = {
    "alexnet": alexnet, "vgg": vgg, "inception": inception, "resnet": resnet, "densenet": densenet,
    "densenet_lists": lambda: densenet(custom=True), "style": style,
}  # fmt: skip
