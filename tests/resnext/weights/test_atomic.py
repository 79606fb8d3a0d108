"""A file appears under its name whole or not at all, and a killed process leaves nothing for long."""

import os
import signal
import subprocess
import sys
import time

import pytest

from resnext.weights.atomic import replacing, replacing_all

# imports neither resnext nor torch: the point is the process, and torch takes seconds
KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("atomic", sys.argv[1])
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
from pathlib import Path
with atomic.replacing(Path(sys.argv[2])) as path:
    path.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_file_takes_the_place_of_another(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path, ".part") as temporary:
        assert temporary.name == "a.txt.part"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [False, True])
def test_what_lay_there_stays(tmp_path, error, written):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012
        if written:
            temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_written(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_made_for_one_file(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "absent" / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_several_files_appear_together_in_a_new_folder(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with replacing_all(folder) as hidden:
        (hidden / "b").write_text("1")
        (hidden / "a").write_text("2")
        assert list(folder.iterdir()) == [hidden]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "2", "b": "1"}


def test_of_several_files_none_appears_if_one_cannot(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match="b"), replacing_all(tmp_path) as hidden:  # noqa: PT012
        (hidden / "a").write_text("1")
        os.utime(hidden / "a", (1, 1))  # it moves first
        (hidden / "b").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("links", [True, False])
def test_files_that_were_replaced_are_put_back_if_a_later_one_cannot_be_moved(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: os.stat(tmp_path / "no hard links here"))
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match="b"), replacing_all(tmp_path) as hidden:  # noqa: PT012
        (hidden / "a").write_text("new")
        os.utime(hidden / "a", (1, 1))  # it moves first
        (hidden / "b").write_text("2")
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_folders_that_were_made_go_with_a_failure(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing_all(tmp_path / "deep" / "folder"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_cleared_and_what_a_live_one_writes_is_not(tmp_path):
    import resnext.weights.atomic as module

    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, module.__file__, str(tmp_path / "a.txt")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == b"writing\n"
        with replacing(tmp_path / "b.txt") as path:
            path.write_text("while it lives")
        assert len(list(tmp_path.glob(".writing-*/a.txt"))) == 1
        process.send_signal(signal.SIGKILL)
    with replacing(tmp_path / "b.txt") as path:
        path.write_text("once it is dead")
        assert list(tmp_path.glob(".writing-*")) == [path.parent]
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_hidden_files_of_earlier_versions_are_cleared_after_a_day(tmp_path):
    for name, age in ((".writing-old", 86_500), (".writing-new", 0)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with replacing(tmp_path / "a.txt") as path:
        path.write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-new", "a.txt"]


def test_a_link_is_not_followed_when_clearing(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".writing-0").symlink_to(tmp_path / "other")
    with replacing(tmp_path / "folder" / "a.txt") as path:
        path.write_text("")
    assert (tmp_path / "other" / "file").read_text() == "kept"
