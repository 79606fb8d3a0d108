"""The hub entries, through torch.hub itself."""

import ast
import importlib
import inspect
import os
import subprocess
import sys

import pytest
import torch

import resnext
from tests.helpers.recorded import ROOT

ENTRIES = sorted(
    [
        "from_checkpoint",
        "resnext29_8x64d_typeC",
        "resnext29_16x64d_typeC",
        *(f"resnext{name}_type{form}" for name in ("50_32x4d", "101_32x4d", "101_64x4d") for form in "ABC"),
    ]
)


@pytest.fixture
def repository(hub):
    """This repository as `org/resnext` in the hub's folder, so that torch.hub's own functions need no network."""
    hub.mkdir(parents=True)
    (hub / "org_resnext_main").symlink_to(ROOT)  # the same package: two of them are refused
    return {"repo_or_dir": "org/resnext:main", "trust_repo": True, "skip_validation": True}


def test_list_shows_exactly_the_entries(repository):
    assert sorted(torch.hub.list(repository.pop("repo_or_dir"), **repository)) == ENTRIES


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_reads_well(repository, entry):
    text = torch.hub.help(repository.pop("repo_or_dir"), entry, **repository)
    assert text.strip()[0].isupper()
    for word in ("Args:", "num_classes", ".safetensors", "WeightsError"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120


def test_load_from_a_cached_repository(repository, sample):
    model = torch.hub.load(model="from_checkpoint", path=sample, **repository)
    assert model.fc.weight.shape == (10, 1024)


NETWORKS = [entry for entry in ENTRIES if entry != "from_checkpoint"]


@pytest.mark.parametrize("entry", [entry for entry in NETWORKS if entry.endswith("C") or "50" in entry])
def test_networks_are_built_from_this_folder(entry):
    with torch.device("meta"):
        model = torch.hub.load(str(ROOT), entry, source="local")
    depth, cardinality = int(entry[7:].split("_")[0]), int(entry.split("_")[1].split("x")[0])
    block = model.layer1[0]
    assert model.form == entry[-1]
    assert sum(len(getattr(model, f"layer{stage}")) for stage in range(1, 5 if depth > 29 else 4)) * 3 + 2 == depth
    assert (block.conv2.groups if entry[-1] == "C" else len(block.paths)) == cardinality
    assert model.fc.out_features == (10 if depth == 29 else 1000)


def test_torch7_files_are_converted_after_the_hub_is_done(repository, sample, tmp_path):
    """torch.hub takes the repository off sys.path once an entry is loaded; in a new process, from another folder."""
    script = f"""
import sys, torch
with torch.device('meta'):
    torch.hub.load('org/resnext:main', 'resnext29_8x64d_typeC', trust_repo=True, skip_validation=True)
import resnext
assert 'conversion' not in sys.modules
print(resnext.from_checkpoint({str(sample)!r}).fc.weight.shape)
"""
    environment = {**os.environ, "PYTHONPATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert "torch.Size([10, 1024])" in run.stdout


def test_entries_name_their_keywords():
    hubconf = importlib.import_module("hubconf")
    names = [name for name in inspect.signature(resnext.create).parameters if name != "name"]
    for entry in NETWORKS:
        assert list(inspect.signature(getattr(hubconf, entry)).parameters) == names
        assert all(f"    {name}: " in getattr(hubconf, entry).__doc__ for name in names)


def test_entries_hand_everything_on():
    with torch.device("meta"):
        model = torch.hub.load(
            str(ROOT), "resnext50_32x4d_typeC", False, False, source="local", in_channels=1, num_classes=5,
            drop_rate=0.1, drop_path_rate=0.2, global_pool="max", shortcut="C", norm_layer=torch.nn.InstanceNorm2d,
            replace_stride_with_dilation=(False, False, True),
        )  # fmt: skip
    assert (model.in_channels, model.num_classes, model.global_pool, model.dropout.p) == (1, 5, "max", 0.1)
    assert model.layer1[1].downsample is not None
    assert isinstance(model.bn1, torch.nn.InstanceNorm2d)
    assert model.feature_info.reduction()[-1] == 16
    assert model.layer4[2].drop_path.rate == pytest.approx(0.2)


def test_a_path_in_the_place_of_pretrained():
    """torch.hub.load(repository, entry, path): the path is truthy, and other weights would be loaded."""
    with pytest.raises(TypeError, match=r"pretrained '/my.pth'; .* a file with weights is given as weights='/my.pth'"):
        torch.hub.load(str(ROOT), "resnext50_32x4d_typeC", "/my.pth", source="local")


def test_another_resnext_that_is_loaded_already(tmp_path):
    """In a new process: a package of the user's own, or another checkout of this repository."""
    (tmp_path / "resnext").mkdir()
    (tmp_path / "resnext" / "__init__.py").write_text("")
    script = f"""
import resnext, torch
try:
    torch.hub.load({str(ROOT)!r}, "resnext50_32x4d_typeC", source="local")
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    (line,) = run.stdout.splitlines()
    assert line.startswith(f"expected the package resnext of {ROOT}")
    assert f"another one is loaded: {tmp_path / 'resnext' / '__init__.py'}; " in line
    assert "new Python process" in line


def test_building_and_loading_a_pth_imports_nothing_but_torch(tmp_path):
    """In a new process: `dependencies` in hubconf.py says torch, and nothing more may be needed."""
    script = f"""
import sys, torch
from importlib.abc import MetaPathFinder
class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torchfile', 'torchvision', 'requests', 'tqdm', 'safetensors', 'PIL', 'conversion'):
            raise ImportError(name + ' is not needed')
before = set(sys.modules)
sys.meta_path.insert(0, Refuse())
with torch.device('meta'):
    torch.hub.load({str(ROOT)!r}, 'resnext29_8x64d_typeC', source='local')
import resnext
model = resnext.ResNeXt((1, 1, 1), stem='cifar', cardinality=1, num_classes=3)
torch.save(model.state_dict(), {str(tmp_path / "a.pth")!r})
again = torch.hub.load({str(ROOT)!r}, 'from_checkpoint', {str(tmp_path / "a.pth")!r}, source='local')
assert torch.equal(again.fc.weight, model.fc.weight)
print(sorted({{m.split('.')[0] for m in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
for name in ('preprocess', 'explain', 'inference', 'integrations'):
    assert 'resnext.' + name not in sys.modules, name
assert resnext.preprocess.Torch7Preprocess(64, 56).crop == 56
assert resnext.explain.class_activation_map and resnext.forms.convert_state_dict
try:
    resnext.optimise
except AttributeError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    imported, error = run.stdout.splitlines()
    assert set(ast.literal_eval(imported)) <= {"resnext", "hubconf", "torch"}
    assert error == "module 'resnext' has no attribute 'optimise'"
