"""Networks that are built in a moment, images for them, and how far two results are apart."""

import torch

from resnext.architecture import Architecture

TINY = Architecture((1, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)
TINY_IMAGENET = Architecture((1, 1, 1, 1), cardinality=2, base_width=4, num_classes=10)


def randomize(model, seed=0):
    """Random weights and running statistics, so that no layer is a special case of another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif value.is_floating_point() and value.dim() == 1:
                value.normal_(0.2, 0.3, generator=generator)
    return model


def build(architecture=TINY, **options):
    """A network with the same random weights each time."""
    torch.manual_seed(0)
    return randomize(architecture.build(**options))


def images(count, size=16, channels=3, seed=1):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, x):
    return model(x)


def relative_error(got, expected):
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()
