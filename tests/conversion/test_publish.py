"""What the maintainer does with the records: build the authors' networks, and enter them."""

import json
from pathlib import Path

import pytest
import torch

import resnext
from conversion import build_weights
from resnext.weights import records
from tests.helpers.pretrained import NAME, T7, assert_right, use_records


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
