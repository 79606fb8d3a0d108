"""What tests of several folders start from. `helpers/` has what they call."""

import json
import lzma
import os
import shutil
import socket

from resnext.inference.processor import rule_out_amx

# Before torch is imported, and for the processes that the tests start. Tiny networks run faster on one thread, and many
# times so where something else takes a core. AMX is ruled out where using it would kill the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
rule_out_amx()

import pytest
import torch
from pytest_httpserver import HTTPServer

from conversion import build
from resnext.weights import records
from tests.helpers.pretrained import NAME, T7, use_records
from tests.helpers.recorded import MODELS, SHARED
from tests.helpers.server import Site
from tests.helpers.torchvision_shim import import_torchvision


@pytest.fixture(autouse=True, scope="session")
def offline():
    """No test may look beyond this machine; one that does fails at once instead of waiting for an answer."""
    resolve = socket.getaddrinfo

    def refuse(host, *arguments, **options):
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise socket.gaierror(socket.EAI_NONAME, f"tests are offline, and {host} is not this machine")
        return resolve(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The genuine checkpoints, unpacked: name to path."""
    folder = tmp_path_factory.mktemp("models")
    unpacked = {name: folder / f"{name}.t7" for name in MODELS}
    for name, path in unpacked.items():
        path.write_bytes(lzma.decompress(MODELS[name].read_bytes()))
    return unpacked


@pytest.fixture(scope="session")
def sample(models):
    return models["cifar10_resnext11_4x8d_C_nested"]


@pytest.fixture(scope="session")
def full_size(tmp_path_factory):
    """ResNeXt-50 as Torch7 wrote it, unpacked."""
    packed = SHARED / "models" / "resnext_50_32x4d.t7.xz"
    if not packed.exists():
        pytest.skip("the full-size checkpoint (191 MB) is not part of the repository")
    path = tmp_path_factory.mktemp("full") / "resnext_50_32x4d.t7"
    with lzma.open(packed) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 2**22)
    return path


@pytest.fixture(scope="session")
def torchvision():
    return import_torchvision()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub folder of the test's own, also for the processes that it starts."""
    before = torch.hub.get_dir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.hub.set_dir(tmp_path / "home" / "hub")
    yield tmp_path / "home" / "hub"
    torch.hub.set_dir(before)


@pytest.fixture
def home(hub, monkeypatch):
    """The folder that downloads go to, in an empty hub folder; no settings from outside."""
    for name in [name for name in os.environ if name.startswith("RESNEXT_")]:
        monkeypatch.delenv(name)
    return hub / "checkpoints"


@pytest.fixture
def site(httpserver):
    site = Site(httpserver)
    yield site
    for event in filter(None, (site.over, site.held)):
        event.set()


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
    return build.build(sample, tmp_path_factory.mktemp("built"), license_="x", prove=False)


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
