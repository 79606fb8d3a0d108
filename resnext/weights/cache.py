"""torch.hub's cache of checkpoints: which of the published weights are in it, and the lock around changing it.

`pretrained=True` takes a file with the full SHA-256 that the record states, or that a conversion on this machine gave.
The file is verified when it gets there, and `<architecture>.verified.json` notes that; a file that has changed since is
verified again. Nothing else in the folder is trusted, whatever its name: other programs write there as well.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from resnext.weights.atomic import replacing
from resnext.weights.download import is_plain, sha256_of
from resnext.weights.files import WeightsError, read_state_dict, tensor_digest
from resnext.weights.records import Record, read_json

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Verified:
    """A `.pth` in the cache, as this code noted it. `torch7_sha256` is that of the file it was converted from."""

    file: str
    size: int
    sha256: str
    tensor_digest: str
    torch7_sha256: str | None = None
    mtime_ns: int = 0


def cache_dir() -> Path:
    """Where torch.hub keeps checkpoints: `torch.hub.get_dir()/checkpoints`. It need not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_cached(record: Record, problems: list[str]) -> Path | None:
    """The weights of a record in the cache, or None. What is wrong with files that are there is added to `problems`.

    Reads a note and the state of the file, and the file itself only if it has changed since it was verified.
    """
    noted = _read_note(record)
    for known in _known(record, problems):
        path = cache_dir() / known.file
        try:
            found = path.stat()
            if found.st_size != known.size:
                problems.append(f"{path}: {found.st_size} bytes in the cache, expected {known.size}")
                continue
            if noted is not None and (noted.sha256, noted.mtime_ns) == (known.sha256, found.st_mtime_ns):
                return path
            if (got := sha256_of(path)) != known.sha256:
                problems.append(f"{path}: expected SHA-256 {known.sha256}, got {got}")
                continue
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
            continue
        with contextlib.suppress(OSError):  # the cache may be read-only
            note_verified(record, known)
        return path
    return None


def note_verified(record: Record, known: Verified) -> None:
    """Note that this file of the cache has been verified. Raises OSError."""
    changed = (cache_dir() / known.file).stat().st_mtime_ns
    with replacing(_note(record)) as path:
        path.write_text(json.dumps(asdict(replace(known, mtime_ns=changed)), indent=2) + "\n", encoding="utf-8")


def verify_cached(record: Record, path: Path) -> str | None:
    """What is wrong with the full SHA-256 of a cached file, or with the digest of its tensors; None if nothing is."""
    known = next(known for known in _known(record, []) if known.file == path.name)
    if (got := sha256_of(path)) != known.sha256:
        return f"expected SHA-256 {known.sha256}, got {got}"
    try:
        got = tensor_digest(read_state_dict(path))
    except WeightsError as error:
        return str(error).removeprefix(f"{path}: ")
    return None if got == known.tensor_digest else f"expected tensor digest {known.tensor_digest}, got {got}"


def _known(record: Record, problems: list[str]) -> list[Verified]:
    """The files that may be taken for the weights of a record: the hosted one, and the one converted here."""
    hosted, noted = record.hosted, _read_note(record)
    known = [Verified(hosted.file, hosted.size, hosted.sha256, hosted.tensor_digest)] if hosted else []
    if noted is not None and noted.torch7_sha256 is not None:
        expected = record.torch7.sha256 or read_digest(cache_dir() / f"{record.torch7.file}.sha256")
        if expected in (None, noted.torch7_sha256):
            known.append(noted)
        else:
            problems.append(f"{cache_dir() / noted.file}: made from another {record.torch7.file} than the one expected")
    return known


def _note(record: Record) -> Path:
    return cache_dir() / f"{record.architecture}.verified.json"


def _read_note(record: Record) -> Verified | None:
    """What was noted; None for anything that `note_verified` does not write."""
    try:
        noted = Verified(**(read_json(_note(record)) or {}))
    except TypeError:
        return None
    digests = (noted.sha256, noted.tensor_digest, noted.torch7_sha256 or noted.sha256)
    whole = is_plain(noted.file) and type(noted.size) is int and type(noted.mtime_ns) is int
    return noted if whole and all(map(_is_digest, digests)) else None


def read_digest(path: Path) -> str | None:
    """The SHA-256 in a file as sha256sum writes it; None where there is none."""
    try:
        with path.open("rb") as file:
            word = file.read(64).decode("ascii")
    except (OSError, ValueError):
        return None
    return word if _is_digest(word) else None  # a file cut short must not pass for the beginning of a digest


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


@contextlib.contextmanager
def locked(name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock for this name in the cache; the system releases it however the process ends.

    Raises TimeoutError if another process holds it and `wait` is false.
    """
    from filelock import FileLock, Timeout

    path = cache_dir() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.5 if wait else 0)
    except Timeout:
        if not wait:
            raise
        print(f"waiting for another process that obtains {name} (it holds {path})", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
