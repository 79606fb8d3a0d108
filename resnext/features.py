"""The maps between the stages of a network: what they are, and how to take them, with timm's names and signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from resnext.arguments import take_indices


class FeatureInfo(list[dict[str, Any]]):
    """The maps that a network gives, from the largest down, as timm describes them: a dictionary each.

    `index` 0 is the map of the stem, 1 and up are those of the stages; `num_chs` are its channels, `reduction` is the
    size of the image over its own, `module` names the module that gives it. The methods list these for all maps.
    """

    @property
    def out_indices(self) -> tuple[int, ...]:
        return tuple(entry["index"] for entry in self)

    def channels(self) -> list[int]:
        return [entry["num_chs"] for entry in self]

    def reduction(self) -> list[int]:
        return [entry["reduction"] for entry in self]

    def module_name(self) -> list[str]:
        return [entry["module"] for entry in self]


class Intermediates:
    """The part of a `ResNeXt` that gives the maps on the way to its features. timm's wrappers call these."""

    def forward_intermediates(
        self: Any, x: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False, stop_early: bool = False,
        output_fmt: str = "NCHW", intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:  # fmt: skip
        """What `forward_features` gives, and the maps on the way, as in timm.

        Args:
            x: (N, in_channels, H, W).
            indices: which maps, numbered as in `feature_info`; a number n means the last n, None all. They come in the
                order of the network. Negative indices count from the last.
            norm: changes nothing: every map is normalised.
            stop_early: leave out the stages after the last map that is wanted; its features are then what it led to.
            output_fmt: "NCHW".
            intermediates_only: return the maps without the features.

        Raises TypeError and ValueError for indices that do not exist and for another format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt {output_fmt!r}; expected 'NCHW'")
        stages = self._stages()
        wanted = take_indices(indices, len(stages) + 1)
        x = self.relu(self.bn1(self.conv1(x)))
        maps = [x] if 0 in wanted else []
        x = self.maxpool(x)
        for index, stage in enumerate(stages[: wanted[-1]] if stop_early else stages, 1):
            x = stage(x)
            if index in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self: Any, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take out the stages after the last of these maps, and the head with them; returns the indices, ascending.

        As in timm: indices are those of `forward_intermediates`; the head stays only if no stage is taken out and
        `prune_head` is False; `prune_norm` changes nothing. Raises as `forward_intermediates` does.
        """
        stages = self._stages()
        wanted = take_indices(indices, len(stages) + 1)
        last = wanted[-1]
        left_out = [f"layer{index}" for index in range(last + 1, len(stages) + 1)]
        for name in left_out if last > 0 else ["maxpool", *left_out]:
            setattr(self, name, nn.Identity())
        if last < len(stages):
            self.num_features = self.inplanes = self.feature_info[last]["num_chs"]
        if prune_head or last < len(stages):
            self._set_head(0, "", 0.0)
        return wanted

    def _stages(self: Any) -> list[nn.Module]:
        """Those that are there: CIFAR's networks have no fourth, and a pruned network has none after its last map."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return [stage for stage in stages if not isinstance(stage, nn.Identity)]
