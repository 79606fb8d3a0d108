"""What the README prints, run as it stands there."""

import importlib
import json
import re

import pytest
import torch

from resnext import zoo
from resnext.weights import records
from resnext.weights.download import sha256_of
from tests.conftest import ROOT

NAME = "resnext50_32x4d"


def run_examples(heading):
    """Run the Python blocks under a heading of the README, one after the other; the names that they leave."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    names = []
    for block in re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        names.append({})
        exec(block, names[-1])
    return names


@pytest.fixture(scope="module")
def integrations(torchvision):
    """Both, imported while the records are the real ones."""
    for name in ("torchvision", "timm"):
        importlib.import_module(f"resnext.integrations.{name}")


@pytest.fixture
def published(home, tmp_path, monkeypatch):
    """A hub that has this repository as org/resnext, and in its cache a ResNeXt-50 in place of the authors'."""
    torch.manual_seed(0)
    model = zoo.create(NAME)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of one batch, so that features are as large as a trained network's
    with torch.no_grad():
        model(torch.randn(12, 3, 32, 32) + torch.randn(12, 3, 1, 1))
    home.mkdir(parents=True)
    path = home / f"{NAME}_typeC-01234567.pth"
    torch.save(model.state_dict(), path)
    (home.parent / "org_resnext_main").symlink_to(ROOT)
    content = json.loads(records.RECORDS.read_text())
    content[NAME]["hosted"] = {
        "file": path.name, "urls": [], "size": path.stat().st_size, "sha256": sha256_of(path), "tensor_digest": "",
    }  # fmt: skip
    (tmp_path / "weights.json").write_text(json.dumps(content))
    monkeypatch.setattr(records, "RECORDS", tmp_path / "weights.json")
    records.records.cache_clear()
    yield model.state_dict()
    records.records.cache_clear()


def test_fine_tuning(published):
    [names] = run_examples("Fine-tuning")
    losses, model = names["losses"], names["model"]
    assert len(losses) > 1
    assert losses[-1] < 0.8 * losses[0]
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"fc.weight", "fc.bias"}
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, published[name])
    assert model.fc.weight.shape == (3, 2048)


def test_in_torchvision_and_timm(integrations, published):
    in_torchvision, in_timm = run_examples("In torchvision and timm")
    for names, classes in ((in_torchvision, 1000), (in_timm, 10)):
        assert torch.equal(names["model"].conv1.weight, published["conv1.weight"])
        assert names["model"].num_classes == classes
    assert in_torchvision["fpn"].out_channels == 256
    assert in_timm["body"].feature_info.channels() == [512, 1024, 2048]
