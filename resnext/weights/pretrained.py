"""The published weights: the cache, and how `pretrained=True` is resolved.

In this order: the cache; the hosted `.pth` of the record, from `RESNEXT_MIRROR` first; where nothing is hosted yet, the
authors' own Torch7 file, converted and proved on this machine. `RESNEXT_OFFLINE=1` stops after the cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from resnext.weights import environment
from resnext.weights.cache import cache_dir, find_cached, locked, read_digest
from resnext.weights.download import DownloadError, check_name, check_url, download, sha256_of
from resnext.weights.files import WeightsError, repository_on_path
from resnext.weights.records import Record, get_record


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
    tried = tried or [f"nothing in the cache ({cache_dir()})"]
    if environment.offline():
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
    hosted = record.hosted
    if hosted is None:
        return _convert(record, progress, tried)
    target = cache_dir() / hosted.file
    try:
        urls = with_mirrors(hosted.file, hosted.urls)
        download(urls, target, sha256=hosted.sha256, size=hosted.size, progress=progress)
    except DownloadError as error:
        tried.append(str(error))
        raise _failed(record, tried, "check the network or RESNEXT_MIRROR") from None
    _say_license(record)
    return target


def _convert(record: Record, progress: bool, tried: list[str]) -> Path:
    """The authors' Torch7 file as a `.pth` in the cache, with its proof."""
    try:
        with repository_on_path():
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
    """The authors' Torch7 file in the cache and its SHA-256, for the caller to convert while it holds the lock.

    What was downloaded for this is deleted afterwards unless `RESNEXT_KEEP_T7=1`. Where no digest was published, that
    of the first file that converts is printed, kept beside it, and expected ever after. Raises DownloadError.
    """
    source = record.torch7
    path = cache_dir() / source.file
    seen = path.with_name(path.name + ".sha256")
    expected = source.sha256 or read_digest(seen)
    sha256 = sha256_of(path) if path.is_file() else None
    downloaded = sha256 is None or sha256 != (expected or sha256)
    if downloaded:
        if environment.offline():
            raise DownloadError(f"{path} is not there, and RESNEXT_OFFLINE=1 forbids to download")
        try:
            sha256 = download(with_mirrors(source.file, source.urls), path, sha256=expected, progress=progress)
        except DownloadError as error:
            hint = f"; the digest expected is that first seen here, kept in {seen}" if seen.exists() else ""
            raise DownloadError(f"{error}{hint}") from None
        _say_license(record)
    try:
        yield path, str(sha256)
    except (ValueError, RuntimeError):  # it does not convert: not to be met again
        if downloaded:
            path.unlink()
        raise
    if expected is None:
        # the form of sha256sum, so that `sha256sum -c` reads it
        temporary = seen.with_name(seen.name + ".writing")
        temporary.write_text(f"{sha256}  {source.file}\n", encoding="utf-8")
        os.replace(temporary, seen)
        _say(f"SHA-256 of {source.file} as first seen, and expected from now on: {sha256}")
    if downloaded and not environment.keep_t7():
        path.unlink()


def fetch(url: str, *, progress: bool = True) -> Path:
    """A file with weights from any URL that may be fetched, kept in the cache. Raises WeightsError.

    A digest in the name (`-1a2b3c4d.pth`, as torch.hub's `check_hash` reads it) is checked; files without one are kept
    apart by their URL.
    """
    try:
        check_url(url)
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        check_name(name)
        digest = re.search(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$", name)  # digits alone are rather a date
        key = hashlib.sha256(url.encode()).hexdigest()[:16]
        target = cache_dir() / name if digest else cache_dir() / key / name
        if not target.exists():
            if environment.offline():
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


def with_mirrors(file: str, urls: tuple[str, ...]) -> list[str]:
    """Where to look for a file: every base URL of `RESNEXT_MIRROR` (comma-separated), then the record's own URLs."""
    return [f"{base.rstrip('/')}/{quote(file)}" for base in environment.mirrors()] + list(urls)


def _failed(record: Record, tried: list[str], next_step: str) -> WeightsError:
    return WeightsError(f"no weights for {record.architecture}: {'; '.join(tried)}. Next: {next_step}")


def _say_license(record: Record) -> None:
    _say(f"The weights of {record.architecture} are licensed {record.license} ({record.license_url}).")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
