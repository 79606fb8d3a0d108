"""ResNeXt as a backbone: the maps between its stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from resnext.feature_info import FeatureInfo
from resnext.model import ResNeXt


class ResNeXtFeatures(ResNeXt):
    """ResNeXt without its head. (N, in_channels, H, W) -> list of maps, one for each of `out_indices`, ascending.

    Index 0 is the map of the stem ahead of the max pooling (reduction 2), 1 to 4 are those of the stages (reduction 4
    to 32), as in timm; CIFAR's networks have 0 to 3 (reduction 1, 1, 2, 4). Negative indices count from the last.
    `feature_info` tells channels and reduction of each. Stages behind the last map that is wanted are left out.

    Args:
        layers, options: as of `ResNeXt`.
        out_indices: which maps to return; default: all.

    Raises ValueError for an index that there is not, and as `ResNeXt`.
    """

    def __init__(
        self, layers: Sequence[int] = (3, 4, 6, 3), *, out_indices: Sequence[int] | None = None, **options: Any
    ) -> None:
        super().__init__(layers, **options, num_classes=0, global_pool="")
        stages = self.feature_info.stages
        self.out_indices = _check_indices(range(len(stages)) if out_indices is None else out_indices, len(stages))
        self.feature_info = FeatureInfo(stages, self.out_indices)
        for index in range(self.out_indices[-1] + 1, len(stages)):
            setattr(self, stages[index].module, nn.Identity())
        self.num_features = self.inplanes = self.feature_info.channels()[-1]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Raises ValueError: there is no classifier."""
        raise ValueError(
            f"features_only=True and num_classes={num_classes} contradict each other: there is no classifier"
        )

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        maps: list[Tensor] = []
        x = self.relu(self.bn1(self.conv1(x)))
        maps.append(x)
        x = self.maxpool(x)
        x = self.layer1(x)
        maps.append(x)
        x = self.layer2(x)
        maps.append(x)
        x = self.layer3(x)
        maps.append(x)
        maps.append(self.layer4(x))
        return [maps[index] for index in self.out_indices]


def _check_indices(indices: Sequence[int], count: int) -> list[int]:
    if not isinstance(indices, Iterable):
        raise ValueError(f"out_indices {indices!r}; expected a sequence of numbers")
    indices = list(indices)
    wrong = [index for index in indices if not isinstance(index, Integral) or not -count <= int(index) < count]
    if wrong or not indices:
        raise ValueError(f"out_indices {tuple(indices)}; expected some of 0 to {count - 1} (or {-count} to -1)")
    return sorted({int(index) % count for index in indices})
