"""What the maps between the stages of a network are, as timm's `feature_info` tells it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """The map that a module gives: channels, and by how much it is smaller than the image."""

    channels: int
    reduction: int
    module: str


class FeatureInfo(Sequence[dict[str, Any]]):
    """The maps of a network from the largest down: index 0 is the stem's, 1 up those of the stages.

    `out_indices` are the maps that the network returns; `channels()`, `reduction()` and `module_name()` list what they
    say for these. As a sequence it holds timm's dictionaries (`num_chs`, `reduction`, `module`) of these.
    """

    def __init__(self, stages: Iterable[Stage], out_indices: Iterable[int] | None = None) -> None:
        self.stages = list(stages)
        self.out_indices = tuple(range(len(self.stages)) if out_indices is None else out_indices)

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [self.stages[index].channels for index in self.out_indices]

    def reduction(self) -> list[int]:
        """Size of the image over that of each map."""
        return [self.stages[index].reduction for index in self.out_indices]

    def module_name(self) -> list[str]:
        """Which module of the network gives each map."""
        return [self.stages[index].module for index in self.out_indices]

    def __len__(self) -> int:
        return len(self.out_indices)

    def __getitem__(self, position: Any) -> Any:
        return list(self)[position]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in self.out_indices:
            stage = self.stages[index]
            yield {"num_chs": stage.channels, "reduction": stage.reduction, "module": stage.module, "index": index}
