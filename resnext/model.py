"""ResNeXt (Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv 1611.05431).

Module names are torchvision's, so weights of form C interchange with its `resnext50_32x4d` under `strict=True`. The
layout is that of the authors' code (facebookresearch/ResNeXt, models/resnext.lua).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from resnext.blocks import NormLayer
from resnext.checkpointing import CheckpointedSequential
from resnext.configuration import check_configuration, check_head, data_set
from resnext.feature_info import FeatureInfo
from resnext.forms import find_form
from resnext.head import make_classifier, make_flatten, make_pool
from resnext.initialisation import initialise, zero_residual
from resnext.stages import make_stages


class ResNeXt(nn.Module):
    """ResNeXt. (N, in_channels, H, W) -> logits (N, num_classes), for H and W from 32 up.

    Args:
        layers: bottlenecks per stage; (3, 4, 6, 3) is depth 50, (n, n, n) CIFAR's depth 9n + 2.
        cardinality: number of paths, C in the paper; `groups` of the 3x3 convolution.
        base_width: width of a path in the first stage, d in the paper's "32x4d".
        stem: "imagenet" (7x7, stride 2, max pooling) or "cifar" (3x3).
        shortcut: the official `-shortcutType`. "B": a 1x1 convolution where the shape changes, else identity;
            "C": always a convolution.
        num_classes: number of logits; 0 leaves the classifier out, and the pooled features come out.
        in_channels: channels of the input image.
        form: "A", "B" or "C" of figure 3: the same function, written in another way.
        replace_stride_with_dilation: for each stage after the first, whether its stride becomes dilation, so that its
            maps keep their size (torchvision's option).
        norm_layer: makes a normalisation layer of so many channels; default: `nn.BatchNorm2d`.
        zero_init_residual: start with each bottleneck as its shortcut alone (Goyal et al., arXiv 1706.02677).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last bottleneck; it rises linearly from 0 at the first.
        global_pool: "avg" as in the paper, "max", "avgmax" (their mean), or "" for none (then num_classes must be 0).

    `feature_info` tells channels and reduction of the maps between the stages; `preprocessing` which of
    `resnext.preprocess` the weights were trained with. Initialised as in the official code. Raises ValueError for a
    configuration that cannot be built.
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
        check_configuration(
            layers=layers,
            cardinality=cardinality,
            base_width=base_width,
            stem=stem,
            shortcut=shortcut,
            num_classes=num_classes,
            in_channels=in_channels,
            form=form,
            replace_stride_with_dilation=replace_stride_with_dilation,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            global_pool=global_pool,
        )
        norm_layer = norm_layer or nn.BatchNorm2d
        self.num_classes, self.in_channels, self.form, self.stem = num_classes, in_channels, form, stem
        self.preprocessing = data_set(stem, num_classes)
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = norm_layer(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()

        stages, info = make_stages(
            layers,
            cardinality,
            base_width,
            stem=stem,
            shortcut=shortcut,
            form=form,
            dilate=replace_stride_with_dilation or (False, False, False),
            norm_layer=norm_layer,
            drop_path_rate=drop_path_rate,
        )
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.feature_info = FeatureInfo(info)
        self.num_features = self.inplanes = info[-1].channels  # timm's name for it, and torchvision's

        # The authors pool 7x7 (CIFAR: 8x8), which is the same at 224 px (32 px), and cannot take another size.
        self.global_pool = global_pool
        self.avgpool = make_pool(global_pool)  # torchvision's name, whatever it pools
        self.flatten = make_flatten(global_pool)
        self.dropout = nn.Dropout(float(drop_rate))
        self.fc: Any = make_classifier(self.num_features, num_classes)
        self.reset_parameters()
        if zero_init_residual:
            zero_residual(self)

    def reset_parameters(self) -> None:
        """Initialise everything as the official code does (ConvInit and BNInit in models/resnext.lua).

        The forms draw alike: with the same seed they are the same function.
        """
        initialise(self)

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
        """(N, num_features, h, w) -> logits (N, num_classes), or what the classifier would get if `pre_logits`."""
        x = self.avgpool(x)  # (N, C, 1, 1)
        x = self.flatten(x)
        x = self.dropout(x)
        return x if pre_logits else self.fc(x)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; weights of another form are refused in one line, not key by key."""
        form = find_form(state_dict)
        if form != self.form and any(name.startswith("layer1.") for name in state_dict):
            raise RuntimeError(
                f"the weights are of form {form}, this network is of form {self.form}: "
                f"load resnext.forms.convert_state_dict(state_dict, {form!r}, {self.form!r})"
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def get_classifier(self) -> nn.Module:
        """The classifier: a Linear, or an Identity where there is none."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place, with the official initialisation; 0 classes leave it out.

        Args:
            num_classes: number of logits.
            global_pool: another pooling, as in the constructor; None keeps the one there is.

        Raises ValueError for options that contradict each other.
        """
        pool = self.global_pool if global_pool is None else global_pool
        check_head(num_classes, 0.0, pool)  # the dropout that is there is no choice of this call
        if global_pool is not None:
            self.avgpool, self.flatten, self.global_pool = make_pool(pool), make_flatten(pool), pool
        like = self.conv1.weight
        self.fc = make_classifier(self.num_features, num_classes).to(like.device, like.dtype)
        self.num_classes = num_classes
        self.fc.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of the bottlenecks for the backward pass, which runs each once more: less memory.

        Gradients and running statistics stay the same.
        """
        for stage in self.modules():
            if isinstance(stage, CheckpointedSequential):
                stage.checkpointed = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of the names of parameters that form a layer each, for timm's learning rates by depth.

        Stem, bottlenecks (stages if `coarse`), and what no pattern matches: the classifier.
        """
        return {"stem": r"conv1|bn1", "blocks": r"layer(\d+)" if coarse else r"layer(\d+)\.(\d+)"}

    def preprocess(self, image: Any) -> Tensor:
        """The input that these weights were trained on; see `resnext.preprocess`, whose module `preprocessing` names.

        A PIL image or a uint8 tensor (3, H, W) -> float32 (3, h, w); a batch (N, 3, H, W) -> (N, 3, h, w). Raises
        ValueError for a network whose input has another number of channels.
        """
        if self.in_channels != 3:
            raise ValueError(
                f"this network takes {self.in_channels} channels, and the authors' preprocessing gives 3: "
                "prepare its input yourself"
            )
        from resnext.preprocess import get_preprocess

        return get_preprocess(self.preprocessing)(image)
