"""pretrained=True and weights=URL, on a good day and on a bad one, against a real server on loopback."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch

import resnext
from conversion import build
from resnext.weights import records
from resnext.weights.cache import verify_cached
from resnext.weights.download import sha256_of
from resnext.weights.pretrained import fetch, resolve_pretrained
from tests.helpers.networks import relative_error
from tests.helpers.pretrained import NAME, T7, assert_right, refused, use_records
from tests.helpers.recorded import ROOT, torch7_output
from tests.helpers.server import answer

fork = multiprocessing.get_context("fork")  # torch is imported already, and is not made to compute in the children

# --- the authors' file -----------------------------------------------------------------------------------------------


def test_first_use_converts_the_authors_file_and_later_uses_are_offline(record, home, site, sample, capfd):
    assert_right(resnext.create(NAME, pretrained=True))
    assert site.asked == [T7]
    said = capfd.readouterr().err
    digest = build.sha256_of(sample)
    assert "licensed CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/)" in said
    assert f"SHA-256 of {T7} as first seen, and expected from now on: {digest}" in said
    names = sorted(path.name for path in home.iterdir())
    assert [Path(name).suffix for name in names] == [".lock", ".json", ".json", ".pth", ".sha256"]
    sidecar = json.loads(next(home.glob("*_typeC-*.json")).read_text())
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


def test_a_digest_cut_short_is_no_digest(record, home, monkeypatch):
    resnext.create(NAME, pretrained=True, progress=False)
    (home / f"{T7}.sha256").write_text("7ced")
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    (home / f"{T7}.sha256").write_text("0" * 64)
    refused("made from another resnext_11_4x8d.t7 than the one expected")


def test_another_network_than_the_records(record, home, site, models):
    site.files[T7] = models["cifar100_resnet11"].read_bytes()
    refused(f"expected {NAME}, got resnext11_1x64d")


def test_missing_torchfile_is_named_with_the_command(record, home, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("resnext._conversion")]:
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
    site.files[hosted["file"]] = b"PK\3\4".ljust(hosted["size"])
    refused(f"expected SHA-256 {hosted['sha256']}, got ")
    assert [path.suffix for path in home.iterdir()] == [".lock"]


def test_offline(hosted, home, site, monkeypatch):
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    refused("nothing in the cache", "RESNEXT_OFFLINE=1 forbids downloads", "Next: unset it")
    assert not home.exists()
    monkeypatch.delenv("RESNEXT_OFFLINE")
    resnext.create(NAME, pretrained=True, progress=False)
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert len(site.asked) == 1


def test_a_cache_that_cannot_be_written(hosted, home):
    home.parent.mkdir(parents=True)
    home.write_text("a file where the folder should be")
    refused(f"{home}: ", "make the cache writable, or set TORCH_HOME")


def test_a_full_disk(hosted, home, site, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    refused(f"not enough space: {hosted['size']} bytes are needed, 1000 are free", "Next: free the space")
    assert site.asked == []


# --- the Torch7 file on this machine, and what a process that died has left ------------------------------------------


def test_a_copy_that_the_user_put_there_is_used_and_left(record, home, site, sample, monkeypatch):
    home.mkdir(parents=True)
    shutil.copy(sample, home / T7)
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert (home / T7).read_bytes() == sample.read_bytes()
    assert site.asked == []


def test_a_copy_with_another_digest_is_left_and_not_used(record, home, site, sample, models, monkeypatch, tmp_path):
    record["torch7"]["sha256"] = sha256_of(sample)
    use_records(monkeypatch, tmp_path, record)
    home.mkdir(parents=True)
    other = models["cifar10_resnext11_4x8d_C"].read_bytes()
    (home / T7).write_bytes(other)
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == [T7]
    assert (home / T7).read_bytes() == other


@pytest.mark.parametrize("place", ["", f"{NAME}.torch7"])  # the user's copy, and what an earlier process downloaded
def test_a_file_that_does_not_convert_is_put_out_of_the_way(record, home, site, sample, place):
    (home / place).mkdir(parents=True)
    (home / place / T7).write_bytes(sample.read_bytes()[:3000])
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert site.asked == [T7]
    assert [path.name for path in home.rglob("*.t7*")] == (
        [f"{T7}.sha256"] if place else [f"{T7}.refused", f"{T7}.sha256"]
    )


def test_a_download_that_does_not_convert_is_deleted(record, home, site, sample):
    site.files[T7] = b"\3\0\0\0 damaged"
    refused("byte ", "Next: check the network or RESNEXT_MIRROR, or convert a copy of your own")
    assert [path.suffix for path in home.iterdir()] == [".lock"]
    site.files[T7] = sample.read_bytes()
    assert_right(resnext.create(NAME, pretrained=True, progress=False))


def test_a_download_larger_than_the_record_says(record, home, site):
    site.files[T7] = b"\3\0\0\0".ljust(193 * 2**20)
    refused(f"expected at most {192 * 2**20} bytes", f"the server offers {193 * 2**20}")
    assert [path.suffix for path in home.iterdir()] == [".lock"]


def test_an_error_page_in_the_place_of_the_torch7_file(record, home, site):
    site.files[T7] = b'{"error": "no such bucket"}'
    refused("expected a file of weights, got something that starts with")
    assert [path.suffix for path in home.iterdir()] == [".lock"]


def resolve():
    resolve_pretrained(NAME, progress=False)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def die(home, reached, how=killed):
    """Run a process that obtains the weights and dies where it is going to change the cache; whether it died.

    `reached` is called with what it is going to do (as of Python's audit events) and with the path.
    """
    changes = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

    def watch(event, arguments):
        # of what is renamed, the new name
        path = str(arguments[event == "os.rename"]) if event in changes else ""
        if str(home) in path and reached(event, path):
            how()

    def child():
        sys.addaudithook(watch)
        with open(os.devnull, "w") as sys.stderr:
            resolve()

    process = fork.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode != 0


def at_change(number):
    """For `die`: the n-th change."""
    count = itertools.count(1)
    return lambda event, path: next(count) == number


def assert_nothing_is_left(home):
    """The next call succeeds, and leaves only what belongs into the cache."""
    assert_right(resnext.create(NAME, pretrained=True, progress=False))
    assert {path.suffix for path in home.rglob("*")} <= {".lock", ".json", ".pth", ".sha256"}
    assert not list(home.rglob("*.partial*"))
    assert verify_cached(records.get_record(NAME), next(home.glob("*.pth"))) is None


def interrupt():
    raise KeyboardInterrupt


def exhaust():
    raise MemoryError


def fill():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("how", [killed, interrupt, exhaust, fill])
@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("os.rename", f"/{NAME}.torch7/{T7}"),  # downloaded, but not under its name
        ("open", f"/{NAME}.torch7/{T7}"),  # before the conversion
        ("os.rename", ".pth"),  # converted
        ("os.rename", ".verified.json"),  # written
        ("os.rename", f"{T7}.sha256"),  # noted
        ("shutil.rmtree", f"/{NAME}.torch7"),  # no longer needed
    ],
)
def test_what_is_left_of_a_conversion_is_used_or_deleted(record, home, site, event, name, how):
    died = die(home, lambda *change: change[0] == event and change[1].endswith(name), how)
    assert died == ((event, how) != ("shutil.rmtree", fill))  # then the weights are there all the same
    if event == "os.rename" and name.endswith((".pth", ".sha256")):
        assert (home / f"{NAME}.torch7" / T7).exists()
        assert_nothing_is_left(home)
        assert site.asked == [T7]
    else:
        assert_nothing_is_left(home)


@pytest.mark.slow  # some 60 processes that convert
def test_a_process_killed_at_any_change_leaves_nothing(record, home):
    points = 0
    while die(home, at_change(points + 1)):
        points += 1
        assert_nothing_is_left(home)
        shutil.rmtree(home)
    assert points > 20


def test_a_download_killed_at_any_change_leaves_nothing_that_passes_for_whole(hosted, home):
    points = 0
    while die(home, at_change(points + 1)):
        points += 1
        for path in home.glob("*.pth"):
            assert sha256_of(path) == hosted["sha256"]
        if points % 3 == 0:  # else the next process finds what this one left, and the one before
            assert_nothing_is_left(home)
            for path in [*home.glob("*.pth"), *home.glob("*.json")]:
                path.unlink()
    assert points > 10
    assert_nothing_is_left(home)


def test_a_download_killed_in_the_middle_is_resumed(hosted, home, site):
    size = hosted["size"]
    site.faults = [site.broken(1000, silent=True)]
    process = fork.Process(target=resolve)
    process.start()
    while not list(home.glob("*.partial.json")):
        assert process.is_alive()
    process.kill()
    process.join()
    assert_nothing_is_left(home)
    assert len(site.asked) == 2
    assert site.requests[1].headers.get("Range") in (None, "bytes=1000-", f"bytes={size}-")


def test_eight_processes_make_one_transfer(hosted, home, site, capfd):
    site.held = threading.Event()
    processes = [fork.Process(target=resolve) for _ in range(8)]
    for process in processes:
        process.start()
    said = ""
    while said.count("waiting for another process") < 7:
        said += capfd.readouterr().err
        processes[0].join(0.02)
    site.held.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert site.asked == [hosted["file"]]
    assert_right(resnext.create(NAME, pretrained=True, progress=False))


@pytest.mark.slow
def test_hub_entry_end_to_end_with_the_full_size_file(home, tmp_path, site, full_size):
    """In processes of their own, as users run it; the second one with the network cut."""
    site.files[full_size.name] = full_size.read_bytes()
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
    assert site.asked == [full_size.name]
    assert [path.name[:24] for path in home.glob("*.pth")] == ["resnext50_32x4d_typeC-2d"]


# --- any file from anywhere, never mistaken for another --------------------------------------------------------------


def test_weights_may_be_a_url(site, home, built, sample):
    site.files = {
        built.path.name: built.path.read_bytes(),
        "a/my.pth": built.path.read_bytes(),
        "my.t7": sample.read_bytes(),
    }
    for name in site.files:
        for _ in range(2):
            assert_right(resnext.from_checkpoint(f"{site.url}/{name}"))
    assert site.asked == list(site.files)  # each was asked for once


def test_what_came_from_a_url_is_never_taken_for_the_published_weights(hosted, home, site, built):
    """By its name, beginning of the digest and sidecar it could be."""
    site.files |= {f"evil/{path.name}": path.read_bytes() for path in (built.path, built.sidecar)}
    resnext.from_checkpoint(f"{site.url}/evil/{hosted['file']}")
    with pytest.raises(resnext.WeightsError):
        resnext.from_checkpoint(f"{site.url}/evil/{built.sidecar.name}")
    assert [path.name for path in home.iterdir()] == ["urls"]
    site.asked.clear()
    resnext.create(NAME, pretrained=True, progress=False)
    assert site.asked == [hosted["file"]]


def test_urls_with_one_file_name_are_kept_apart(site, home, built, models):
    site.files = {"a/my.pth": built.path.read_bytes(), "b/my.pth": models["cifar100_resnet11"].read_bytes()}
    assert resnext.from_checkpoint(f"{site.url}/a/my.pth").fc.out_features == 10
    assert resnext.from_checkpoint(f"{site.url}/b/my.pth").fc.out_features == 100


def test_a_file_url_is_read_where_it_is(home, built, tmp_path):
    path = shutil.copy(built.path, tmp_path / "with space.pth")
    assert fetch(path.as_uri()) == path
    assert_right(resnext.from_checkpoint(path.as_uri()))
    assert not home.exists()


@pytest.mark.parametrize("digest", ["0123abcd", "01234567", "1" * 64, "20241301", "2024010112"])
def test_a_digest_in_the_name_of_a_url_is_checked(site, home, built, digest):
    site.files = {f"my-{digest}.pth": built.path.read_bytes()}
    with pytest.raises(resnext.WeightsError, match=f"expected SHA-256 {digest}, got "):
        resnext.from_checkpoint(f"{site.url}/my-{digest}.pth")
    assert not list(home.rglob("*.pth"))


@pytest.mark.parametrize("name", ["my-20240131.pth", "my-1234567.pth", "my_01234567.pth", "my-xyz01234567.pth"])
def test_what_is_no_digest_in_a_name(site, home, built, name):
    site.files = {name: built.path.read_bytes()}
    assert_right(resnext.from_checkpoint(f"{site.url}/{name}"))


@pytest.mark.parametrize(
    ("body", "message"),
    [(b'{"error": "not found"}', "expected a file of weights, got something"), (b"PK\3\4 cut", "expected a .pth"),
     (b"\x80\2N.", "expected a .pth"), (b"\3\0\0\0 cut", "byte "),
     (b"<html>", "an HTML or XML page")],
)  # fmt: skip
def test_what_does_not_load_is_not_kept(site, home, built, body, message):
    site.files["my.pth"] = body
    with pytest.raises(resnext.WeightsError, match=message) as caught:
        resnext.from_checkpoint(f"{site.url}/my.pth")
    assert ".partial" not in str(caught.value)
    assert [path.suffix for path in home.rglob("*") if path.is_file()] == [".lock"]
    site.files["my.pth"] = built.path.read_bytes()
    assert_right(resnext.from_checkpoint(f"{site.url}/my.pth"))


def test_a_truncated_file_of_unknown_length_is_not_kept(site, home, built):
    body = built.path.read_bytes()
    site.files["my.pth"] = body
    site.faults = [answer([body[:-100]]), answer([body[:-100]], Content_Length="unknown")]
    for message in ("expected a .pth", "does not say how long the file is"):
        with pytest.raises(resnext.WeightsError, match=message):
            resnext.from_checkpoint(f"{site.url}/my.pth")
        assert not list(home.rglob("*.pth"))
    assert_right(resnext.from_checkpoint(f"{site.url}/my.pth"))


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://example.com/a.pth", "http is not safe"), ("ftp://a/b.pth", "refused ftp://a/b.pth"),
     ("https://a/", "expected a plain name"), ("https://a/b%2Fc.pth", "expected a plain name"),
     ("https://a/b%00.pth", "expected a plain name"), ("https://a/b\0.pth", "characters that no URL has"),
     ("https://[::1/a.pth", "refused"), (f"http://127.0.0.1:9/{'a' * 300}.pth", "File name too long")],
)  # fmt: skip
def test_urls_that_are_refused(home, url, message):
    with pytest.raises(resnext.WeightsError, match=message):
        resnext.from_checkpoint(url)


def test_url_while_offline(site, home, monkeypatch):
    monkeypatch.setenv("RESNEXT_OFFLINE", "true")
    with pytest.raises(resnext.WeightsError, match=r"my.pth is not in the cache, and RESNEXT_OFFLINE=1 forbids"):
        resnext.from_checkpoint(f"{site.url}/my.pth")
    assert site.asked == []


def test_two_threads_make_one_transfer_of_a_url(site, home, built, capsys):
    site.files["my.pth"], site.held = built.path.read_bytes(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch, f"{site.url}/my.pth", progress=False) for _ in range(2)]
        while "waiting for another process" not in capsys.readouterr().err:
            wait(both, 0.02)
        site.held.set()
    assert both[0].result() == both[1].result()
    assert site.asked == ["my.pth"]
