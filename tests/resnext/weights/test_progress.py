"""Progress bars, and that a process killed while it draws one stops no other."""

import importlib.util
import multiprocessing
import os
import signal
import sys
import threading

import pytest
import torch

from resnext.weights.progress import progress_bar, track

fork = multiprocessing.get_context("fork")


@pytest.mark.parametrize("show", [True, False])
def test_a_bar_is_shown_or_not(capsys, show):
    with progress_bar(4, show=show, desc="bytes") as bar:
        bar.update(4)
    assert ("bytes: 100%" in capsys.readouterr().err) == show


def test_by_default_a_bar_is_for_terminals(capsys):
    assert list(track("abc", desc="letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_track_counts(capsys):
    assert list(track([1, 2], show=True, desc="numbers")) == [1, 2]
    assert "numbers: 100%" in capsys.readouterr().err


def test_without_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track([1, 2])) == [1, 2]


class Killed:
    """A stderr that kills its process in the middle of drawing."""

    def write(self, text):
        os.kill(os.getpid(), signal.SIGKILL)

    def flush(self):
        pass


def draw(file):
    with progress_bar(1, show=True, file=file, mininterval=0) as bar:
        bar.update(1)


def test_a_process_killed_while_it_draws_does_not_block_this_one(capsys):
    with progress_bar(1, show=True):  # the lock exists, and is inherited
        process = fork.Process(target=draw, args=(Killed(),))
        process.start()
        process.join(30)
    assert process.exitcode == -signal.SIGKILL
    after = threading.Thread(target=draw, args=(None,), daemon=True)
    after.start()
    after.join(30)
    assert not after.is_alive()


def test_a_process_forked_while_a_thread_draws_is_not_blocked(capsys):
    drawing, done = threading.Event(), threading.Event()

    class Slow:
        def write(self, text):
            drawing.set()
            done.wait(30)

        def flush(self):
            pass

    thread = threading.Thread(target=draw, args=(Slow(),))
    thread.start()
    drawing.wait(30)
    process = fork.Process(target=draw, args=(sys.stderr,))
    process.start()
    process.join(10)
    code = process.exitcode
    process.kill()
    done.set()
    thread.join(30)
    assert code == 0


def imported_anew(path):
    spec = importlib.util.spec_from_file_location("imported_anew", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "torch.hub", imported_anew(torch.hub.__file__))
    progress = imported_anew(sys.modules[progress_bar.__module__].__file__)
    assert list(progress.track([1, 2], show=True)) == [1, 2]
    assert list(progress.track([], show=True)) == []
    with progress.progress_bar(None, show=True, desc="x", unit="B") as bar:
        bar.update(3)
    err = capsys.readouterr().err
    assert "100.0%" in err
    assert "3.0 bytes" in err
