"""One downloader: resumes, retries, verifies, and puts a file under its name whole or not at all.

Needs `requests`; it is imported when something is downloaded, not before.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import ipaddress
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from resnext.weights.files import WeightsError, foreign

if TYPE_CHECKING:
    import requests

_CHUNK = 2**16  # what is lost when a connection stalls in the middle of one
_STATUSES_TO_RETRY = (408, 429, *range(500, 600))


class DownloadError(WeightsError):
    """A file that could not be obtained. Says which URL, what was expected and what came."""


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try again. Seconds; delays double from `backoff` on."""

    connect: float = 10.0
    read: float = 30.0  # without a single byte
    retries: int = 4
    backoff: float = 0.3  # so that a machine without a network hears of it within seconds
    longest_wait: float = 120.0  # of what a server's Retry-After may ask for

    @property
    def timeout(self) -> tuple[float, float]:
        """As requests takes it."""
        return self.connect, self.read


DEFAULT_PATIENCE = Patience()


def is_url(text: object) -> bool:
    """Whether a text is meant as a URL rather than as a path: it starts with `scheme://`."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def check_url(url: str) -> None:
    """Raise DownloadError unless a URL may be fetched: https, file, or http to this machine only."""
    shown = url if url.isprintable() else repr(url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise DownloadError(f"refused {shown}: {error}") from None
    path = url2pathname(parts.path) if parts.scheme == "file" else ""
    if not (url + path).isprintable():
        raise DownloadError(f"refused {shown}: it has characters that no URL has")
    if parts.scheme == "http" and not _is_loopback(host):
        raise DownloadError(f"refused {shown}: http is not safe against tampering; use https (http is for loopback)")
    if parts.scheme == "file" and host not in ("", "localhost"):
        raise DownloadError(f"refused {shown}: a file of another machine; expected file:///path")
    if parts.scheme not in ("http", "https", "file"):
        raise DownloadError(f"refused {shown}: expected https://, file:// or http:// to loopback")
    if parts.scheme == "https" and not host:
        raise DownloadError(f"refused {shown}: it names no server")


def local_path(place: str) -> Path | None:
    """The file on this machine that a path or a `file://` URL names; None for any other URL."""
    if not is_url(place):
        return Path(place)
    parts = urlsplit(place)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_session(patience: Patience) -> requests.Session:
    """A session that retries as `patience` says, and fetches nothing that `check_url` refuses. Needs requests."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class BoundedRetry(Retry):
        def get_retry_after(self, response: Any) -> float | None:
            wait = super().get_retry_after(response)
            return None if wait is None else min(wait, patience.longest_wait)

    class LoopbackAdapter(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
            check_url(request.url or "")  # of a redirect as well
            return super().send(request, *arguments, **options)

    retry = BoundedRetry(
        total=patience.retries,
        backoff_factor=patience.backoff,
        status_forcelist=_STATUSES_TO_RETRY,
        raise_on_status=False,
    )
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"  # a range of a compressed body is of no use
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.mount("http://", LoopbackAdapter(max_retries=retry))
    return session


def reason(error: BaseException) -> str:
    """The innermost cause in one line; the chain of wrappers around it says the same at length."""
    while True:
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            return " ".join(str(error).split()) or type(error).__name__
        error = inner


def check_name(name: str) -> None:
    """Raise DownloadError unless a file name is plain: no path, not hidden, nothing that does not print."""
    if not is_plain(name):
        raise DownloadError(f"refused the file name {name!r}: expected a plain name without path separators")


def is_plain(name: object) -> bool:
    """Whether this is a file name that stays in its folder."""
    return isinstance(name, str) and name.isprintable() and re.fullmatch(r"[^/\\:.][^/\\:]*", name) is not None


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
    patience: Patience = DEFAULT_PATIENCE,
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
    for url in urls:
        check_url(url)
    if any(local_path(url) is None for url in urls) and importlib.util.find_spec("requests") is None:
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
        if path := local_path(self.url):
            self._copy(path)
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

    def _copy(self, source: Path) -> None:
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
