"""Networks that are exported in a moment."""

import torch

from resnext.architecture import Architecture
from tests.conftest import randomize

CIFAR = Architecture((1, 1, 1), cardinality=2, base_width=4, stem="cifar", num_classes=10)
IMAGENET = Architecture((1, 1, 1, 1), cardinality=2, base_width=4, num_classes=10)


def build(architecture, **options):
    """With the same random weights each time."""
    torch.manual_seed(0)
    return randomize(architecture.build(**options))
