"""One downloader: resumes, retries, verifies, and puts a file under its name whole or not at all.

Needs `requests`; it is imported when something is downloaded, not before.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from resnext.weights.files import foreign
from resnext.weights.transport import PATIENCE, DownloadError, Patience, check_url, open_session, reason

if TYPE_CHECKING:
    import requests

_CHUNK = 2**16  # what is lost when a connection stalls in the middle of one


def check_name(name: str) -> str:
    """A file name that stays in its folder. Raises DownloadError for anything with a path in it."""
    if not name or name in (".", "..") or any(c in name for c in "/\\\0:"):
        raise DownloadError(f"refused the file name {name!r}: expected a plain name without path separators")
    return name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
    patience: Patience = PATIENCE,
) -> str:
    """Fetch `target` from the first of `urls` that gives it, and return its SHA-256.

    The bytes go to `<target>.partial`, from where an interrupted transfer goes on if the server still has the same
    file; digest and size are checked before the file gets its name. The caller holds the lock (`resnext.weights`).

    Args:
        urls: the same file at several places, tried in order. https, file, or http to loopback.
        target: where it goes; the folder exists.
        sha256: expected digest or its beginning, None where none is known.
        size: expected bytes, None where not known.
        progress: show a bar on stderr.
        patience: timeouts and retries.

    Raises DownloadError with what each URL gave, and OSError for trouble with the disk.
    """
    check_name(target.name)
    if any(urlsplit(check_url(url)).scheme != "file" for url in urls) and importlib.util.find_spec("requests") is None:
        raise DownloadError("downloading needs requests: pip install requests")
    failures = []
    for url in urls:
        transfer = _Transfer(url, target, size, progress, patience)
        try:
            try:
                resumes = transfer.resume_point()[0] > 0
                transfer.run()
                return transfer.finish(sha256)
            except _WrongFileError:
                if not resumes:
                    raise
            transfer.run()  # the bytes from before were at fault, perhaps: once more, from the first one
            return transfer.finish(sha256)
        except DownloadError as error:
            failures.append(f"{url}: {error}")
    raise DownloadError("; ".join(failures) or "no URL to download from")


class _WrongFileError(DownloadError):
    """All bytes came, and they are not those expected; they are deleted."""


class _InterruptedError(Exception):
    """The body broke off; what came so far is in the partial file."""


class _Transfer:
    """One URL to one `.partial` file."""

    def __init__(self, url: str, target: Path, size: int | None, progress: bool, patience: Patience) -> None:
        self.url, self.target, self.size = url, target, size
        self.progress, self.patience = progress, patience
        self.partial = target.with_name(target.name + ".partial")
        self.notes = target.with_name(target.name + ".partial.json")  # which file of the server the bytes are of

    def run(self) -> None:
        """Fill the partial file."""
        if self.size is not None:
            self._need_space(self.size)
        if urlsplit(self.url).scheme == "file":
            self._copy()
            return
        with open_session(self.patience) as session:
            best, failures, delay = self._bytes_there(), 0, self.patience.backoff
            while not (self.size is not None and self._bytes_there() == self.size):
                try:
                    self._fetch(session)
                    return
                except _InterruptedError as error:
                    failures += 1
                    if self._bytes_there() > best:  # it gets on: a bad line, not a dead server
                        best, failures, delay = self._bytes_there(), 0, self.patience.backoff
                    if failures > self.patience.retries:
                        raise DownloadError(f"gave up after {failures} tries without progress: {error}") from None
                    time.sleep(delay)
                    delay *= 2

    def _fetch(self, session: requests.Session) -> None:
        import requests
        import urllib3

        offset, validator = self.resume_point()
        headers = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
        try:
            response = session.get(self.url, headers=headers, stream=True, timeout=self.patience.timeout)
        except requests.RequestException as error:
            raise DownloadError(reason(error)) from None
        with response:
            if response.status_code == 416 or (response.status_code == 206 and not _continues(response, offset)):
                self._discard()
                raise _InterruptedError("the server has another file than the one begun")
            if response.status_code not in (200, 206):
                raise DownloadError(f"HTTP status {response.status_code} {response.reason}")
            if response.status_code == 200:
                offset = 0
            total = self._check_head(response, offset)
            try:
                self._receive(response.raw.stream(_CHUNK, decode_content=False), offset, total, _validator(response))
            except urllib3.exceptions.HTTPError as error:
                raise _InterruptedError(reason(error)) from None

    def _check_head(self, response: requests.Response, offset: int) -> int | None:
        """The size of the whole file as the server states it, if it does. Raises before anything is transferred."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise DownloadError(f"expected the file as it is, got Content-Encoding {encoding}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError("expected a file of weights, got an HTML page")
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdigit() else None
        if self.size is not None and total is not None and total != self.size:
            raise DownloadError(f"expected {self.size} bytes, the server offers {total}")
        if total is not None:
            self._need_space(total)
        return total

    def _receive(self, chunks: Iterator[bytes], offset: int, total: int | None, validator: str) -> None:
        with self.partial.open("r+b" if offset else "wb") as file, self._bar(total, offset) as bar:
            file.seek(offset)
            file.truncate()
            self.notes.write_text(json.dumps({"url": self.url, "validator": validator}))
            for chunk in chunks:
                if file.tell() == 0 and (looks := foreign(chunk)):
                    self._discard()
                    raise DownloadError(f"expected a file of weights, got {looks}")
                file.write(chunk)
                bar.update(len(chunk))
                if self.size is not None and file.tell() > self.size:
                    raise DownloadError(f"expected {self.size} bytes, got more")
            if total is not None and file.tell() < total:
                raise _InterruptedError(f"the connection ended at {file.tell()} of {total} bytes")

    def _copy(self) -> None:
        source = Path(url2pathname(urlsplit(self.url).path))
        if not source.is_file():
            raise DownloadError("no such file")
        try:
            file = source.open("rb")
        except OSError as error:
            raise DownloadError(f"cannot be read: {error.strerror}") from None
        with file:
            self._receive(iter(lambda: file.read(_CHUNK), b""), 0, source.stat().st_size, "")

    def finish(self, sha256: str | None) -> str:
        """Check what came and give it its name. A wrong file is deleted."""
        got_size = self._bytes_there()
        if not got_size:
            self._discard()
            raise DownloadError("expected a file of weights, got an empty one")
        got = sha256_of(self.partial)
        if self.size not in (None, got_size) or not got.startswith(sha256 or ""):
            self._discard()
            if self.size not in (None, got_size):
                raise _WrongFileError(f"expected {self.size} bytes, got {got_size}; deleted")
            raise _WrongFileError(f"expected SHA-256 {sha256}, got {got}; deleted")
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.partial, self.target)
        self.notes.unlink(missing_ok=True)
        return got

    def resume_point(self) -> tuple[int, str]:
        """Bytes already there of the file that this URL had, and what tells whether it still has it."""
        try:
            notes = json.loads(self.notes.read_text())
        except (OSError, ValueError):
            notes = {}
        if notes.get("url") == self.url and notes.get("validator"):
            return self._bytes_there(), str(notes["validator"])
        return 0, ""

    def _bytes_there(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _need_space(self, total: int) -> None:
        needed = total - self._bytes_there()
        free = shutil.disk_usage(self.target.parent).free
        if free < needed:
            folder = self.target.parent
            raise OSError(errno.ENOSPC, f"not enough space: {needed} bytes are needed, {free} are free", str(folder))

    def _bar(self, total: int | None, offset: int) -> Any:
        from torch.hub import tqdm  # type: ignore[attr-defined]  # tqdm, or a plain stand-in where it is not installed

        return tqdm(
            total=total, initial=offset, unit="B", unit_scale=True, unit_divisor=1024, desc=self.target.name,
            disable=not self.progress,
        )  # fmt: skip


def _continues(response: requests.Response, offset: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _validator(response: requests.Response) -> str:
    """What If-Range takes: a strong ETag, else the date of last modification, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
