"""ResNeXt (Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv 1611.05431).

The whole network, from the bottom up. Modules have torchvision's names, so that weights of form C interchange with its
`resnext50_32x4d` under `strict=True`. The layout is that of the authors' code (facebookresearch/ResNeXt,
models/resnext.lua).
"""

# Annotations are real types here, not strings: torch.fx copies them into the code of a graph, which must be scriptable.

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnext.arguments import NormLayer, check_body, check_head, check_indices, check_options
from resnext.features import FeatureInfo, Intermediates
from resnext.forms import find_form

EXPANSION = 4  # output channels of a bottleneck over its planes


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv 1603.09382).

    (N, C, H, W) -> the same. In training each image is zeroed with probability `rate`, and the others are scaled by
    1 / (1 - rate); in evaluation nothing is done.
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


class Bottleneck(nn.Module):
    """Form C of figure 3: 1x1, grouped 3x3, 1x1. One group makes it the plain bottleneck of ResNet.

    (N, inputs, H, W) -> (N, outputs, H/stride, W/stride).

    A path has `width` channels, and there are `groups` paths. The stride is that of the 3x3 convolution, as in the
    authors' code. `downsample` is the shortcut where it is not the identity.
    """

    def __init__(
        self, inputs: int, width: int, groups: int, outputs: int, stride: int, dilation: int, norm_layer: NormLayer,
        downsample: nn.Module | None, drop_path: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width * groups, 1, bias=False)
        self.bn1 = norm_layer(width * groups)
        self.conv2 = nn.Conv2d(width * groups, width * groups, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = norm_layer(width * groups)
        self.conv3 = nn.Conv2d(width * groups, outputs, 1, bias=False)
        self.bn3 = norm_layer(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample  # after the branch: the order of torchvision's parameters
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out = self.drop_path(out)
        out += identity
        return self.relu(out)


class Path(nn.Module):
    """A path of form B, 1x1, 3x3: (N, inputs, H, W) -> (N, width, H/stride, W/stride).

    With `outputs` a path of form A, 1x1, 3x3, 1x1: (N, inputs, H, W) -> (N, outputs, H/stride, W/stride).
    """

    def __init__(
        self, inputs: int, width: int, outputs: int | None, stride: int, dilation: int, norm_layer: NormLayer
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm_layer(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = norm_layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv3 = None if outputs is None else nn.Conv2d(width, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        if self.conv3 is not None:
            x = self.conv3(x)
        return x


class PathBottleneck(nn.Module):
    """Forms A and B of figure 3, whose paths are modules of their own. Shapes and arguments: see `Bottleneck`.

    Form A sums paths of 1x1, 3x3, 1x1, and normalises the sum. Form B concatenates paths of 1x1, 3x3 before one 1x1.
    """

    def __init__(
        self, form: str, inputs: int, width: int, groups: int, outputs: int, stride: int, dilation: int,
        norm_layer: NormLayer, downsample: nn.Module | None, drop_path: float,
    ) -> None:  # fmt: skip
        super().__init__()
        path_outputs = outputs if form == "A" else None
        self.paths = nn.ModuleList(
            Path(inputs, width, path_outputs, stride, dilation, norm_layer) for _ in range(groups)
        )
        self.conv3 = nn.Conv2d(width * groups, outputs, 1, bias=False) if form == "B" else None
        self.bn3 = norm_layer(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        if self.conv3 is not None:
            out = self.conv3(torch.cat([path(x) for path in self.paths], 1))
        else:
            out = self.paths[0](x)
            for index, path in enumerate(self.paths):  # TorchScript cannot call what a slice of a ModuleList holds
                if index > 0:
                    out = out + path(x)
        out = self.bn3(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out = self.drop_path(out)
        out += identity
        return self.relu(out)


class Stage(nn.Sequential):
    """Bottlenecks one after another; where `checkpointed` is set, only their inputs are kept for the backward pass."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.checkpointed = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            if not torch.jit.is_scripting() and self.checkpointed:
                x = _run_checkpointed(block, x)
            else:
                x = block(x)
        return x


def _run_checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Each run has its own copies of the buffers, so that the second one, in the backward pass, leaves no trace."""
    buffers = dict(block.named_buffers())

    def run(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        copies = {name: value.clone() for name, value in buffers.items()}
        return torch.func.functional_call(block, copies, (x,)), copies

    out, updated = checkpoint(run, x, use_reentrant=False)
    with torch.no_grad():
        for name, value in buffers.items():
            value.copy_(updated[name])
    return out


class AvgMaxPool(nn.Module):
    """Global average and global maximum, (N, C, H, W) -> their mean (N, C, 1, 1), or both, (N, 2 * C, 1, 1)."""

    def __init__(self, both: bool = False) -> None:
        super().__init__()
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        average, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return torch.cat([average, largest], 1) if self.both else (average + largest) / 2


class ResNeXt(Intermediates, nn.Module):
    """ResNeXt. (N, in_channels, H, W) -> logits (N, num_classes), for H and W from 32 up.

    Args:
        layers: bottlenecks per stage; (3, 4, 6, 3) is depth 50, (n, n, n) CIFAR's depth 9n + 2. CIFAR's stem takes four
            stages as well.
        cardinality: number of paths, C in the paper; `groups` of the 3x3 convolution.
        base_width: width of a path in the first stage, d in the paper's "32x4d".
        stem: "imagenet" (7x7, stride 2, max pooling) or "cifar" (3x3).
        shortcut: the official `-shortcutType`. "B": a 1x1 convolution where the shape changes, else the identity;
            "C": always a convolution.
        num_classes: number of logits; 0 leaves the classifier out, and the pooled features come out.
        in_channels: channels of the input image.
        form: "A", "B" or "C" of figure 3: three ways to write one function. A and B need a normalisation that treats
            each channel by itself, as batch norm does; with others the forms would be different functions.
        replace_stride_with_dilation: for each stage after the first, whether its stride becomes dilation, so that its
            maps keep their size (torchvision's option).
        norm_layer: makes a normalisation layer for a number of channels; default: `nn.BatchNorm2d`.
        zero_init_residual: each bottleneck starts as its shortcut only (Goyal et al., arXiv 1706.02677).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last bottleneck; it rises linearly from 0 at the first.
        global_pool: "avg" as in the paper, "max", "avgmax" (their mean), "catavgmax" (one after the other, which
            gives the classifier twice the features), or "" for none (then num_classes must be 0).

    `feature_info` tells channels and reduction of the maps between the stages. `resnext.save` keeps what is known of
    the weights with them: `preprocessing`, a name of the authors' or a `resnext.preprocess.Preprocessing`; `classes`,
    the names of the outputs, and `license`, or None. Initialised as in the official code.

    Raises TypeError and ValueError, which name the argument, for a network that cannot be built.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        *,
        cardinality: int = 32,
        base_width: int = 4,
        stem: str = "imagenet",
        shortcut: str = "B",
        num_classes: int = 1000,
        in_channels: int = 3,
        form: str = "C",
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: NormLayer | None = None,
        zero_init_residual: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        norm_layer = nn.BatchNorm2d if norm_layer is None else norm_layer
        check_body(layers, cardinality, base_width, stem, shortcut, in_channels, form)
        check_options(len(layers), form, replace_stride_with_dilation, norm_layer, zero_init_residual, drop_path_rate)
        check_head(num_classes, drop_rate, global_pool)
        self.in_channels, self.form, self.stem, self.zero_init_residual = in_channels, form, stem, zero_init_residual
        self.preprocessing: Any = data_set(stem, num_classes)
        self.license: str | None = None
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = norm_layer(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()

        make_block: Any = Bottleneck if form == "C" else functools.partial(PathBottleneck, form)
        channels, dilation, reduction = 64, 1, 4 if stem == "imagenet" else 1
        rate, rise = 0.0, float(drop_path_rate) / max(sum(layers) - 1, 1)
        info = [{"num_chs": 64, "reduction": max(reduction // 2, 1), "module": "relu", "index": 0}]
        stages: list[nn.Module] = []
        for stage, count in enumerate(layers, 1):
            planes = 64 * 2 ** (stage - 1)
            outputs = planes * EXPANSION
            stride, dilation_before = 2 if stage > 1 else 1, dilation
            if stage > 1 and replace_stride_with_dilation and replace_stride_with_dilation[stage - 2]:
                stride, dilation = 1, 2 * dilation
            reduction *= stride
            width, blocks = block_width(planes, base_width), []
            for block in range(count):
                downsample = None
                if shortcut == "C" or channels != outputs:
                    downsample = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), norm_layer(outputs))
                # as in torchvision: the bottleneck that had the stride keeps the dilation of the stage before
                dilated = dilation if block > 0 else dilation_before
                shape = (channels, width, cardinality, outputs, stride, dilated)
                blocks.append(make_block(*shape, norm_layer, downsample, rate))
                channels, stride, rate = outputs, 1, rate + rise
            stages.append(Stage(*blocks))
            info.append({"num_chs": outputs, "reduction": reduction, "module": f"layer{stage}", "index": stage})
        self.layer1, self.layer2, self.layer3, self.layer4 = (*stages, nn.Identity())[:4]  # CIFAR has no fourth stage
        self.feature_info = FeatureInfo(info)
        self.num_features = self.inplanes = channels  # timm's name and torchvision's

        self._set_head(num_classes, global_pool, drop_rate)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> the maps of the last stage, (N, num_features, H/32, W/32); CIFAR: H/4, W/4."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        return self.layer4(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> logits (N, num_classes), or the input of the classifier if `pre_logits`."""
        x = self.avgpool(x)  # (N, C, 1, 1)
        x = self.flatten(x)  # (N, C)
        x = self.dropout(x)
        return x if pre_logits else self.fc(x)

    def reset_parameters(self) -> None:
        """Initialise everything as the official code does (ConvInit and BNInit in models/resnext.lua).

        With the same seed the three forms become the same function. `zero_init_residual` holds here too.
        """
        if self.conv1.weight.is_meta:  # nothing to fill; and normal_ on meta tensors imports sympy, a second or so
            return
        for convolutions, dim in _convolutions_of_form_c(self):
            weight = torch.cat([convolution.weight.detach() for convolution in convolutions], dim)
            outputs, _, height, width = weight.shape
            nn.init.normal_(weight, 0, math.sqrt(2 / (height * width * outputs)))
            for convolution, part in zip(convolutions, weight.tensor_split(len(convolutions), dim), strict=True):
                convolution.weight.data.copy_(part)
        module: Any
        for module in self.modules():
            if module is not self and not isinstance(module, nn.Conv2d) and hasattr(module, "reset_parameters"):
                module.reset_parameters()  # normalisation: weight 1, bias 0; Linear: within 1 / sqrt(inputs), as Torch7
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if self.zero_init_residual and hasattr(module, "bn3"):
                nn.init.zeros_(module.bn3.weight)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Like that of `nn.Module`; for weights of another form, the error says how to convert them."""
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            form = find_form(state_dict)
            fits = form == self.form or "Missing key" not in str(error)
            if fits or (form == "C" and "layer1.0.conv1.weight" not in state_dict):
                raise
            raise RuntimeError(
                f"the weights are of form {form}, this network is of form {self.form}: "
                f"load resnext.forms.convert_state_dict(state_dict, {form!r}, {self.form!r})"
            ) from error

    def get_classifier(self) -> nn.Module:
        """The classifier: a Linear, or an Identity where there is none."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place, with the official initialisation; 0 classes leave it out.

        Args:
            num_classes: number of logits.
            global_pool: another pooling, as in the constructor; None keeps the present one.

        Raises TypeError and ValueError as the constructor does.
        """
        check_head(num_classes, 0.0, self.global_pool if global_pool is None else global_pool)
        self._set_head(num_classes, global_pool)

    def _set_head(self, num_classes: int, global_pool: str | None, drop_rate: float | None = None) -> None:
        """Pooling, dropout and classifier; None keeps what is there."""
        if global_pool is not None:
            # The authors pool 7x7 (CIFAR: 8x8), which is the same at 224 px (32 px), and cannot take another size.
            pools = {"avg": nn.AdaptiveAvgPool2d(1), "max": nn.AdaptiveMaxPool2d(1), "": nn.Identity()}
            both = AvgMaxPool(both=global_pool == "catavgmax")
            self.avgpool: nn.Module = pools.get(global_pool, both)  # torchvision's name, whatever it pools
            self.flatten: nn.Module = nn.Flatten(1) if global_pool else nn.Identity()
            self.global_pool = global_pool
        if drop_rate is not None:
            self.dropout = nn.Dropout(float(drop_rate))
        self.head_hidden_size = self.num_features * (2 if self.global_pool == "catavgmax" else 1)  # timm's name
        self.fc: Any = make_classifier(self.head_hidden_size, num_classes).to(self.conv1.weight).train(self.training)
        self.num_classes = num_classes
        self.classes: list[str] | None = None  # a new classifier has none yet

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of the bottlenecks for the backward pass, which runs each once more: less memory.

        Gradients and running statistics stay the same.
        """
        for stage in self.modules():
            if isinstance(stage, Stage):
                stage.checkpointed = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """For timm's learning rates by depth: which parameters make a layer; the classifier is what matches neither."""
        return {"stem": r"conv1|bn1", "blocks": r"layer(\d+)" if coarse else r"layer(\d+)\.(\d+)"}

    @property
    def data_set(self) -> str:
        """The data set of the authors whose classes the outputs may be: "imagenet", "cifar10" or "cifar100"."""
        return self.preprocessing if isinstance(self.preprocessing, str) else data_set(self.stem, self.num_classes)

    def transform(self) -> nn.Module:
        """`preprocess` as a module, for data sets and pipelines: the input that these weights were trained on.

        It takes a PIL image, a path, an array (H, W, 3) or a tensor (3, H, W) of uint8 and returns float32 (3, h, w);
        of a list of them, or a tensor (N, 3, H, W), a batch. Raises ValueError where the input has other channels.
        """
        if self.in_channels != 3:
            expected = f"this network takes {self.in_channels} channels, and the authors' preprocessing gives 3"
            raise ValueError(f"{expected}: prepare its input yourself")
        from resnext.preprocess import get_preprocess

        return get_preprocess(self.preprocessing)

    def preprocess(self, image: Any) -> Tensor:
        """`transform()` of one image or several; it says which kinds it takes, and what it raises."""
        return self.transform()(image)


class ResNeXtFeatures(ResNeXt):
    """ResNeXt without its head. (N, in_channels, H, W) -> list of maps, one for each of `out_indices`, ascending.

    Index 0 is the map of the stem before the max pooling (reduction 2), 1 to 4 are those of the stages (reduction 4 to
    32), as in timm; CIFAR's networks have 0 to 3 (reduction 1, 1, 2, 4). Negative indices count from the last.
    `feature_info` tells channels and reduction of each. Stages after the last map that is wanted are left out. The
    other arguments are those of `ResNeXt`, without `num_classes` and `global_pool`.

    Raises TypeError and ValueError for indices that do not exist, and as `ResNeXt` does.
    """

    def __init__(
        self, layers: Sequence[int] = (3, 4, 6, 3), *, out_indices: Sequence[int] | None = None, **options: Any
    ) -> None:
        super().__init__(layers, **options, num_classes=0, global_pool="")
        count = len(self.feature_info)
        self.out_indices = check_indices(range(count) if out_indices is None else out_indices, count)
        super().prune_intermediate_layers(self.out_indices)
        self.feature_info = FeatureInfo(self.feature_info[index] for index in self.out_indices)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Raises ValueError: there is no classifier."""
        raise ValueError(f"features_only=True and num_classes={num_classes} cannot be combined: there is no classifier")

    def prune_intermediate_layers(self, *arguments: Any, **options: Any) -> list[int]:
        """Raises ValueError: `out_indices` says what is kept."""
        raise ValueError("a network with features_only=True is pruned already; build it with other out_indices")

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        x = self.relu(self.bn1(self.conv1(x)))
        maps = [x]
        x = self.maxpool(x)
        x = self.layer1(x)
        maps.append(x)
        x = self.layer2(x)
        maps.append(x)
        x = self.layer3(x)
        maps.append(x)
        maps.append(self.layer4(x))
        return [maps[index] for index in self.out_indices]


def block_width(planes: int, base_width: int) -> int:
    """D, the channels of one path in a bottleneck of `planes`: floor(planes * base_width / 64)."""
    return planes * base_width // 64


def data_set(stem: str, num_classes: int) -> str:
    """The data set that the authors trained such a network on: "imagenet", "cifar10" or "cifar100"."""
    if stem == "imagenet":
        return "imagenet"
    return "cifar100" if num_classes == 100 else "cifar10"


def make_classifier(features: int, num_classes: int) -> nn.Module:
    """(N, features) -> (N, num_classes), with the official initialisation; an Identity for 0 classes."""
    if num_classes == 0:
        return nn.Identity()
    classifier = nn.Linear(features, num_classes)
    nn.init.zeros_(classifier.bias)
    return classifier


def _convolutions_of_form_c(model: nn.Module) -> Iterator[tuple[list[nn.Conv2d], int]]:
    """The convolutions that are one in form C, in its order, and the dimension that joins their weights."""
    joined: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, PathBottleneck):
            for name, dim in (("conv1", 0), ("conv2", 0), ("conv3", 1)):
                convolutions = [getattr(path, name) for path in module.paths if getattr(path, name) is not None]
                if convolutions:
                    joined.update(convolutions)
                    yield convolutions, dim
        elif isinstance(module, nn.Conv2d) and module not in joined:
            yield [module], 0
