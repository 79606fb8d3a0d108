"""What follows the last stage: pooling and classifier."""

from __future__ import annotations

from torch import Tensor, nn


class AvgMaxPool(nn.Module):
    """Mean of global average and global maximum: (N, C, H, W) -> (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True)) / 2


def make_pool(kind: str) -> nn.Module:
    """Global pooling, (N, C, H, W) -> (N, C, 1, 1): "avg", "max", "avgmax"; "" leaves the maps as they are."""
    if kind == "avgmax":
        return AvgMaxPool()
    return {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d, "": nn.Identity}[kind](1)


def make_flatten(kind: str) -> nn.Module:
    """(N, C, 1, 1) -> (N, C), where the pooling is of some kind."""
    return nn.Flatten(1) if kind else nn.Identity()


def make_classifier(features: int, num_classes: int) -> nn.Module:
    """(N, features) -> (N, num_classes), with the official initialisation; an Identity for 0 classes."""
    if num_classes == 0:
        return nn.Identity()
    classifier = nn.Linear(features, num_classes)
    nn.init.zeros_(classifier.bias)
    return classifier
