"""What the README prints, run as it stands there."""

import json
import re

import pytest
import torch

from resnext import records, zoo
from tests.conftest import ROOT

NAME = "resnext50_32x4d"


def example(heading):
    """The first Python block after a heading of the README."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    return re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def published(home, tmp_path, monkeypatch):
    """A hub that has this repository as org/resnext, and in its cache a ResNeXt-50 in place of the authors'."""
    torch.manual_seed(0)
    model = zoo.create(NAME)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of one batch, so that features are as large as a trained network's
    with torch.no_grad():
        model(torch.randn(12, 3, 64, 64) + torch.randn(12, 3, 1, 1))
    home.mkdir(parents=True)
    path = home / f"{NAME}_typeC-01234567.pth"
    torch.save(model.state_dict(), path)
    (home.parent / "org_resnext_main").symlink_to(ROOT)
    record = json.loads(records.RECORDS.read_text())[NAME]
    record["hosted"] = {"file": path.name, "urls": [], "size": path.stat().st_size, "sha256": "0" * 64}
    (tmp_path / "weights.json").write_text(json.dumps({NAME: record}))
    monkeypatch.setattr(records, "RECORDS", tmp_path / "weights.json")
    records.records.cache_clear()
    yield model.state_dict()
    records.records.cache_clear()


def test_fine_tuning(published):
    names = {}
    exec(example("Fine-tuning"), names)
    losses, model = names["losses"], names["model"]
    assert len(losses) > 1
    assert losses[-1] < 0.8 * losses[0]
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"fc.weight", "fc.bias"}
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, published[name])
    assert model.fc.weight.shape == (3, 2048)
