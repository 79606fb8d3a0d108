"""`python -m resnext weights`."""

import os

import pytest

import resnext
from resnext.__main__ import main
from tests.helpers.pretrained import NAME, T7


def weights(capsys, *options):
    """The exit status, the cells of the network's line, and what is on stderr."""
    status = main(["weights", *options])
    stdout, stderr = capsys.readouterr()
    return status, stdout.splitlines()[1].split(), stderr


def test_nothing_in_the_cache(record, home, capsys):
    status, cells, stderr = weights(capsys, "--verify")
    assert (status, stderr) == (0, "")
    assert cells == [
        NAME, "25,028,904", "22.2", "%", "CC", "BY-NC", "4.0", "no,", "built", "from", T7, "(191", "MB)", "no",
    ]  # fmt: skip
    assert not home.exists()


@pytest.mark.parametrize("source", ["record", "hosted"])
def test_what_is_in_the_cache_is_verified(request, home, capsys, source):
    request.getfixturevalue(source)
    resnext.create(NAME, pretrained=True, progress=False)
    path = next(home.glob("*.pth"))
    assert weights(capsys)[1][-1] == path.name
    status, cells, stderr = weights(capsys, "--verify")
    assert (status, cells[-2:], stderr) == (0, [path.name, "(verified)"], "")


def test_a_changed_file_is_reported(record, home, capsys):
    resnext.create(NAME, pretrained=True, progress=False)
    path = next(home.glob("*.pth"))
    capsys.readouterr()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    status, cells, stderr = weights(capsys)
    assert (status, cells[-1]) == (1, "no")
    assert stderr.startswith(f"resnext: {path}: expected SHA-256 b72525b4")
    assert stderr.endswith("; delete it, and it will be downloaded again\n")
    path.write_bytes(content[:1000])
    assert weights(capsys)[2].startswith(f"resnext: {path}: 1000 bytes in the cache, expected 40415")


def test_a_file_that_decayed_without_a_new_date_is_reported_by_verify(record, home, capsys):
    """A bad block of a disk changes no date."""
    resnext.create(NAME, pretrained=True, progress=False)
    capsys.readouterr()
    path = next(home.glob("*.pth"))
    content, status = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights(capsys)[0] == 0
    status, cells, stderr = weights(capsys, "--verify")
    assert (status, path.name in cells) == (1, True)
    assert stderr.startswith(f"resnext: {path}: expected SHA-256 b72525b4")


def test_bad_usage_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["wights"])
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("resnext: ")
    assert stderr.count("\n") == 1
    assert "invalid choice: 'wights'" in stderr
