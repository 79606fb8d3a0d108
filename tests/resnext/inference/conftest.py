"""A small network, images for it, and a hub folder of the test's own."""

import pytest
import torch

import resnext
from tests.conftest import randomize

LIMITS = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}


def tiny(**options):
    torch.manual_seed(0)
    return randomize(
        resnext.ResNeXt((1, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10, **options)
    ).eval()


def images(count, size=16, channels=3, seed=1):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, x):
    return model(x)


@pytest.fixture(scope="session")
def model():
    return tiny()


@pytest.fixture
def hub(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub"
    torch.hub.set_dir(before)
