"""How `pretrained=True` and `weights=URL` become files on this machine.

The published weights, in this order: from the cache; the hosted `.pth` of the record, from `RESNEXT_MIRROR` first;
where nothing is hosted yet, the authors' own Torch7 file, converted and proved on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from resnext.weights import environment
from resnext.weights.atomic import clear_hidden, replacing
from resnext.weights.cache import Verified, cache_dir, find_cached, locked, note_verified, read_digest
from resnext.weights.door import conversion
from resnext.weights.download import (
    DownloadError,
    check_name,
    check_url,
    clear_partial,
    download,
    local_path,
    sha256_of,
)
from resnext.weights.files import WeightsError, read_state_dict
from resnext.weights.records import Hosted, Record, get_record

# At the end of a name, as torch.hub's `check_hash` reads it. Eight digits that can be a date are taken for one.
_DIGEST = re.compile(r"-(?!(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\.)([0-9a-f]{8,64})\.\w+$", re.ASCII)


def resolve_pretrained(architecture: str, *, progress: bool = True) -> Path:
    """A file on this machine with the published weights, downloaded and converted where necessary.

    A file in the cache is found without the network and without writing anything. Of several processes one downloads
    and the others wait for it. Raises WeightsError that lists what was tried and why each failed.
    """
    record = get_record(architecture)
    tried: list[str] = []
    if cached := find_cached(record, tried):
        _clear_torch7(record)
        clear_hidden(cache_dir())
        return cached
    tried = tried or [f"nothing in the cache ({cache_dir()})"]
    if environment.offline() and not _torch7_files(record):
        tried.append("RESNEXT_OFFLINE=1 forbids downloads")
        raise _failed(record, tried, f"unset it, or copy the folder {cache_dir()} of a machine that has them")
    try:
        with locked(record.architecture):
            if cached := find_cached(record, []):  # another process was faster
                return cached
            clear_partial(cache_dir())
            if record.hosted is None:
                return _convert(record, progress, tried)
            return _download(record, record.hosted, progress, tried)
    except OSError as error:
        tried.append(f"{error.filename or cache_dir()}: {error.strerror or error}")
        raise _failed(record, tried, "free the space or make the cache writable, or set TORCH_HOME") from None


def _download(record: Record, hosted: Hosted, progress: bool, tried: list[str]) -> Path:
    target = cache_dir() / hosted.file
    try:
        urls = _with_mirrors(hosted.file, hosted.urls)
        download(urls, target, sha256=hosted.sha256, size=hosted.size, progress=progress)
    except DownloadError as error:
        tried.append(str(error))
        raise _failed(record, tried, "check the network or RESNEXT_MIRROR") from None
    note_verified(record, Verified(hosted.file, hosted.size, hosted.sha256, hosted.tensor_digest))
    _say_license(record)
    return target


def _convert(record: Record, progress: bool, tried: list[str]) -> Path:
    """The authors' Torch7 file as a `.pth` in the cache, with its proof."""
    found = _torch7_files(record)
    try:
        build, t7 = conversion("build"), conversion("t7")
    except ImportError as error:
        tried.append(f"no .pth is hosted yet, and converting {record.torch7.file} needs {error.name}")
        raise _failed(record, tried, "pip install torchfile requests numpy") from None
    try:
        with torch7_file(record, progress=progress) as (source, sha256):
            artifact = build.build(
                source,
                cache_dir(),
                license_=record.license,
                sha256=sha256,
                expected=record.architecture,
                progress=progress,
            )
            file = artifact.record["file"]
            note_verified(
                record,
                Verified(artifact.path.name, file["size"], file["sha256"], artifact.record["tensor_digest"], sha256),
            )
    except (DownloadError, t7.T7Error, build.ProofError) as error:
        tried.append(str(error))
        if found and not isinstance(error, DownloadError):  # it is out of the way now
            return _convert(record, progress, tried)
        raise _failed(record, tried, "check the network or RESNEXT_MIRROR, or convert a copy of your own") from None
    return artifact.path


@contextlib.contextmanager
def torch7_file(record: Record, *, progress: bool = True) -> Iterator[tuple[Path, str]]:
    """The authors' Torch7 file in the cache and its SHA-256, for the caller to convert while it holds the lock.

    A copy that the user put into the cache comes first. Else the file is downloaded to a folder of its own, and deleted
    once it is converted, or moved to the cache under `RESNEXT_KEEP_T7`. What an interrupted process left in that folder
    is used. A file that does not convert is deleted, or renamed to `….refused` if it is the user's.

    Where no digest was published, that of the first file that converts is printed, kept in the cache, and expected from
    then on. Raises DownloadError.
    """
    source = record.torch7
    copy, downloaded = cache_dir() / source.file, _download_folder(record) / source.file
    seen = cache_dir() / f"{source.file}.sha256"
    expected = source.sha256 or read_digest(seen)
    for path in (copy, downloaded):
        sha256 = sha256_of(path) if path.is_file() else None
        if sha256 is not None and sha256 == (expected or sha256):
            break
    else:
        path, sha256 = downloaded, _download_torch7(record, downloaded, expected, progress)
    try:
        yield path, sha256
    except Exception as error:
        if not isinstance(error, OSError | MemoryError):  # these two are not the file's fault
            if path == copy:
                path.replace(f"{path}.refused")
                _say(f"{path} does not convert; it was renamed to {path.name}.refused")
            else:
                _clear_torch7(record, locked_here=True)
        raise
    if expected is None:
        with replacing(seen) as written:  # the form of sha256sum, so that `sha256sum -c` reads it
            written.write_text(f"{sha256}  {source.file}\n", encoding="utf-8")
        _say(f"SHA-256 of {source.file} as first seen, and expected from now on: {sha256}")
    if path == downloaded and environment.keep_t7():
        downloaded.replace(copy)
    _clear_torch7(record, locked_here=True)


def _download_torch7(record: Record, target: Path, expected: str | None, progress: bool) -> str:
    source = record.torch7
    if environment.offline():
        raise DownloadError(f"{cache_dir() / source.file} is not there, and RESNEXT_OFFLINE=1 forbids downloads")
    target.parent.mkdir(exist_ok=True)
    try:
        urls = _with_mirrors(source.file, source.urls)
        sha256 = download(urls, target, sha256=expected, limit=source.limit, progress=progress)
    except DownloadError as error:
        seen = cache_dir() / f"{source.file}.sha256"
        hint = f"; the expected digest is the one first seen here, kept in {seen}" if seen.exists() else ""
        raise DownloadError(f"{error}{hint}") from None
    finally:
        with contextlib.suppress(OSError):  # something is in it
            target.parent.rmdir()
    _say_license(record)
    return sha256


def _download_folder(record: Record) -> Path:
    """Where the authors' file lies until it is converted. Everything in it was downloaded by this code."""
    return cache_dir() / f"{record.architecture}.torch7"


def _torch7_files(record: Record) -> list[Path]:
    """Copies of the authors' file that can be converted offline: the user's, or one left by an earlier process."""
    files = (folder / record.torch7.file for folder in (cache_dir(), _download_folder(record)))
    return [path for path in files if record.hosted is None and path.is_file()]


def _clear_torch7(record: Record, *, locked_here: bool = False) -> None:
    """Delete what this process, or one that died, downloaded of the authors' file; it is no longer needed."""
    folder = _download_folder(record)
    if folder.exists():
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if not locked_here:
                stack.enter_context(locked(record.architecture, wait=False))
            shutil.rmtree(folder)


def fetch(url: str, *, progress: bool = True) -> Path:
    """A file with weights from any URL that may be fetched, kept in the cache by its URL. Raises WeightsError.

    It is kept if it can be read as weights, and if a digest in its name (`-1a2b3c4d.pth`) is its own. What a `file://`
    URL names is not copied.
    """
    check_url(url)
    if path := local_path(url):
        return path
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    check_name(name)
    digest = _DIGEST.search(name)
    key = f"urls/{hashlib.sha256(url.encode()).hexdigest()[:32]}/{name}"
    target = cache_dir() / key
    try:
        if not target.exists():
            if environment.offline():
                raise WeightsError(f"{url}: {name} is not in the cache, and RESNEXT_OFFLINE=1 forbids downloads")
            with locked(key):
                clear_partial(cache_dir())
                if not target.exists():
                    download(
                        [url], target, sha256=digest[1] if digest else None, check=_check_weights, progress=progress
                    )
    except OSError as error:
        raise WeightsError(f"{error.filename or cache_dir()}: {error.strerror or error}") from None
    return target


def _check_weights(path: Path) -> None:
    """Raise WeightsError unless a file can be read as weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shown when the file is loaded
        read_state_dict(path)


def _with_mirrors(file: str, urls: tuple[str, ...]) -> list[str]:
    """Where to look for a file: every base URL of `RESNEXT_MIRROR`, then the record's own URLs."""
    return [f"{base.rstrip('/')}/{quote(file)}" for base in environment.mirrors()] + list(urls)


def _failed(record: Record, tried: list[str], next_step: str) -> WeightsError:
    return WeightsError(f"no weights for {record.architecture}: {'; '.join(tried)}. Next: {next_step}")


def _say_license(record: Record) -> None:
    _say(f"The weights of {record.architecture} are licensed {record.license} ({record.license_url}).")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
