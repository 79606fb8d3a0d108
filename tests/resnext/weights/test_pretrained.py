"""pretrained=True on a good day and on a bad one, against a real server on loopback."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

import resnext
from conversion import build
from resnext.weights import pretrained as weights
from resnext.weights.pretrained import resolve_pretrained
from tests.conftest import relative_error, torch7_output
from tests.resnext.conftest import NAME, T7, assert_right, refused, use_records

# --- the authors' file -----------------------------------------------------------------------------------------------


def test_first_use_converts_the_authors_file_and_later_uses_are_offline(record, home, site, sample, capfd):
    assert_right(resnext.create(NAME, pretrained=True))
    assert site.asked == [T7]
    said = capfd.readouterr().err
    digest = build.sha256_of(sample)
    assert "licensed CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/)" in said
    assert f"SHA-256 of {T7} as first seen, and expected from now on: {digest}" in said
    names = sorted(path.name for path in home.iterdir())
    assert [Path(name).suffix for name in names] == [".lock", ".json", ".pth", ".sha256"]
    sidecar = json.loads(next(home.glob("*.json")).read_text())
    assert sidecar["proof"]["passed"] is True
    assert sidecar["source"] | {"notes": []} == {
        "name": T7, "size": sample.stat().st_size, "sha256": digest, "license": "CC BY-NC 4.0", "form": "C",
        "notes": [],
    }  # fmt: skip
    assert_right(resnext.create(NAME, pretrained=True))
    assert site.asked == [T7]
    assert capfd.readouterr().err == ""  # the licence is stated once


@pytest.mark.parametrize("form", "ABC")
@pytest.mark.parametrize("options", [{}, {"num_classes": 0}, {"features_only": True, "out_indices": (3,)}])
def test_one_published_file_serves_every_form(hosted, home, site, form, options):
    model = resnext.create(f"{NAME}_type{form}", pretrained=True, progress=False, **options).eval()
    expected = resnext.create(NAME, pretrained=True, progress=False).eval()
    assert site.asked == [hosted["file"]]
    images, _ = torch7_output("cifar10_resnext11_4x8d_C_nested")
    with torch.no_grad():
        maps = expected.forward_features(images)
        found = model(images)
    wanted = maps if "features_only" in options else expected.forward_head(maps, pre_logits="num_classes" in options)
    assert relative_error(found[0] if "features_only" in options else found, wanted) < 1e-5


def test_preprocessing_is_that_of_the_record(hosted, record, home, monkeypatch, tmp_path):
    """The sample's ten classes look like CIFAR-10."""
    assert resnext.from_checkpoint(resolve_pretrained(NAME)).preprocessing == "cifar10"
    use_records(monkeypatch, tmp_path, record | {"preprocessing": "cifar100"})
    assert resnext.create(NAME, pretrained=True).preprocessing == "cifar100"


def test_keep_t7(record, home, site, monkeypatch):
    monkeypatch.setenv("RESNEXT_KEEP_T7", "1")
    resnext.create(NAME, pretrained=True, progress=False)
    assert (home / T7).exists()
    for path in [*home.glob("*.pth"), *home.glob("*.json")]:
        path.unlink()
    resnext.create(NAME, pretrained=True, progress=False)
    assert site.asked == [T7]


def test_the_digest_first_seen_is_expected_ever_after(record, home, site, models):
    resnext.create(NAME, pretrained=True, progress=False)
    site.files[T7] = models["cifar10_resnext11_4x8d_C"].read_bytes()
    for path in home.glob("*.pth"):
        path.unlink()
    refused("expected SHA-256 7cede612", "deleted", "nothing in the cache", f"kept in {home / T7}.sha256", "Next: ")
    assert not list(home.glob("*.pth"))
    assert not (home / T7).exists()


def test_a_digest_in_the_record_is_expected_from_the_first(record, home, monkeypatch, tmp_path):
    record["torch7"]["sha256"] = "0" * 64
    use_records(monkeypatch, tmp_path, record)
    refused(f"expected SHA-256 {'0' * 64}, got 7cede612")


def test_somebodys_own_checkpoint_in_the_cache_is_not_taken_for_it(record, home, site, built):
    home.mkdir(parents=True)
    for path in (built.path, built.sidecar):  # the same architecture, from a file of another name
        shutil.copy(path, home)
    resnext.create(NAME, pretrained=True, progress=False)
    assert site.asked == [T7]


def test_a_truncated_file_in_the_cache_is_made_again(record, home, site, monkeypatch):
    resnext.create(NAME, pretrained=True, progress=False)
    path = next(home.glob("*.pth"))
    os.truncate(path, 1000)
    with monkeypatch.context() as patch:
        patch.setenv("RESNEXT_OFFLINE", "1")
        refused(f"{path}: 1000 bytes in the cache, expected 40415")
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == [T7, T7]


def test_a_file_that_does_not_convert_is_forgotten(record, home, site, sample):
    site.files[T7] = b"\3\0\0\0 damaged"
    refused("byte ", "Next: check the network or RESNEXT_MIRROR, or convert a copy of your own")
    assert [path.suffix for path in home.iterdir()] == [".lock"]
    site.files[T7] = sample.read_bytes()
    assert_right(resnext.create(NAME, pretrained=True, progress=False))


def test_a_digest_cut_short_is_no_digest(record, home, monkeypatch):
    resnext.create(NAME, pretrained=True, progress=False)
    (home / f"{T7}.sha256").write_text("7ced")
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    (home / f"{T7}.sha256").write_text("0" * 64)
    refused("made from another resnext_11_4x8d.t7 than the one expected")


def test_a_copy_that_the_user_put_there_is_used_and_left(record, home, site, sample):
    home.mkdir(parents=True)
    shutil.copy(sample, home / T7)
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert (home / T7).exists()
    assert site.asked == []


def test_a_local_build_serves_also_after_something_is_hosted(record, home, site, monkeypatch, tmp_path):
    resnext.create(NAME, pretrained=True, progress=False)
    record["hosted"] = {"file": "other-12345678.pth", "urls": [f"{site.url}/other"], "size": 1, "sha256": "0" * 64}
    use_records(monkeypatch, tmp_path, record)
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == [T7]


def test_another_network_than_the_records(record, home, site, models):
    site.files[T7] = models["cifar100_resnet11"].read_bytes()
    refused(f"expected {NAME}, got resnext11_1x64d")


def test_missing_torchfile_is_named_with_the_command(record, home, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("conversion")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchfile", None)
    refused(f"converting {T7} needs torchfile", "Next: pip install torchfile requests numpy")


def test_missing_requests_is_named_with_the_command(record, home, monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    refused("downloading needs requests: pip install requests")


# --- the hosted .pth -------------------------------------------------------------------------------------------------


def test_hosted_pth_is_downloaded_once(hosted, home, site):
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == [hosted["file"]]


def test_mirrors_come_first_in_their_order(hosted, home, site, monkeypatch, tmp_path):
    site.files = {f"b/{name}": body for name, body in site.files.items()}
    monkeypatch.setenv("RESNEXT_MIRROR", f"{(tmp_path / 'absent').as_uri()}, {site.url}/a/ ,{site.url}/b")
    resnext.create(NAME, pretrained=True, progress=False)
    assert site.asked == [f"a/{hosted['file']}", f"b/{hosted['file']}"]


def test_file_mirror(hosted, home, site, monkeypatch, built):
    monkeypatch.setenv("RESNEXT_MIRROR", built.path.parent.as_uri())
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == []


def test_a_mirror_that_is_no_url(hosted, home, monkeypatch):
    monkeypatch.setenv("RESNEXT_MIRROR", "http://[")
    refused("refused http://[/", "Invalid IPv6 URL")


def test_a_mirror_over_plain_http_is_refused(hosted, home, monkeypatch):
    monkeypatch.setenv("RESNEXT_MIRROR", "http://example.com/")
    refused("refused http://example.com/", "http is not safe")


def test_everything_that_was_tried_is_listed(hosted, home, site, monkeypatch):
    site.files = {}
    monkeypatch.setenv("RESNEXT_MIRROR", f"{site.url}/mirror")
    refused(
        f"nothing in the cache ({home})",
        f"{site.url}/mirror/{hosted['file']}: HTTP status 404",
        f"{site.url}/{hosted['file']}: HTTP status 404",
        "Next: check the network or RESNEXT_MIRROR",
    )


def test_a_wrong_hosted_file_is_never_kept(hosted, home, site):
    site.files[hosted["file"]] = bytes(hosted["size"])
    refused(f"expected SHA-256 {hosted['sha256']}, got ")
    assert [path.suffix for path in home.iterdir()] == [".lock"]


def test_offline(hosted, home, site, monkeypatch):
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    refused("nothing in the cache", "RESNEXT_OFFLINE=1 forbids to download", "Next: unset it")
    assert not home.exists()
    monkeypatch.delenv("RESNEXT_OFFLINE")
    resnext.create(NAME, pretrained=True, progress=False)
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert len(site.asked) == 1


def test_a_cached_file_is_found_without_writing_anything(hosted, home, monkeypatch):
    resnext.create(NAME, pretrained=True, progress=False)
    (home / f"{NAME}.lock").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in [home, *home.iterdir()]}

    def forbidden(*arguments, **options):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:  # root may write anywhere, so permissions alone would show nothing
        for name in ("mkdir", "replace", "rename", "unlink"):
            patch.setattr(os, name, forbidden)
        patch.setattr(weights, "locked", forbidden)
        assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert {path: path.stat().st_mtime_ns for path in [home, *home.iterdir()]} == before


def test_a_cache_that_cannot_be_written(hosted, home):
    home.parent.mkdir(parents=True)
    home.write_text("a file where the folder should be")
    refused(f"{home}: ", "make the cache writable, or set TORCH_HOME")


def test_a_full_disk(hosted, home, site, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    refused(f"not enough space: {hosted['size']} bytes are needed, 1000 are free", "Next: free the space")
    assert site.asked == []
