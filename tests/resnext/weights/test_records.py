"""The records, what the maintainer does with them, and `python -m resnext weights`."""

import json
from pathlib import Path

import pytest
import torch

import resnext
from conversion import build_weights
from resnext import __main__ as command_line
from resnext import zoo
from resnext.preprocess import get_preprocess
from resnext.weights import records
from tests.resnext.conftest import NAME, T7, assert_right, use_records


def test_records_agree_with_the_architectures():
    assert set(records.records()) < set(zoo.ARCHITECTURES)
    for name, record in records.records().items():
        assert record.architecture == name
        model = zoo.ARCHITECTURES[name].build_empty()
        assert record.parameters == sum(p.numel() for p in model.parameters())
        assert record.license == "CC BY-NC 4.0"
        assert all(url.startswith("https://") and url.endswith(f"/{record.torch7.file}") for url in record.torch7.urls)


def test_every_figure_names_its_source():
    for record in json.loads(records.RECORDS.read_text()).values():
        for figure in ("top1_error", "parameters", "license"):
            assert len(record[f"{figure}_source"]) > 20
        assert record["torch7"]["size_source"]


def test_networks_without_published_weights_say_so(home):
    with pytest.raises(resnext.WeightsError, match=r"no weights were published for resnext29_8x64d; .*weights=PATH"):
        resnext.create("resnext29_8x64d_typeC", pretrained=True)


def test_build_weights_downloads_builds_and_publishes(record, home, site, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["--arch", NAME, "--out", str(out), "--json", "--publish", f"{site.url}/release/"]
    assert build_weights.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    path = Path(result["path"])
    assert result["url"] == f"{site.url}/release/{path.name}"
    written = json.loads(records.RECORDS.read_text())[NAME]
    assert written["hosted"] == {
        "file": path.name,
        "urls": [result["url"]],
        "size": path.stat().st_size,
        "sha256": result["sha256"],
        "tensor_digest": result["tensor_digest"],
    }
    assert written["torch7"]["sha256"] == result["source"]["sha256"]
    assert not (home / T7).exists()

    site.files = {f"release/{path.name}": path.read_bytes()}  # the upload
    records.records.cache_clear()
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == [T7, f"release/{path.name}"]
    state_dict = torch.hub.load_state_dict_from_url(result["url"], str(tmp_path), check_hash=True, progress=False)
    assert state_dict["fc.weight"].shape == (10, 1024)


def test_build_weights_all(record, home, site, tmp_path, capsys):
    assert build_weights.main(["--all", "--out", str(tmp_path / "out"), "--json", "--no-verify"]) == 0
    assert json.loads(capsys.readouterr().out)["arch"] == NAME


def test_build_weights_without_a_network(record, home, site, tmp_path, capsys):
    site.files = {}
    assert build_weights.main(["--arch", NAME, "--out", str(tmp_path / "out")]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr == f"build_weights: {site.url}/{T7}: HTTP status 404 NOT FOUND\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--publish", "https://a/", "--no-verify"], "a proved .pth of form C; it cannot be used with --no-verify"),
     (["--publish", "https://a/", "--format", "safetensors"], "it cannot be used with --format safetensors"),
     (["--publish", "http://example.com/"], "refused http://example.com/"),
     (["--publish", "https://a/", "--sample"], f"--publish cannot be used with --sample: there are records of {T7}"),
     (["--publish", "https://a/", "--t7", "my.t7"], "--publish cannot be used with my.t7: there are"),
     (["--all", "--arch", NAME], "--all and --arch cannot be used together"),
     (["--arch", "resnext29_8x64d"], "no weights were published for resnext29_8x64d; pretrained=True works for")],
)  # fmt: skip
def test_build_weights_bad_usage(record, home, tmp_path, capsys, arguments, message):
    assert build_weights.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert message in stderr
    assert not (tmp_path / "out").exists()


def test_publishing_another_source_than_the_records_is_refused(record, monkeypatch, tmp_path, built):
    from conversion.artifact import publish

    record["torch7"] |= {"file": "cifar10_resnext11_4x8d_C_nested.t7", "sha256": "0" * 64}
    use_records(monkeypatch, tmp_path, record)
    with pytest.raises(ValueError, match=f"has SHA-256 7cede612.*, the record says {'0' * 64}"):
        publish(built, "https://a/")


def test_command_lists_and_verifies(record, home, capsys):
    assert command_line.main(["weights", "--verify"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split() == [
        NAME, "25,028,904", "22.2", "%", "CC", "BY-NC", "4.0", "no,", "built", "from", T7, "(191", "MB)", "no",
    ]  # fmt: skip
    resnext.create(NAME, pretrained=True, progress=False)
    path = next(home.glob("*.pth"))
    assert command_line.main(["weights"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(path.name)
    assert command_line.main(["weights", "--verify"]) == 0
    assert f"{path.name} (verified)" in capsys.readouterr().out
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert command_line.main(["weights", "--verify"]) == 1
    stdout, stderr = capsys.readouterr()
    assert "expected SHA-256 b72525b4" in stdout
    assert stderr.startswith(f"resnext: {path}: expected SHA-256 b72525b4")
    path.write_bytes(content[:1000])
    assert command_line.main(["weights"]) == 1
    assert capsys.readouterr().err.startswith(f"resnext: {path}: 1000 bytes in the cache, expected 40415")


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "required: command"), (["wights"], "invalid choice: 'wights'")]
)
def test_command_bad_usage_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        command_line.main(arguments)
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("resnext: ")
    assert stderr.count("\n") == 1
    assert message in stderr


@pytest.mark.parametrize("record", records.records().values(), ids=lambda record: record.architecture)
def test_preprocessing_of_the_records_is_there(record):
    assert get_preprocess(record.preprocessing)(torch.zeros(3, 300, 256, dtype=torch.uint8)).shape == (3, 224, 224)
