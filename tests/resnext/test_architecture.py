"""Architectures: their names, and how they are recognised by the shapes of their weights."""

import pytest

from resnext.architecture import Architecture
from resnext.zoo import ARCHITECTURES
from tests.helpers.networks import TINY


@pytest.mark.parametrize(
    "architecture",
    [TINY, Architecture((2, 2, 2), 2, 12, "cifar", "C", 100),
     Architecture((1, 2, 1, 1), 8, 4, num_classes=3, in_channels=1),
     Architecture((1, 1, 2, 1), 8, 4, shortcut="C"),
     Architecture((3, 8, 36, 3), 1, 64), Architecture((11, 11, 11), 8, 8, "cifar"), *ARCHITECTURES.values()],
    ids=lambda a: a.name,
)  # fmt: skip
def test_architecture_is_found_from_shapes(architecture):
    shapes = {name: tuple(value.shape) for name, value in architecture.build_empty().state_dict().items()}
    assert Architecture.from_shapes(shapes) == architecture


def test_names_tell_networks_of_one_depth_apart():
    assert Architecture((3, 4, 23, 3)).name == "resnext101_32x4d"
    assert Architecture((11, 11, 11), stem="cifar").name == "resnext101_32x4d_cifar"
    assert Architecture((3, 3, 3), 8, 64, stem="cifar").name == "resnext29_8x64d"
