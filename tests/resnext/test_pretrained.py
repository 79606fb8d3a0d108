"""pretrained=True on a good day and on a bad one, against a real server on loopback."""

import json
import lzma
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from werkzeug import Response

import resnext
from conversion import build, build_weights
from resnext import __main__ as command_line
from resnext import records, weights, zoo
from tests.conftest import ROOT, SHARED, relative_error, torch7_output

NAME = "resnext11_4x8d"
T7 = "resnext_11_4x8d.t7"
fork = multiprocessing.get_context("fork")  # torch is imported already, and is not made to compute in the children


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty hub folder, and no settings from outside."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("RESNEXT_MIRROR", "RESNEXT_OFFLINE", "RESNEXT_KEEP_T7"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home" / "hub" / "checkpoints"


class Site:
    """A server with files, and what it was asked for. `delay` is per 64 KiB."""

    def __init__(self, httpserver):
        self.files, self.asked, self.delay = {}, [], 0.0
        self.url = httpserver.url_for("").rstrip("/")
        httpserver.expect_request(re.compile("/.*")).respond_with_handler(self.answer)

    def answer(self, request):
        name = request.path.removeprefix("/")
        self.asked.append(name)
        if name not in self.files:
            return Response("no", 404)
        response = Response(self.files[name], headers={"ETag": f'"{len(self.files[name])}"'})
        response.make_conditional(request, accept_ranges=True, complete_length=len(self.files[name]))
        if not self.delay:
            return response
        data, length = response.get_data(), response.headers["Content-Length"]

        def slowly():
            for start in range(0, len(data), 2**16):
                time.sleep(self.delay)
                yield data[start : start + 2**16]

        response = Response(slowly(), response.status_code, response.headers, direct_passthrough=True)
        response.headers["Content-Length"] = length
        return response


@pytest.fixture
def site(httpserver):
    return Site(httpserver)


def use_records(monkeypatch, tmp_path, record):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({NAME: record}))
    monkeypatch.setattr(records, "RECORDS", path)
    records.records.cache_clear()
    monkeypatch.setitem(zoo.ARCHITECTURES, NAME, zoo.Architecture((1, 1, 1), 4, 8, "cifar", num_classes=10))


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
def pth(sample, tmp_path_factory):
    return build.build(sample, tmp_path_factory.mktemp("built"), license_="x", prove=False).artifact


@pytest.fixture
def hosted(record, monkeypatch, tmp_path, site, pth):
    """A record with a hosted .pth."""
    file = pth.record["file"]
    site.files = {file["name"]: pth.path.read_bytes()}
    record["hosted"] = {key: file[key] for key in ("size", "sha256")} | {
        "file": file["name"], "urls": [f"{site.url}/{file['name']}"],
    }  # fmt: skip
    use_records(monkeypatch, tmp_path, record)
    return record["hosted"]


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
    refused("expected SHA-256 7cede612", "deleted", "not in the cache", "Next: ")
    assert not list(home.glob("*.pth"))
    assert not (home / T7).exists()


def test_a_digest_in_the_record_is_expected_from_the_first(record, home, monkeypatch, tmp_path):
    record["torch7"]["sha256"] = "0" * 64
    use_records(monkeypatch, tmp_path, record)
    refused(f"expected SHA-256 {'0' * 64}, got 7cede612")


def test_somebodys_own_checkpoint_in_the_cache_is_not_taken_for_it(record, home, site, pth):
    home.mkdir(parents=True)
    for path in (pth.path, pth.sidecar):  # the same architecture, from a file of another name
        shutil.copy(path, home)
    resnext.create(NAME, pretrained=True, progress=False)
    assert site.asked == [T7]


def test_a_truncated_file_in_the_cache_is_made_again(record, home, site):
    resnext.create(NAME, pretrained=True, progress=False)
    path = next(home.glob("*.pth"))
    os.truncate(path, 1000)
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == [T7, T7]


def test_a_file_that_does_not_convert(record, home, site):
    site.files[T7] = b"\3\0\0\0 damaged"
    refused("byte ", "Next: check the network or RESNEXT_MIRROR, or convert a copy of your own")
    assert not list(home.glob("*.pth"))


def test_another_network_than_the_records(record, home, site, models):
    site.files[T7] = models["cifar100_resnet11"].read_bytes()
    refused(f"expected {NAME}, got resnext11_1x64d")


@pytest.mark.parametrize("missing", ["torchfile", "requests"])
def test_missing_packages_are_named_with_the_command(record, home, monkeypatch, missing):
    for name in [name for name in sys.modules if name.startswith("conversion")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert f"needs {missing}" in refused("pip install") or missing == "requests"


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


def test_file_mirror(hosted, home, site, monkeypatch, pth):
    monkeypatch.setenv("RESNEXT_MIRROR", pth.path.parent.as_uri())
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == []


def test_a_mirror_over_plain_http_is_refused(hosted, home, monkeypatch):
    monkeypatch.setenv("RESNEXT_MIRROR", "http://example.com/")
    refused("refused http://example.com/", "http is not safe")


def test_everything_that_was_tried_is_listed(hosted, home, site, monkeypatch):
    site.files = {}
    monkeypatch.setenv("RESNEXT_MIRROR", f"{site.url}/mirror")
    refused(
        f"{home / hosted['file']}: not in the cache",
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
    refused("not in the cache", "RESNEXT_OFFLINE=1 forbids to download", "Next: unset it")
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


# --- any URL ---------------------------------------------------------------------------------------------------------


def test_weights_may_be_a_url(site, home, pth, sample):
    site.files = {pth.path.name: pth.path.read_bytes(), "a/my.pth": pth.path.read_bytes(), "my.t7": sample.read_bytes()}
    for name in site.files:
        for _ in range(2):
            assert_right(resnext.from_checkpoint(f"{site.url}/{name}"))
    assert site.asked == list(site.files)  # each was asked for once
    assert (home / pth.path.name).exists()


def test_urls_with_one_file_name_are_kept_apart(site, home, pth, models):
    site.files = {"a/my.pth": pth.path.read_bytes(), "b/my.pth": models["cifar100_resnet11"].read_bytes()}
    assert resnext.from_checkpoint(f"{site.url}/a/my.pth").fc.out_features == 10
    assert resnext.from_checkpoint(f"{site.url}/b/my.pth").fc.out_features == 100


def test_a_digest_in_the_name_of_a_url_is_checked(site, home):
    site.files = {"my-0123abcd.pth": b"PK something else"}
    with pytest.raises(resnext.WeightsError, match="expected SHA-256 0123abcd, got "):
        resnext.from_checkpoint(f"{site.url}/my-0123abcd.pth")
    assert not list(home.glob("*.pth"))


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://example.com/a.pth", "http is not safe"), ("ftp://a/b.pth", "refused ftp://a/b.pth"),
     ("https://a/", "expected a plain name"), ("https://a/b%2Fc.pth", "expected a plain name")],
)  # fmt: skip
def test_urls_that_are_refused(home, url, message):
    with pytest.raises(resnext.WeightsError, match=message):
        resnext.from_checkpoint(url)


def test_url_while_offline(site, home, monkeypatch):
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    with pytest.raises(resnext.WeightsError, match=r"my.pth is not in the cache, and RESNEXT_OFFLINE=1 forbids"):
        resnext.from_checkpoint(f"{site.url}/my.pth")


# --- several processes -----------------------------------------------------------------------------------------------


def resolve():
    weights.resolve_pretrained(NAME, progress=False)


def test_eight_processes_make_one_transfer(hosted, home, site):
    site.delay = 0.01
    processes = [fork.Process(target=resolve) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 8
    assert site.asked == [hosted["file"]]
    assert_right(resnext.create(NAME, pretrained=True, progress=False))


def test_a_process_killed_at_any_moment_leaves_nothing_that_passes_for_whole(hosted, home, site):
    site.delay = 0.003  # 62 steps: about 0.2 s for the whole file
    moments, killed = random.Random(0), 0
    while killed < 20:
        process = fork.Process(target=resolve)
        process.start()
        time.sleep(moments.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        for path in home.glob("*.pth"):
            assert build.sha256_of(path) == hosted["sha256"]
            path.unlink()
    site.delay = 0.0
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert weights.verify_cached(records.get_record(NAME), home / hosted["file"]) is None
    assert not list(home.glob("*.partial*"))


# --- the maintainer's side -------------------------------------------------------------------------------------------


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
    [(["--publish", "https://a/", "--no-verify"], "--publish and --no-verify contradict each other"),
     (["--publish", "https://a/", "--format", "safetensors"], "--publish and --format safetensors contradict"),
     (["--publish", "http://example.com/"], "refused http://example.com/"),
     (["--publish", "https://a/", "--sample"], f"--publish and --sample contradict each other: records are of {T7}"),
     (["--publish", "https://a/", "--t7", "my.t7"], "--publish and my.t7 contradict each other"),
     (["--all", "--arch", NAME], "--all and --arch contradict each other"),
     (["--arch", "resnext29_8x64d"], "no weights were published for resnext29_8x64d; pretrained=True works for")],
)  # fmt: skip
def test_build_weights_bad_usage(record, home, tmp_path, capsys, arguments, message):
    assert build_weights.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert message in stderr
    assert not (tmp_path / "out").exists()


def test_publishing_another_source_than_the_records_is_refused(record, monkeypatch, tmp_path, pth):
    from conversion.publish import publish

    record["torch7"] |= {"file": "cifar10_resnext11_4x8d_C_nested.t7", "sha256": "0" * 64}
    use_records(monkeypatch, tmp_path, record)
    with pytest.raises(ValueError, match=f"has SHA-256 7cede612.*, the record says {'0' * 64}"):
        publish(pth, "https://a/")


# --- python -m resnext weights ---------------------------------------------------------------------------------------


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


# --- the real records ------------------------------------------------------------------------------------------------


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


@pytest.mark.skipif(not SHARED.exists(), reason="the full-size checkpoint (191 MB) is not part of the repository")
def test_hub_entry_end_to_end_with_the_full_size_file(home, tmp_path, httpserver):
    """In processes of their own, as users run it; the second one with the network cut."""
    served = tmp_path / "resnext_50_32x4d.t7"
    served.write_bytes(lzma.decompress((SHARED / "models" / "resnext_50_32x4d.t7.xz").read_bytes()))
    site = Site(httpserver)
    site.files[served.name] = served.read_bytes()
    script = f"""
import socket, sys, torch
if sys.argv[1] == 'cut':
    def refuse(*arguments): raise OSError('the network is cut')
    socket.socket.connect = refuse
model = torch.hub.load({str(ROOT)!r}, 'resnext50_32x4d_typeC', source='local', pretrained=True)
print(sum(p.numel() for p in model.parameters()))
"""
    for network in ("up", "cut"):
        done = subprocess.run(
            [sys.executable, "-c", script, network], env={**os.environ, "RESNEXT_MIRROR": site.url},
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout == "25028904\n"
    assert site.asked == [served.name]
    assert [path.name[:24] for path in home.glob("*.pth")] == ["resnext50_32x4d_typeC-2d"]
