"""A small network, and a hub folder of the test's own."""

import pytest
import torch

from tests.helpers.networks import build


@pytest.fixture(scope="session")
def model():
    return build().eval()


@pytest.fixture
def hub(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub"
    torch.hub.set_dir(before)
