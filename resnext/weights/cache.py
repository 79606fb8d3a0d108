"""torch.hub's cache of checkpoints: what of the published weights is in it, and the lock around changing it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from resnext.weights.records import Record, read_json


def cache_dir() -> Path:
    """Where torch.hub keeps checkpoints: `torch.hub.get_dir()/checkpoints`. It need not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_cached(record: Record, tried: list[str]) -> Path | None:
    """The file in the cache, by the name that the record or an earlier conversion on this machine gave it.

    Reads names, sizes and sidecars alone. Files that are there but not right are added to `tried`.
    """
    folder = cache_dir()
    if record.hosted is not None and _has_size(folder / record.hosted.file, record.hosted.size, tried):
        return folder / record.hosted.file
    for sidecar in sorted(folder.glob(f"{record.architecture}_typeC-*.json")):
        built = read_json(sidecar) or {}
        if built.get("source", {}).get("name") != record.torch7.file:
            continue  # somebody's own checkpoint of the same architecture
        expected = record.torch7.sha256 or read_digest(folder / f"{record.torch7.file}.sha256")
        if expected not in (None, built["source"].get("sha256")):
            tried.append(f"{sidecar}: made from another {record.torch7.file} than the one expected")
            continue
        file = built.get("file", {})
        if _has_size(folder / str(file.get("name")), file.get("size"), tried):
            return folder / str(file["name"])
    return None


def verify_cached(record: Record, path: Path) -> str | None:
    """Hold the full SHA-256 of a cached file against its record or its sidecar; what is wrong, or None."""
    from resnext.weights.download import sha256_of

    hosted = record.hosted
    if hosted is not None and hosted.file == path.name:
        stated = hosted.sha256
    else:
        stated = (read_json(path.with_suffix(".json")) or {})["file"]["sha256"]
    got = sha256_of(path)
    return None if got == stated else f"expected SHA-256 {stated}, got {got}"


def _has_size(path: Path, size: int | None, tried: list[str]) -> bool:
    try:
        got = path.stat().st_size
    except OSError:
        return False
    if got != size:
        tried.append(f"{path}: {got} bytes in the cache, expected {size}")
    return got == size


def read_digest(path: Path) -> str | None:
    """The SHA-256 in a file as sha256sum writes it, None where there is none."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        return None
    # anything else is no digest: a file cut short must not pass for the beginning of one
    return words[0] if words and re.fullmatch("[0-9a-f]{64}", words[0]) else None


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock of that name; the system gives it back however the process ends."""
    from filelock import FileLock, Timeout

    cache_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_dir() / f"{name}.lock")
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        print(f"waiting for another process that obtains {name} (it holds {lock.lock_file})", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
