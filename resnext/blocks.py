"""The bottleneck in the three forms of figure 3 (arXiv 1611.05431), which are one function with the same weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

NormLayer = Callable[[int], nn.Module]


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv 1603.09382).

    (N, C, H, W) -> the same. In training each image is zeroed with probability `rate`, and those that are kept are
    scaled by 1 / (1 - rate); in evaluation nothing is done.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        kept = torch.rand((x.shape[0], 1, 1, 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype).div(1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class Residual(nn.Module):
    """What the forms share: the branch that each builds and runs is added to the shortcut.

    (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride).

    Args:
        in_channels: channels of the input.
        width: channels of one path.
        groups: number of paths.
        out_channels: channels of the output.
        stride: of the 3x3 convolution, as in the authors' code, and of the shortcut.
        dilation: of the 3x3 convolution.
        norm_layer: a normalisation layer of so many channels.
        downsample: the shortcut where it is not the identity.
        drop_path: rate of `DropPath` on the branch.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        groups: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm_layer: NormLayer = nn.BatchNorm2d,
        downsample: nn.Module | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self._build(in_channels, width, groups, out_channels, stride, dilation, norm_layer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample  # after the branch: the order of torchvision's parameters
        self.drop_path = DropPath(drop_path)

    def _build(
        self, inputs: int, width: int, groups: int, outputs: int, stride: int, dilation: int, norm_layer: NormLayer
    ) -> None:
        raise NotImplementedError

    def _add_shortcut(self, out: Tensor, x: Tensor) -> Tensor:
        identity = x
        if self.downsample is not None:
            identity = self.downsample(x)
        out = self.drop_path(out)
        out += identity
        return self.relu(out)


class Bottleneck(Residual):
    """Form C: 1x1, grouped 3x3, 1x1. One group makes it the plain bottleneck of ResNet."""

    def _build(
        self, inputs: int, width: int, groups: int, outputs: int, stride: int, dilation: int, norm_layer: NormLayer
    ) -> None:
        self.conv1 = nn.Conv2d(inputs, width * groups, 1, bias=False)
        self.bn1 = norm_layer(width * groups)
        self.conv2 = nn.Conv2d(width * groups, width * groups, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = norm_layer(width * groups)
        self.conv3 = nn.Conv2d(width * groups, outputs, 1, bias=False)
        self.bn3 = norm_layer(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self._add_shortcut(out, x)


class Path(nn.Module):
    """A path of form B: 1x1, 3x3. (N, inputs, H, W) -> (N, width, H/stride, W/stride)."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm_layer(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = norm_layer(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


class WholePath(Path):
    """A path of form A: 1x1, 3x3, 1x1. (N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dilation: int, norm_layer: NormLayer
    ) -> None:
        super().__init__(inputs, width, stride, dilation, norm_layer)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.conv3(x)


class BottleneckA(Residual):
    """Form A: paths of 1x1, 3x3, 1x1, summed; the last normalisation comes after the sum."""

    def _build(
        self, inputs: int, width: int, groups: int, outputs: int, stride: int, dilation: int, norm_layer: NormLayer
    ) -> None:
        self.paths = nn.ModuleList(
            WholePath(inputs, width, outputs, stride, dilation, norm_layer) for _ in range(groups)
        )
        self.bn3 = norm_layer(outputs)

    def forward(self, x: Tensor) -> Tensor:
        total = self.paths[0](x)
        for index, path in enumerate(self.paths):  # TorchScript cannot call what a slice of a ModuleList holds
            if index > 0:
                total = total + path(x)
        return self._add_shortcut(self.bn3(total), x)


class BottleneckB(Residual):
    """Form B: paths of 1x1, 3x3, concatenated, then one 1x1."""

    def _build(
        self, inputs: int, width: int, groups: int, outputs: int, stride: int, dilation: int, norm_layer: NormLayer
    ) -> None:
        self.paths = nn.ModuleList(Path(inputs, width, stride, dilation, norm_layer) for _ in range(groups))
        self.conv3 = nn.Conv2d(width * groups, outputs, 1, bias=False)
        self.bn3 = norm_layer(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.cat([path(x) for path in self.paths], 1)
        return self._add_shortcut(self.bn3(self.conv3(out)), x)


BLOCKS: dict[str, type[Residual]] = {"A": BottleneckA, "B": BottleneckB, "C": Bottleneck}
