"""What in the cache is taken for the published weights, and what is not."""

import json
import os
import shutil

import pytest
import torch

import resnext
from conversion import build
from resnext.weights import cache, records
from resnext.weights.cache import find_cached, read_digest, verify_cached
from tests.helpers.pretrained import NAME, T7, assert_right, refused, use_records

NOTE = f"{NAME}.verified.json"


def obtain():
    return resnext.create(NAME, pretrained=True, progress=False)


def change_a_weight(path):
    """Another whole file of the same size under the same name."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def found():
    problems = []
    return find_cached(records.get_record(NAME), problems), problems


def test_a_hosted_file_is_found_by_its_note(hosted, home):
    assert found() == (None, [])
    obtain()
    assert json.loads((home / NOTE).read_text())["sha256"] == hosted["sha256"]
    assert found() == (home / hosted["file"], [])


def test_a_file_that_the_user_copied_is_verified_once(hosted, home, site, built):
    home.mkdir(parents=True)
    shutil.copy(built.path, home / hosted["file"])
    assert_right(obtain())
    assert site.asked == []
    assert json.loads((home / NOTE).read_text())["sha256"] == hosted["sha256"]


def test_another_file_of_the_same_name_and_size_is_not_taken(hosted, home, site, built):
    """As any program may leave it that downloads to torch.hub's folder, or somebody who wants other weights used."""
    home.mkdir(parents=True)
    shutil.copy(built.path, home / hosted["file"])
    change_a_weight(home / hosted["file"])
    path, problems = found()
    assert path is None
    assert f"expected SHA-256 {hosted['sha256']}, got " in problems[0]
    assert_right(obtain())
    assert site.asked == [hosted["file"]]


def test_a_file_that_changed_after_it_was_verified_is_not_taken(hosted, home, site):
    obtain()
    change_a_weight(home / hosted["file"])
    assert_right(obtain())
    assert site.asked == [hosted["file"]] * 2


def test_a_sidecar_is_not_believed(record, home, site, models):
    """Other weights of the same architecture, with a sidecar that says they were made from the authors' file."""
    forged = build.build(
        models["cifar10_resnext11_4x8d_C"], home, license_="x", expected=NAME, prove=False, progress=False
    )
    content = forged.record | {"source": forged.record["source"] | {"name": T7}}
    forged.sidecar.write_text(json.dumps(content))
    assert found() == (None, [])
    assert_right(obtain())
    assert site.asked == [T7]


CHANGES = [
    {"file": "../x.pth"}, {"file": "a\0b"}, {"file": 1}, {"file": ".hidden"}, {"file": "absent.pth"}, {"size": "1"},
    {"size": True}, {"size": None}, {"sha256": "0"}, {"sha256": None}, {"sha256": 7}, {"tensor_digest": "x" * 64},
    {"torch7_sha256": "x"}, {"torch7_sha256": "²" * 64}, {"mtime_ns": 1.5}, {"more": 1},
]  # fmt: skip


def test_a_note_that_this_code_did_not_write_is_not_believed(record, home, site):
    obtain()
    note = json.loads((home / NOTE).read_text())
    assert found()[0] is not None
    for changed in ([], {key: note[key] for key in ("file", "size")}, *(note | change for change in CHANGES)):
        (home / NOTE).write_text(json.dumps(changed))
        assert found() == (None, []), changed
    assert_right(obtain())
    assert_right(obtain())
    assert site.asked == [T7] * 2  # once more, and not at every later call


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"{", b"[" * 10**5, b"{" + b" " * 2**27])
def test_a_damaged_note(hosted, home, site, content):
    obtain()
    (home / NOTE).write_bytes(content)
    assert_right(obtain())
    assert site.asked == [hosted["file"]]
    assert json.loads((home / NOTE).read_text())["sha256"] == hosted["sha256"]


def test_the_whole_folder_may_be_copied_to_a_machine_without_a_network(record, home, site, tmp_path, monkeypatch):
    obtain()
    other = tmp_path / "other" / "hub" / "checkpoints"
    other.mkdir(parents=True)
    for path in home.iterdir():
        shutil.copyfile(path, other / path.name)  # with another time
    torch.hub.set_dir(other.parent)
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")
    assert_right(obtain())


def test_a_cache_that_is_only_read(hosted, home, built, monkeypatch):
    """As an administrator puts it up for all: verified at every call, since it cannot be noted."""
    home.mkdir(parents=True)
    shutil.copy(built.path, home / hosted["file"])

    def forbidden(*arguments, **options):
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "replace", "rename"):
        monkeypatch.setattr(os, name, forbidden)
    assert_right(obtain())


def test_a_truncated_file_is_made_again(record, home, site, monkeypatch):
    obtain()
    path = next(home.glob("*.pth"))
    os.truncate(path, 1000)
    with monkeypatch.context() as patch:
        patch.setenv("RESNEXT_OFFLINE", "1")
        refused(f"{path}: 1000 bytes in the cache, expected 40415")
    assert_right(obtain())
    assert site.asked == [T7, T7]


def test_a_folder_in_the_place_of_the_file(hosted, home):
    (home / hosted["file"]).mkdir(parents=True)
    path, problems = found()
    assert path is None
    assert "bytes in the cache, expected" in problems[0]


def test_a_local_build_serves_also_after_something_is_hosted(record, home, site, monkeypatch, tmp_path):
    obtain()
    record["hosted"] = {
        "file": "other-12345678.pth", "urls": [f"{site.url}/other"], "size": 1, "sha256": "0" * 64,
        "tensor_digest": "0" * 64,
    }  # fmt: skip
    use_records(monkeypatch, tmp_path, record)
    assert_right(obtain())
    assert site.asked == [T7]


def test_a_build_from_another_file_than_the_record_says_by_now(record, home, monkeypatch, tmp_path):
    obtain()
    record["torch7"]["sha256"] = "0" * 64
    use_records(monkeypatch, tmp_path, record)
    path, problems = found()
    assert path is None
    assert "made from another resnext_11_4x8d.t7 than the one expected" in problems[0]


@pytest.mark.parametrize("source", ["hosted", "record"])
def test_verify_compares_the_file_and_its_tensors(request, home, source, monkeypatch):
    request.getfixturevalue(source)
    obtain()
    path, _ = found()
    record = records.get_record(NAME)
    assert verify_cached(record, path) is None

    content = path.read_bytes()
    change_a_weight(path)
    assert verify_cached(record, path).startswith("expected SHA-256 b72525b4")
    path.write_bytes(content)

    note = json.loads((home / NOTE).read_text())
    if source == "record":  # a file with the right digest whose tensors are not those that were proved
        (home / NOTE).write_text(json.dumps(note | {"tensor_digest": "0" * 64}))
        assert verify_cached(record, path).startswith(f"expected tensor digest {'0' * 64}, got {note['tensor_digest']}")


def test_verify_a_file_that_does_not_load(record, home, monkeypatch):
    obtain()
    path, _ = found()
    path.write_bytes(b"PK\3\4")
    note = json.loads((home / NOTE).read_text()) | {"sha256": cache.sha256_of(path), "size": 4}
    (home / NOTE).write_text(json.dumps(note))
    assert "expected a .pth" in verify_cached(records.get_record(NAME), path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("0" * 64 + "  name\n", "0" * 64), ("0" * 64, "0" * 64), ("0" * 63, None), ("", None), ("A" * 64, None),
     ("²" * 64, None), (b"\xff" * 64, None)],
)  # fmt: skip
def test_a_digest_as_sha256sum_writes_it(tmp_path, content, expected):
    path = tmp_path / "x.sha256"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_digest(path) == expected
    assert read_digest(tmp_path / "absent") is None


def test_the_lock_is_not_waited_for(home):
    with cache.locked("x"):  # noqa: SIM117
        with pytest.raises(TimeoutError), cache.locked("x", wait=False):
            pass
    with cache.locked("x", wait=False):
        pass


def test_the_folder_is_that_of_torch_hub(home, tmp_path, monkeypatch):
    assert cache.cache_dir() == home
    torch.hub.set_dir(tmp_path)
    assert cache.cache_dir() == tmp_path / "checkpoints"
