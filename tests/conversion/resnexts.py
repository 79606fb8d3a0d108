"""Torch7 files of ResNeXts of any size with random weights, as the published Lua code builds them."""

from tests.conversion.nets import Net, average, pool, relu, seq, table, view


def resnext(layers, cardinality, base_width, *, stem="cifar", form="C", classes=5, side=4, seed=0):
    """The network; its average pooling is over `side` x `side`."""
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
