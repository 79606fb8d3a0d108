"""The published weights: the cache, and how `pretrained=True` is resolved.

In this order: the cache; the hosted `.pth` of the record, from `RESNEXT_MIRROR` first; where nothing is hosted yet, the
authors' own Torch7 file, converted and proved on this machine. `RESNEXT_OFFLINE=1` stops after the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import torch

from resnext.checkpoint import WeightsError
from resnext.records import Record, get_record
from resnext.transport import DownloadError, check_url


def cache_dir() -> Path:
    """Where torch.hub keeps checkpoints: `torch.hub.get_dir()/checkpoints`. It need not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def resolve_pretrained(architecture: str, *, progress: bool = True) -> Path:
    """A file on this machine with the published weights; downloaded, and converted, where it is not there yet.

    A file in the cache is found without the network and without writing anything. Of several processes one downloads,
    the others wait for it. Raises WeightsError that lists what was tried and why each failed.
    """
    record = get_record(architecture)
    tried: list[str] = []
    cached = find_cached(record, tried)
    if cached is not None:
        return cached
    if os.environ.get("RESNEXT_OFFLINE") == "1":
        tried.append("RESNEXT_OFFLINE=1 forbids to download")
        raise _failed(record, tried, "unset it, or copy the file into the cache")
    try:
        with locked(record.architecture):
            # another process may have been faster
            return find_cached(record, []) or _obtain(record, progress, tried)
    except OSError as error:
        tried.append(f"{error.filename or cache_dir()}: {error.strerror or error}")
        raise _failed(record, tried, "free the space or make the cache writable, or set TORCH_HOME") from None


def _obtain(record: Record, progress: bool, tried: list[str]) -> Path:
    from resnext.download import download

    _say(f"The weights of {record.architecture} are licensed {record.license} ({record.license_url}).")
    hosted = record.hosted
    if hosted is None:
        return _convert(record, progress, tried)
    target = cache_dir() / hosted.file
    try:
        download(
            with_mirrors(hosted.file, hosted.urls), target, sha256=hosted.sha256, size=hosted.size, progress=progress
        )
    except DownloadError as error:
        tried.append(str(error))
        raise _failed(record, tried, "check the network or RESNEXT_MIRROR") from None
    return target


def _convert(record: Record, progress: bool, tried: list[str]) -> Path:
    """The authors' Torch7 file as a `.pth` in the cache, with its proof."""
    try:
        from conversion import build
        from conversion.t7 import T7Error
    except ImportError as error:
        tried.append(f"no .pth is hosted yet, and converting {record.torch7.file} needs {error.name}")
        raise _failed(record, tried, "pip install torchfile requests numpy") from None
    try:
        with torch7_file(record, progress=progress) as (source, sha256):
            built = build.build(
                source,
                cache_dir(),
                license_=record.license,
                sha256=sha256,
                expected=record.architecture,
                progress=progress,
            )
    except (DownloadError, T7Error, build.ProofError) as error:
        tried.append(str(error))
        raise _failed(record, tried, "check the network or RESNEXT_MIRROR, or convert a copy of your own") from None
    return built.artifact.path


@contextmanager
def torch7_file(record: Record, *, progress: bool = True) -> Iterator[tuple[Path, str]]:
    """The authors' Torch7 file in the cache and its SHA-256; deleted afterwards unless `RESNEXT_KEEP_T7=1`.

    Where no digest was published, that of the first download is printed, kept beside the file, and expected ever
    after. The caller holds the lock. Raises DownloadError.
    """
    from resnext.download import download, sha256_of

    source = record.torch7
    path = cache_dir() / source.file
    seen = path.with_name(path.name + ".sha256")
    expected = source.sha256 or _read_digest(seen)
    sha256 = sha256_of(path) if path.exists() else None
    if sha256 is None or sha256 != (expected or sha256):
        sha256 = download(with_mirrors(source.file, source.urls), path, sha256=expected, progress=progress)
    if expected is None:
        # the form of sha256sum, so that `sha256sum -c` reads it
        seen.write_text(f"{sha256}  {source.file}\n", encoding="utf-8")
        _say(f"SHA-256 of {source.file} as first seen, and expected from now on: {sha256}")
    yield path, sha256
    if os.environ.get("RESNEXT_KEEP_T7") != "1":
        path.unlink()


def fetch(url: str, *, progress: bool = True) -> Path:
    """A file with weights from any URL that may be fetched, kept in the cache. Raises WeightsError.

    A digest in the name (`-1a2b3c4d.pth`, as torch.hub's `check_hash` reads it) is checked; files without one are kept
    apart by their URL.
    """
    from resnext.download import check_name, download

    try:
        name = check_name(unquote(urlsplit(check_url(url)).path.rpartition("/")[2]))
        digest = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
        key = hashlib.sha256(url.encode()).hexdigest()[:16]
        target = cache_dir() / name if digest else cache_dir() / key / name
        if not target.exists():
            if os.environ.get("RESNEXT_OFFLINE") == "1":
                raise WeightsError(f"{url}: {name} is not in the cache, and RESNEXT_OFFLINE=1 forbids to download")
            with locked(key):
                target.parent.mkdir(exist_ok=True)
                if not target.exists():
                    download([url], target, sha256=digest[1] if digest else None, progress=progress)
    except DownloadError as error:
        raise WeightsError(str(error)) from None
    except OSError as error:
        raise WeightsError(f"{error.filename or cache_dir()}: {error.strerror or error}") from None
    return target


def find_cached(record: Record, tried: list[str]) -> Path | None:
    """The file in the cache, by the name that the record or an earlier conversion on this machine gave it.

    Reads names, sizes and sidecars alone. What stands in the way is added to `tried`.
    """
    folder = cache_dir()
    if record.hosted is not None:
        path = folder / record.hosted.file
        if _has_size(path, record.hosted.size, tried):
            return path
        return None
    for sidecar in sorted(folder.glob(f"{record.architecture}_typeC-*.json")):
        built = _read_sidecar(sidecar)
        if built.get("source", {}).get("name") != record.torch7.file:
            continue  # somebody's own checkpoint of the same architecture
        expected = record.torch7.sha256 or _read_digest(folder / f"{record.torch7.file}.sha256")
        if expected not in (None, built["source"].get("sha256")):
            tried.append(f"{sidecar}: made from another {record.torch7.file} than the one expected")
            continue
        file = built.get("file", {})
        if _has_size(folder / str(file.get("name")), file.get("size"), tried):
            return folder / str(file["name"])
    if not tried:
        tried.append(f"nothing in the cache ({folder})")
    return None


def verify_cached(record: Record, path: Path) -> str | None:
    """Hold the full SHA-256 of a cached file against its record or its sidecar; what is wrong, or None."""
    from resnext.download import sha256_of

    stated = record.hosted.sha256 if record.hosted else _read_sidecar(path.with_suffix(".json"))["file"]["sha256"]
    got = sha256_of(path)
    return None if got == stated else f"expected SHA-256 {stated}, got {got}"


def _has_size(path: Path, size: int | None, tried: list[str]) -> bool:
    try:
        got = path.stat().st_size
    except OSError:
        tried.append(f"{path}: not in the cache")
        return False
    if got != size:
        tried.append(f"{path}: {got} bytes in the cache, expected {size}")
    return got == size


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_digest(path: Path) -> str | None:
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        return None
    return words[0] if words else None


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock of that name; the system gives it back however the process ends."""
    from filelock import FileLock, Timeout

    cache_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_dir() / f"{name}.lock")
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        _say(f"waiting for another process that obtains {name} (it holds {lock.lock_file})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def with_mirrors(file: str, urls: tuple[str, ...]) -> list[str]:
    """Where to look for a file: every base URL of `RESNEXT_MIRROR` (comma-separated), then the record's own URLs."""
    bases = [base.strip() for base in os.environ.get("RESNEXT_MIRROR", "").split(",")]
    return [check_url(f"{base.rstrip('/')}/{quote(file)}") for base in bases if base] + list(urls)


def _failed(record: Record, tried: list[str], next_step: str) -> WeightsError:
    return WeightsError(f"no weights for {record.architecture}: {'; '.join(tried)}. Next: {next_step}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
