import pytest
import torch

from tests.helpers.networks import TINY_IMAGENET, build


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def imagenet():
    return build(TINY_IMAGENET)


@pytest.fixture
def weights(model, tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save(model.state_dict(), path)
    return path
