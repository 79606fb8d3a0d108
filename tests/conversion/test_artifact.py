"""What is written: names, bytes, digests, provenance, and that a failure leaves the folder as it was."""

import hashlib
import json
import os
import time

import pytest
import safetensors
import torch

from conversion import artifact, mapping, t7, verify
from resnext.weights.files import tensor_digest

SOURCE = artifact.Torch7File("model.t7", 4_050_583, "0" * 64, "CC BY-NC 4.0")


@pytest.fixture(scope="module")
def conversion(sample):
    return mapping.convert(t7.load(sample))


@pytest.fixture(scope="module")
def record(conversion):
    return artifact.make_record(conversion, SOURCE, verify.verify(conversion), tensor_digest(conversion.state_dict))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("file_format", artifact.FORMATS)
def test_name_size_and_digest_are_those_of_the_file(conversion, record, tmp_path, file_format):
    written = artifact.write_artifact(conversion.state_dict, record, tmp_path, file_format)
    assert written.path.name == f"resnext11_4x8d_typeC-{digest(written.path)[:8]}.{file_format}"
    assert written.sidecar == written.path.with_suffix(".json")
    assert sorted(tmp_path.iterdir()) == sorted([written.path, written.sidecar])
    sidecar = json.loads(written.sidecar.read_text())
    assert sidecar == json.loads(json.dumps(written.record))
    assert sidecar["file"] == {
        "name": written.path.name,
        "format": file_format,
        "size": written.path.stat().st_size,
        "sha256": digest(written.path),
    }


def test_pth_is_a_plain_state_dict_that_check_hash_accepts(conversion, record, tmp_path, hub):
    written = artifact.write_artifact(conversion.state_dict, record, tmp_path / "release")
    loaded = torch.load(written.path, weights_only=True)
    assert type(loaded) is dict
    assert loaded.keys() == conversion.state_dict.keys()
    url = written.path.as_uri()
    again = torch.hub.load_state_dict_from_url(url, check_hash=True, progress=False, weights_only=True)
    assert all(torch.equal(again[name], value) for name, value in conversion.state_dict.items())


def test_sidecar_says_where_the_weights_come_from(record):
    assert record["arch"] == "resnext11_4x8d"
    assert record["form"] == "C"
    assert record["license"] == "CC BY-NC 4.0"
    assert record["architecture"]["parameters"] == 996_298
    assert record["source"]["name"] == "model.t7"
    assert record["source"]["sha256"] == "0" * 64
    assert record["proof"]["passed"] is True
    assert set(record["versions"]) == {"python", "torch", "numpy", "torchfile"}
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("file_format", artifact.FORMATS)
def test_building_twice_gives_the_same_bytes(conversion, record, tmp_path, file_format):
    a = artifact.write_artifact(conversion.state_dict, record, tmp_path / "a", file_format)
    b = artifact.write_artifact(dict(conversion.state_dict), record, tmp_path / "b", file_format)
    assert a.path.read_bytes() == b.path.read_bytes()
    assert a.sidecar.read_bytes() == b.sidecar.read_bytes()


def test_safetensors_carry_the_record(conversion, record, tmp_path):
    written = artifact.write_artifact(conversion.state_dict, record, tmp_path, "safetensors")
    with safetensors.safe_open(written.path, "pt") as file:
        assert json.loads(file.metadata()["record"]) == json.loads(json.dumps(record))
        assert all(torch.equal(file.get_tensor(name), value) for name, value in conversion.state_dict.items())


@pytest.mark.parametrize("fails", ["save", "fsync", "replace"])
@pytest.mark.parametrize("exists", [True, False])
def test_failure_leaves_the_folder_as_it_was(conversion, record, tmp_path, monkeypatch, fails, exists):
    folder = tmp_path / "deep" / "out"
    if exists:
        folder.mkdir(parents=True)
        (folder / "mine.txt").write_text("mine")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"save": (torch, "save"), "fsync": (os, "fsync"), "replace": (os, "replace")}[fails], full)
    with pytest.raises(OSError, match="No space left"):
        artifact.write_artifact(conversion.state_dict, record, folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == (["deep", "mine.txt", "out"] if exists else [])


def test_what_a_killed_process_left_is_cleared_away_after_a_day(conversion, record, tmp_path):
    for name, age in ((".writing-old", 90_000), (".writing-new", 10)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    artifact.write_artifact(conversion.state_dict, record, tmp_path)
    assert [path.name for path in tmp_path.glob(".writing-*")] == [".writing-new"]


def test_written_files_have_ordinary_permissions(conversion, record, tmp_path):
    (tmp_path / "ordinary").touch()
    written = artifact.write_artifact(conversion.state_dict, record, tmp_path)
    assert {p.stat().st_mode for p in (written.path, written.sidecar)} == {(tmp_path / "ordinary").stat().st_mode}
