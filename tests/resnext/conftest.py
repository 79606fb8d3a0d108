"""A hub folder of the test's own, a server on loopback, and records that point there."""

import json
import os

import pytest
import torch
from pytest_httpserver import HTTPServer

import resnext
from conversion import build
from resnext import zoo
from resnext.architecture import Architecture
from resnext.weights import records
from tests.conftest import randomize, relative_error, torch7_output
from tests.resnext.site import Site

NAME = "resnext11_4x8d"
T7 = "resnext_11_4x8d.t7"
TINY = Architecture((1, 1, 1), cardinality=4, base_width=8, stem="cifar", num_classes=10)


@pytest.fixture(scope="module")
def state_dict():
    torch.manual_seed(0)
    return randomize(TINY.build()).state_dict()


@pytest.fixture
def pth(state_dict, tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save(dict(state_dict), path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty hub folder, and no settings from outside."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in [name for name in os.environ if name.startswith("RESNEXT_")]:
        monkeypatch.delenv(name)
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture
def site(httpserver):
    return Site(httpserver)


def use_records(monkeypatch, tmp_path, record):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({NAME: record}))
    monkeypatch.setattr(records, "RECORDS", path)
    records.records.cache_clear()
    monkeypatch.setitem(zoo.ARCHITECTURES, NAME, TINY)


@pytest.fixture
def record(monkeypatch, tmp_path, site, sample):
    """A record without a hosted .pth, as the real ones are: the sample is served as the authors' file."""
    site.files[T7] = sample.read_bytes()
    content = json.loads(records.RECORDS.read_text())["resnext50_32x4d"]
    content |= {"architecture": NAME}
    content["torch7"] |= {"file": T7, "urls": [f"{site.url}/{T7}"]}
    use_records(monkeypatch, tmp_path, content)
    yield content
    records.records.cache_clear()


@pytest.fixture(scope="session")
def built(sample, tmp_path_factory):
    return build.build(sample, tmp_path_factory.mktemp("built"), license_="x", prove=False).artifact


@pytest.fixture
def hosted(record, monkeypatch, tmp_path, site, built):
    """A record with a hosted .pth."""
    file = built.record["file"]
    site.files = {file["name"]: built.path.read_bytes()}
    record["hosted"] = {key: file[key] for key in ("size", "sha256")} | {
        "file": file["name"], "urls": [f"{site.url}/{file['name']}"], "tensor_digest": built.record["tensor_digest"],
    }  # fmt: skip
    use_records(monkeypatch, tmp_path, record)
    return record["hosted"]


@pytest.fixture(scope="session")
def make_httpserver():
    """As pytest_httpserver's own, but with a thread for each request: one that stalls must not hold up the next."""
    with HTTPServer(threaded=True) as running:
        yield running


def assert_right(model):
    images, expected = torch7_output("cifar10_resnext11_4x8d_C_nested")
    with torch.no_grad():
        assert relative_error(model.eval()(images), expected) <= 5e-5


def refused(*parts):
    with pytest.raises(resnext.WeightsError) as caught:
        resnext.create(NAME, pretrained=True, progress=False)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message
