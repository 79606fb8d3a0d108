"""Networks in files, and photographs."""

import pytest
import torch

from resnext.architecture import Architecture
from tests.helpers.networks import TINY, build
from tests.helpers.pictures import make_photos

NETWORKS = {
    "cifar10": TINY,
    "imagenet": Architecture((1, 1, 1, 1), cardinality=2, base_width=4),
    "three": Architecture((1, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=3),  # nobody's
    "grey": Architecture((1, 1, 1), cardinality=4, base_width=8, stem="cifar", in_channels=1),
}


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file for each network, by its name in `NETWORKS`."""
    folder = tmp_path_factory.mktemp("weights")
    for name, architecture in NETWORKS.items():
        model = build(architecture)
        with torch.no_grad():
            model.fc.weight.mul_(3)  # so that probabilities differ between images
        torch.save(model.state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in NETWORKS}


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")
