"""Packages of AOTInductor: compiled once, kept, checked when they are loaded and used."""

import copy
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from resnext.__main__ import main
from resnext.architecture import Architecture
from resnext.cli.export import export
from resnext.inference import aoti
from tests.conftest import randomize, relative_error

TINY = Architecture((1, 1, 1), cardinality=1, base_width=4, stem="cifar", num_classes=3)
COMPILE = "torch._inductor.aoti_compile_and_package"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The one network that is compiled here: the model, the hub folder, the package and what the export reported."""
    torch.manual_seed(0)
    model = randomize(TINY.build())
    folder = tmp_path_factory.mktemp("aoti")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "_hub_dir", str(folder / "hub"))
        report = export(model, folder / "a.pt2", "aoti", batch_size=2)
    return model.eval(), folder, report


@pytest.fixture
def hub(compiled, tmp_path, monkeypatch):
    """A hub folder with the package in its cache."""
    shutil.copytree(compiled[1] / "hub", tmp_path / "hub")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub"


class Namespace:
    """A module with another value of some names."""

    def __init__(self, module, **changed):
        self.module = module
        self.__dict__.update(changed)

    def __getattr__(self, name):
        return getattr(self.module, name)


def never(*arguments, **options):
    raise AssertionError("it was compiled again")


def test_any_number_of_images(compiled):
    model, folder, report = compiled
    network = aoti.load(folder / "a.pt2")
    assert network.metadata.items() >= report.metadata.items()
    assert report.metadata["input_shape"] == "2 x 3 x 32 x 32"
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            for given in (images, images.to(memory_format=torch.channels_last)):
                assert relative_error(network(given), model(images)) <= 1e-5


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 32, 33),
        torch.zeros(2, 1, 32, 32),
        torch.zeros(3, 32, 32),
        torch.zeros(2, 3, 32, 32, dtype=torch.float64),
        torch.zeros(2, 3, 32, 32, device="meta"),
    ],
)
def test_other_images_are_refused(compiled, images):
    with pytest.raises(ValueError, match=r"compiled for torch.float32, \(N, 3, 32, 32\), on the CPU"):
        aoti.load(compiled[1] / "a.pt2")(images)


def test_compiled_once(compiled, hub, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(COMPILE, never)
    report = export(compiled[0], tmp_path / "b.pt2", "aoti", batch_size=2)
    assert report == type(report)(
        tmp_path / "b.pt2", *[getattr(compiled[2], f) for f in ("format", "metadata", "error")]
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 1},
        {"image_size": 40},
        {"with_preprocess": True},
        {"precision": "bf16"},
        "weights",
        "eps",
        "threads",
        "processor",
        "torch",
        "recipe",
    ],
)
def test_compiled_again_for_anything_else(compiled, hub, tmp_path, monkeypatch, change):
    model, _, _ = compiled
    options = {"batch_size": 2}
    if change == "weights":
        model = TINY.build()
    elif change == "eps":  # which no tensor of the network holds
        model = copy.deepcopy(model)
        model.bn1.eps = 0.1
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    elif change == "processor":
        monkeypatch.setattr(aoti, "_processor", lambda: "another")
    elif change == "recipe":
        monkeypatch.setattr(aoti, "RECIPE", 0)
    elif change == "torch":
        monkeypatch.setattr(aoti, "torch", Namespace(torch, __version__="1.0"))
    else:
        options |= change
    monkeypatch.setattr(COMPILE, never)
    with pytest.raises(AssertionError, match="compiled again"):
        export(model, tmp_path / "b.pt2", "aoti", **options)
    assert not (tmp_path / "b.pt2").exists()
    assert not list((hub / "compiled").glob(".writing*"))


def test_a_damaged_package_is_compiled_again(compiled, hub, tmp_path, monkeypatch, capfd):
    (package,) = (hub / "compiled").glob("*.pt2")
    whole = package.read_bytes()
    package.write_bytes(whole[:-1000])

    def compile(program, package_path, inductor_configs):
        assert not torch.is_grad_enabled()  # else the weights are not packed
        assert inductor_configs["freezing"]
        shutil.copyfile(compiled[1] / "a.pt2", package_path)

    monkeypatch.setattr(COMPILE, compile)
    export(compiled[0], tmp_path / "b.pt2", "aoti", batch_size=2)
    assert package.read_bytes() == whole
    assert "half a minute" in capfd.readouterr().err


def test_a_package_that_is_replaced_takes_its_digest_along(compiled, hub, tmp_path, monkeypatch):
    """Killed between the two, there must not be an old digest beside a new package."""
    (package,) = (hub / "compiled").glob("*.pt2")
    package.write_bytes(b"damaged")

    def compile(program, package_path, inductor_configs):
        shutil.copyfile(compiled[1] / "a.pt2", package_path)
        monkeypatch.setattr(aoti, "sha256_of", never)

    monkeypatch.setattr(COMPILE, compile)
    with pytest.raises(AssertionError, match="compiled again"):
        export(compiled[0], tmp_path / "b.pt2", "aoti", batch_size=2)
    assert [path.suffix for path in (hub / "compiled").iterdir()] == [".pt2"]


def test_of_several_one_compiles(compiled, hub, tmp_path, monkeypatch):
    shutil.rmtree(hub / "compiled")
    calls = []

    def compile(program, package_path, inductor_configs):
        calls.append(1)
        time.sleep(0.3)
        shutil.copyfile(compiled[1] / "a.pt2", package_path)

    monkeypatch.setattr(COMPILE, compile)
    program = torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(1, 1),))
    metadata = {"architecture": "a", "precision": "fp32"}
    with ThreadPoolExecutor(4) as pool:
        packages = list(pool.map(lambda _: aoti.compile_cached(program, metadata), range(4)))
    assert len(set(packages)) == len(calls) == 1


@pytest.mark.parametrize(
    ("said", "shown", "compiler"),
    [("No working C++ compiler found\nand more", "No working C++ compiler found", None), ("", "RuntimeError", "g++")],
)
def test_a_compiler_that_fails(tmp_path, monkeypatch, capsys, said, shown, compiler):
    def fail(*arguments, **options):
        raise RuntimeError(said)

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(COMPILE, fail)
    monkeypatch.setattr(aoti, "find_compiler", lambda: compiler)
    torch.save(TINY.build().state_dict(), tmp_path / "tiny.pth")
    out = tmp_path / "a.pt2"
    assert main(["export", "--weights", str(tmp_path / "tiny.pth"), "--format", "aoti", "--out", str(out)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"resnext: AOTInductor failed ({shown})")
    assert ("CXX" in message) == (compiler is None)
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "tiny.pth"}


def test_somebody_elses_package(monkeypatch, tmp_path):
    monkeypatch.setattr(aoti, "open_package", lambda path: SimpleNamespace(get_metadata=dict))
    with pytest.raises(RuntimeError, match=r"x.pt2: expected a package of this project"):
        aoti.load("x.pt2")


def test_no_package(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.pt2: no such file; expected a package"):
        aoti.load(tmp_path / "x.pt2")
    (tmp_path / "x.pt2").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(RuntimeError, match=r"x\.pt2: expected a package of AOTInductor \(\.pt2\): "):
        aoti.load(tmp_path / "x.pt2")
    torch.save({}, tmp_path / "y.pt2")
    with pytest.raises(RuntimeError, match=r"y\.pt2: expected a package of AOTInductor \(\.pt2\): "):
        aoti.load(tmp_path / "y.pt2")


def test_without_gradients(compiled):
    """With them, the weights are rearranged at every call."""
    network = aoti.load(compiled[1] / "a.pt2")
    package, modes = network._package, []

    def boxed_run(inputs):
        modes.append(torch.is_grad_enabled())
        return package.boxed_run(inputs)

    network._package = SimpleNamespace(boxed_run=boxed_run)
    with torch.enable_grad():
        network(torch.zeros(2, 3, 32, 32))
    assert modes == [False]


def test_the_loader_of_an_older_torch(compiled, monkeypatch):
    def older(path, name):
        raise AssertionError("called with two arguments alone")

    loader = torch._C._aoti.AOTIModelPackageLoader(str(compiled[1] / "a.pt2"), "model", False, 1, -1)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", older)
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: SimpleNamespace(loader=loader))
    assert aoti.load(compiled[1] / "a.pt2")(torch.zeros(1, 3, 32, 32)).shape == (1, 3)

    def fail(path):
        raise RuntimeError("no")

    monkeypatch.setattr("torch._inductor.aoti_load_package", fail)
    with pytest.raises(RuntimeError, match=r"a\.pt2: expected a package of AOTInductor \(\.pt2\): no"):
        aoti.load(compiled[1] / "a.pt2")
