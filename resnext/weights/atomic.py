"""Files that appear under their names whole or not at all: the only place of this project where files are replaced."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows only the age of a file tells whether it is in use
    fcntl = None  # type: ignore[assignment]

_HIDDEN = ".writing-"


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A hidden path to write to, with the file name of `path` and `suffix`; on leaving, the file replaces `path`.

    Where an exception ends the block, what was written is deleted, and what lay at `path` stays. Raises OSError.
    """
    with _writing_into(path.parent) as hidden:
        written = hidden / (path.name + suffix)
        yield written
        written.rename(hidden / path.name)


@contextlib.contextmanager
def replacing_all(folder: Path) -> Iterator[Path]:
    """A hidden folder to write files into; on leaving, all of them move to `folder`, or none does.

    Where one cannot, the files that others had replaced by then are put back.

    `folder` is made where it is missing, and removed again where an exception ends the block. Raises OSError.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _writing_into(folder) as hidden:
            yield hidden
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):  # not there, or no longer empty
                parent.rmdir()
        raise


@contextlib.contextmanager
def _writing_into(folder: Path) -> Iterator[Path]:
    clear_hidden(folder)
    with _locked_folder(folder) as hidden:
        yield hidden
        paths = sorted(hidden.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        moved: list[Path] = []
        replaced = hidden / ".replaced"  # the files that were there before, while later ones may still fail
        replaced.mkdir()
        try:
            for path in paths:
                with path.open("rb") as written:
                    os.fsync(written.fileno())
                target = folder / path.name
                if path != paths[-1] and target.is_file():
                    _link(target, replaced / path.name)
                os.replace(path, target)
                moved.append(target)
        except BaseException:
            for target in moved:
                if (replaced / target.name).exists():
                    os.replace(replaced / target.name, target)
                else:
                    target.unlink(missing_ok=True)
            raise


def _link(path: Path, second: Path) -> None:
    """A second name for a file, or a copy where the file system has no hard links."""
    try:
        os.link(path, second)
    except OSError:
        shutil.copy2(path, second)


@contextlib.contextmanager
def _locked_folder(parent: Path) -> Iterator[Path]:
    """A new hidden folder that is locked while this process uses it, so that no other takes it for abandoned."""
    while True:
        hidden = parent / f"{_HIDDEN}{secrets.token_hex(8)}"
        hidden.mkdir()
        with contextlib.suppress(FileNotFoundError):  # another process cleared it before it was locked
            lock = _lock(hidden, wait=True)
            if hidden.exists():
                break
            _unlock(lock)
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        _unlock(lock)


def clear_hidden(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder. What a live one is writing stays."""
    for path in folder.glob(f"{_HIDDEN}*"):
        with contextlib.suppress(OSError):  # locked, or another process clears it at the same time, or it is not ours
            if path.is_symlink() or not path.is_dir():
                if is_old(path):
                    path.unlink()
                continue
            lock = _lock(path)
            if lock is not None or is_old(path):
                shutil.rmtree(path, ignore_errors=True)
            _unlock(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a folder; None where folders cannot be locked.

    Raises BlockingIOError where another process holds it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # some network file systems
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def is_old(path: Path, days: float = 1) -> bool:
    """Whether a file last changed at least so many days ago. After one day nothing is still writing it."""
    return time.time() - path.lstat().st_mtime > days * 86_400
