"""ResNeXt for inference: the convolutions include batch norm, ReLU and the residual sum.

    batch norm   y = (x - mean) * gamma / sqrt(var + eps) + beta = x * scale + shift
    so           conv(x; w) and batch norm = conv(x; w * scale) + shift

Forms A and B become form C on the way, which is the same function (`resnext.forms`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from resnext.inference.private_torch import Convolution, remove_hooks
from resnext.model import Bottleneck, PathBottleneck, ResNeXt, ResNeXtFeatures

EXACT = 1e-10  # relative, in double precision: how far two orders of the same sums may differ
CHECKED = 2  # images of the example that are run in double precision


class FoldedConv(nn.Conv2d):
    """A convolution with a bias, then the shortcut added where one is given, then ReLU if `relu`.

    (N, in_channels, H, W) -> (N, out_channels, H', W').
    """

    def __init__(self, weight: Tensor, bias: Tensor, relu: bool, like: Any = None, groups: int = 1) -> None:
        """Stride, padding and dilation are those of `like`, a convolution; default: 1, 0 and 1."""
        outputs, width, *size = weight.shape
        stride, padding, dilation = (like.stride, like.padding, like.dilation) if like is not None else (1, 0, 1)
        super().__init__(width * groups, outputs, (size[0], size[1]), stride, padding, dilation, groups, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.relu = relu
        self.packed: Convolution | None = None  # replaces all of this

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if self.packed is not None:
            return self.packed(x, shortcut)
        out = super().forward(x)
        if shortcut is not None:
            out = out + shortcut
        return F.relu(out) if self.relu else out


class FoldedBottleneck(nn.Module):
    """A bottleneck of form C: (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""

    def __init__(self, conv1: FoldedConv, conv2: FoldedConv, conv3: FoldedConv, downsample: FoldedConv | None) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.downsample = conv1, conv2, conv3, downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return self.conv3(out, x if self.downsample is None else self.downsample(x))


class FoldedResNeXt(nn.Module):
    """What `fold` returns. (N, in_channels, H, W) of any floating point type -> float32 logits (N, num_classes).

    Computes in the type of its weights, channels last. A network without a classifier or pooling gives its features.
    """

    def __init__(self, stem: nn.Sequential, blocks: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, blocks, head

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        bias = self.stem[0].bias
        assert isinstance(bias, Tensor)
        return bias.dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x).float()

    def compute(self, x: Tensor) -> Tensor:
        """The same in the type of the weights."""
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return self.head(self.blocks(self.stem(x)))


def fold(model: ResNeXt, example: Tensor) -> tuple[FoldedResNeXt, Tensor]:
    """The network in evaluation mode as a `FoldedResNeXt` in double precision, and the logits that it must reproduce.

    Copies of both run in double precision, without the hooks of `model`, and are compared; `model` does not change. The
    logits are the original network's, for the first two images of `example`: float64 (min(N, 2), num_classes).

    Raises TypeError for a module that is not a ResNeXt; ValueError for a normalisation that cannot be folded, for
    weights that are computed (pruned, parametrised), and where the two differ by more than 1e-10 (a network that has
    been altered).
    """
    check_model(model)
    original = bare_copy(model)
    folded = FoldedResNeXt(
        nn.Sequential(
            FoldedConv(*_scale(original.conv1.weight, original.bn1, "bn1"), True, original.conv1), original.maxpool
        ),
        nn.Sequential(*_fold_blocks(original)),
        nn.Sequential(original.avgpool, original.flatten, original.fc),
    )
    folded = folded.requires_grad_(False).eval()
    images = example[:CHECKED].double()
    with torch.no_grad():
        expected, got = original(images), folded.compute(images)
    error = relative_error(got, expected)
    if not error <= EXACT:
        raise ValueError(
            f"the folded network differs from the given one by {error:.1e}, expected at most {EXACT:.0e}: "
            "its weights or the example are not finite, or its modules are not those of resnext.ResNeXt"
        )
    return folded.to(memory_format=torch.channels_last), expected  # type: ignore[call-overload]


def check_model(model: nn.Module) -> None:
    """Raise TypeError unless a module is a ResNeXt with logits or pooled features.

    Raises ValueError for one whose weights are computed from others at each call: copies would be wrong.
    """
    if not isinstance(model, ResNeXt) or isinstance(model, ResNeXtFeatures):
        raise TypeError(
            f"expected a resnext.ResNeXt with logits or pooled features, got {type(model).__name__}; "
            "take a wrapped network out of its wrapper"
        )
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
            continue
        # Pruning and the older weight_norm and spectral_norm leave weight_orig, weight_g and the like.
        computed = {key for key, _ in module.named_parameters(recurse=False)} - {"weight", "bias"}
        if computed or parametrize.is_parametrized(module):
            raise ValueError(
                f"{name} is pruned or parametrised: its weights are computed at each call; make them permanent first, "
                "by torch.nn.utils.prune.remove, parametrize.remove_parametrizations, remove_weight_norm or "
                "remove_spectral_norm"
            )


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of `expected`, in double precision; the difference where that is 0."""
    difference, norm = (got.double() - expected.double()).norm().item(), expected.double().norm().item()
    return difference / norm if norm else difference


def allowed_error(model: ResNeXt, images: Tensor, dtype: torch.dtype, least: float) -> float:
    """The error that logits computed in `dtype` may have: `least`, or twice that of the network itself in `dtype`.

    Some networks magnify rounding errors: with random weights up to a hundred times more than with trained ones.
    """
    images = images[:CHECKED]
    with torch.no_grad():
        plain = bare_copy(model).to(dtype)(images.to(dtype))
        exact = bare_copy(model)(images.double())
    return max(least, 2 * relative_error(plain, exact))


def bare_copy(model: ResNeXt) -> ResNeXt:
    """The network in double precision, for evaluation, without its hooks."""
    result = copy.deepcopy(model).double().eval()
    remove_hooks(result)
    return result


def _fold_blocks(model: ResNeXt) -> list[FoldedBottleneck]:
    result = []
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for name, block in getattr(model, stage).named_children():
            if not isinstance(block, Bottleneck | PathBottleneck):
                raise ValueError(f"{stage}.{name} is a {type(block).__name__}; expected a bottleneck of ResNeXt")
            result.append(_fold_block(block, f"{stage}.{name}"))
    return result


def _fold_block(block: Any, name: str) -> FoldedBottleneck:
    paths: list[Any] = list(getattr(block, "paths", [block]))
    parts1 = [_scale(path.conv1.weight, path.bn1, f"{name}.bn1") for path in paths]
    parts2 = [_scale(path.conv2.weight, path.bn2, f"{name}.bn2") for path in paths]
    weight3 = block.conv3.weight if block.conv3 is not None else torch.cat([path.conv3.weight for path in paths], 1)
    weight2 = torch.cat([weight for weight, _ in parts2])
    conv1 = FoldedConv(torch.cat([weight for weight, _ in parts1]), torch.cat([bias for _, bias in parts1]), True)
    conv2 = FoldedConv(
        weight2, torch.cat([bias for _, bias in parts2]), True, paths[0].conv2, weight2.shape[0] // weight2.shape[1]
    )
    conv3 = FoldedConv(*_scale(weight3, block.bn3, f"{name}.bn3"), True)
    downsample = None
    if isinstance(block.downsample, nn.Sequential):
        conv: Any = block.downsample[0]
        norm = block.downsample[1]
        downsample = FoldedConv(*_scale(conv.weight, norm, f"{name}.downsample.1"), False, conv)
    return FoldedBottleneck(conv1, conv2, conv3, downsample)


def _scale(weight: Tensor, norm: Any, name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that includes the norm: a batch norm, or some kind of frozen one.

    Scale and shift follow from its outputs for 0 and 1, because not every frozen one says what its eps is.
    """
    if any(not isinstance(getattr(norm, key, None), Tensor) for key in ("running_mean", "running_var")):
        raise ValueError(f"{name}: expected a batch norm with running statistics, which can be folded, got {norm}")
    levels = torch.tensor([0.0, 1.0], dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        shift, top = norm(levels[:, None, None, None].expand(-1, weight.shape[0], 1, 1)).flatten(1)
        return weight * (top - shift)[:, None, None, None], shift
