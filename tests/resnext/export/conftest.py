import pytest
import torch

from tests.resnext.export.networks import CIFAR, IMAGENET, build


@pytest.fixture(scope="module")
def model():
    return build(CIFAR)


@pytest.fixture(scope="module")
def imagenet():
    return build(IMAGENET)


@pytest.fixture
def weights(model, tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save(model.state_dict(), path)
    return path
