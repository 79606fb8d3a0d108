"""Packages of AOTInductor: compiled once, kept, checked when they are loaded and used."""

import shutil
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from resnext.architecture import Architecture
from resnext.export import export
from resnext.inference import aoti, processor
from tests.helpers.networks import randomize, relative_error

SMALLEST = Architecture((1, 1, 1), cardinality=1, base_width=4, stem="cifar", num_classes=3)
METADATA = {"architecture": "a", "precision": "fp32", "input_dtype": "float32", "input_shape": "1 x 1"}


def write(program, path):
    """In place of the compiler: an archive of the form of a package."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", "0")


def never(program, path):
    raise AssertionError("it was compiled again")


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def export_program(module, batch=1):
    return torch.export.export(module, (torch.zeros(batch, 1),))


@pytest.fixture(scope="module")
def linear():
    return nn.Linear(1, 1)


@pytest.fixture(scope="module")
def program(linear):
    return export_program(linear)


@pytest.fixture
def saved(hub, program, tmp_path):
    """One package in the cache: the folder that it lies in."""
    aoti.save(program, tmp_path / "a.pt2", METADATA, write)
    return hub / "compiled"


def test_compiled_once(saved, program, tmp_path, capfd):
    aoti.save(program, tmp_path / "b.pt2", {**METADATA, "source": "renamed.pth"}, never)
    assert capfd.readouterr().err.count("half a minute") == 0
    with zipfile.ZipFile(tmp_path / "b.pt2") as archive:
        assert archive.testzip() is None
        assert b"renamed.pth" in archive.read("archive/extra/metadata.json")
    with zipfile.ZipFile(next(saved.glob("*.pt2"))) as archive:
        assert archive.namelist() == ["archive/version"]


@pytest.mark.parametrize("change", ["weights", "shape", "graph", "threads", "processor", "torch", "precision"])
def test_compiled_again_for_anything_else(saved, linear, program, tmp_path, monkeypatch, change):
    metadata = METADATA
    if change == "weights":
        program = export_program(nn.Linear(1, 1))
    elif change == "shape":
        program = export_program(linear, batch=2)
    elif change == "graph":
        doubled = Doubled(1, 1)
        doubled.load_state_dict(linear.state_dict())
        program = export_program(doubled)
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    elif change == "processor":
        (tmp_path / "cpuinfo").write_text("flags : another\n")
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "1.0")
    else:
        metadata = {**METADATA, "precision": "bf16"}
    with pytest.raises(AssertionError, match="compiled again"):
        aoti.save(program, tmp_path / "b.pt2", metadata, never)
    assert not (tmp_path / "b.pt2").exists()
    assert not list(saved.glob(".writing*"))


def test_a_damaged_package_is_compiled_again(saved, program, tmp_path, capfd):
    (package,) = saved.glob("*.pt2")
    whole = package.read_bytes()
    package.write_bytes(whole[:-10])
    aoti.save(program, tmp_path / "b.pt2", METADATA, write)
    assert package.read_bytes() == whole
    assert "half a minute" in capfd.readouterr().err


def test_of_several_one_compiles(hub, program, tmp_path):
    calls, begun = [], threading.Barrier(4)

    def count(program, path):
        calls.append(1)
        write(program, path)

    def work(number):
        begun.wait()
        aoti.save(program, tmp_path / f"{number}.pt2", METADATA, count)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert calls == [1]
    assert len(list(tmp_path.glob("*.pt2"))) == 4


@pytest.mark.parametrize(
    ("said", "shown", "compiler"),
    [("No working C++ compiler\nand more", "No working C++ compiler", False), ("", "RuntimeError", True)],
)
def test_a_compiler_that_fails(hub, program, tmp_path, monkeypatch, said, shown, compiler):
    def fail(program, path):
        raise RuntimeError(said)

    monkeypatch.setenv("CXX", sys.executable if compiler else "/nonexistent/c++")
    with pytest.raises(aoti.CompilerError) as caught:
        aoti.save(program, tmp_path / "a.pt2", METADATA, fail)
    assert str(caught.value).startswith(f"AOTInductor failed ({shown})")
    assert ("CXX" in str(caught.value)) == (not compiler)
    assert not list(tmp_path.glob("*.pt2"))
    assert not (hub / "compiled").exists()


def test_no_package(tmp_path):
    path = tmp_path / "x.pt2"
    with pytest.raises(FileNotFoundError, match=r"x\.pt2: no such file; expected a package"):
        aoti.load(path)
    path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(RuntimeError, match=r"x\.pt2: expected a package of `python -m resnext export --format aoti`"):
        aoti.load(path)
    for content in ("{}", "[]", "{", "\xff"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/extra/metadata.json", content)
        with pytest.raises(RuntimeError, match=r"x\.pt2: expected a package of `python -m resnext export"):
            aoti.load(path)
    torch.save({}, path)
    with pytest.raises(RuntimeError, match=r"x\.pt2: expected a package of `python -m resnext export"):
        aoti.load(path)


@pytest.mark.parametrize("error", ["missing", "damaged"])
def test_a_package_that_torch_cannot_load(saved, tmp_path, error):
    if error == "damaged":
        (tmp_path / "a.pt2").write_bytes((tmp_path / "a.pt2").read_bytes().replace(b"PK\5\6", b"PK\5\7"))
    with pytest.raises(RuntimeError, match=r"a\.pt2: (AOTInductor cannot load it: |expected a package)"):
        aoti.load(tmp_path / "a.pt2")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The one network that is compiled here: the model, the folder, and what the export reported."""
    torch.manual_seed(0)
    model = randomize(SMALLEST.build())
    folder, before = tmp_path_factory.mktemp("aoti"), torch.hub.get_dir()
    torch.hub.set_dir(folder / "hub")
    report = export(model, folder / "a.pt2", "aoti", batch_size=2)
    torch.hub.set_dir(before)
    return model.eval(), folder, report


@pytest.mark.slow
def test_any_number_of_images(compiled):
    model, folder, report = compiled
    network = aoti.load(folder / "a.pt2")
    assert network.metadata.items() >= report.metadata.items()
    assert report.metadata["input_shape"] == "2 x 3 x 32 x 32"
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        with torch.enable_grad():
            for given in (images, images.to(memory_format=torch.channels_last)):
                assert relative_error(network(given), model(images)) <= 1e-5
                assert not network(given).requires_grad


@pytest.mark.slow
def test_other_images_are_refused(compiled):
    network = aoti.load(compiled[1] / "a.pt2")
    for images in (
        torch.zeros(2, 3, 32, 33),
        torch.zeros(2, 1, 32, 32),
        torch.zeros(3, 32, 32),
        torch.zeros(2, 3, 32, 32, dtype=torch.float64),
        torch.zeros(2, 3, 32, 32, device="meta"),
    ):
        with pytest.raises(ValueError, match=r"compiled for torch.float32, \(N, 3, 32, 32\), on the CPU"):
            network(images)


@pytest.mark.slow
def test_the_export_uses_what_was_compiled(compiled, hub, tmp_path, capfd):
    model, folder, report = compiled
    shutil.copytree(folder / "hub", hub)
    again = export(model, tmp_path / "b.pt2", "aoti", batch_size=2)
    assert (again.metadata, again.error) == (report.metadata, report.error)
    assert capfd.readouterr().err == ""
