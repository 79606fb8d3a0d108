"""Downloads: resumed, retried, checked, and under their names whole or not at all.

From top to bottom: what a URL is, `download` and `open_url`, one transfer, and what requests share. Needs `requests`,
which is imported when something is downloaded, not before.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from resnext.weights import environment
from resnext.weights.atomic import is_old, replacing
from resnext.weights.files import WeightsError, describe, find_format
from resnext.weights.progress import progress_bar
from resnext.weights.records import read_json

if TYPE_CHECKING:
    import requests

_CHUNK = 2**16  # what is lost when a connection stalls in the middle of one
_STATUSES_TO_RETRY = (408, 429, *range(500, 600))
# how urllib3 begins what it says of a connection, in all its versions
_CONNECTION = re.compile(r"<?[\w.]*HTTPS?Connection(Pool)?(\([^)]*\)| object)( at \w+)?>?[:,] ?")


class DownloadError(WeightsError):
    """A file that could not be obtained. Says which URL, what was expected and what came."""


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try again. Seconds; delays double from `backoff` on."""

    connect: float = 10.0
    read: float = 30.0  # without a single byte
    retries: int = 4
    backoff: float = 0.3  # so that a machine without a network gives up within seconds
    longest_wait: float = 120.0  # of what a server's Retry-After may ask for


DEFAULT_PATIENCE = Patience()


def is_url(text: object) -> bool:
    """Whether a text is meant as a URL rather than as a path: it starts with `scheme://`."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def check_url(url: str) -> None:
    """Raise DownloadError unless a URL may be fetched: https, file, or http to this machine only."""
    shown = url if url.isprintable() else ascii(url)
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
        raise DownloadError(f"refused {shown}: a file on another machine; expected file:///path")
    if parts.scheme not in ("http", "https", "file"):
        raise DownloadError(f"refused {shown}: expected https://, file:// or http:// to loopback")
    if parts.scheme == "https" and not host:
        raise DownloadError(f"refused {shown}: it names no server")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def local_path(place: str) -> Path | None:
    """The file on this machine that a path or a `file://` URL names; None for any other URL."""
    if not is_url(place):
        return Path(place)
    parts = urlsplit(place)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def is_plain(name: object) -> bool:
    """Whether this is a file name that stays in its folder: no path, not hidden, nothing that does not print."""
    return isinstance(name, str) and name.isprintable() and re.fullmatch(r"[^/\\:.][^/\\:]*", name) is not None


def check_name(name: str) -> None:
    """Raise DownloadError unless a file name is plain."""
    if not is_plain(name):
        raise DownloadError(f"refused the file name {name!r}: expected a plain name without path separators")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    limit: int | None = None,
    check: Callable[[Path], object] | None = None,
    progress: bool = True,
    patience: Patience = DEFAULT_PATIENCE,
) -> str:
    """Fetch a file of weights from the first of `urls` that has it, and return its SHA-256.

    The bytes go to `<target>.partial`. An interrupted transfer resumes there if the server shows that it still has the
    same file. The file gets its name once its first bytes, size and digest are right and `check` accepts it. The caller
    holds a lock for `target`, whose folder exists.

    Args:
        urls: the same file at several places, tried in order: https, file, or http to loopback.
        sha256: the expected digest or its beginning.
        limit: the most bytes of a file of unknown `size`; default: what `RESNEXT_MAX_DOWNLOAD` allows.
        check: called with the whole file; raises WeightsError if it is not worth keeping.

    Raises DownloadError with what each URL gave, and OSError for trouble with the disk.
    """
    check_name(target.name)
    for url in urls:
        check_url(url)
    try:
        limit = size or limit or environment.max_download()
    except ValueError as error:
        raise DownloadError(str(error)) from None
    failures = []
    for url in urls:
        try:
            return _Transfer(url, target, size, limit, sha256, progress, patience).obtain(check)
        except DownloadError as error:
            failures.append(f"{url}: {error}")
    raise DownloadError("; ".join(failures) or "no URL to download from")


@contextlib.contextmanager
def open_url(url: str, patience: Patience = DEFAULT_PATIENCE) -> Iterator[requests.Response]:
    """A server's answer of status 200, whose body is still to be read. Raises DownloadError, in the block too."""
    check_url(url)
    with _answer(url, patience) as response:
        if response.status_code != 200:
            raise DownloadError(f"HTTP status {response.status_code} {response.reason}")
        yield response


@contextlib.contextmanager
def _answer(url: str, patience: Patience, headers: dict[str, str] | None = None) -> Iterator[requests.Response]:
    """A server's answer, whatever its status. Raises as `open_url` does."""
    if environment.offline():
        raise DownloadError("RESNEXT_OFFLINE=1 forbids downloads")
    try:
        import requests
        import urllib3
    except ImportError:
        raise DownloadError("downloading needs requests: pip install requests") from None
    with _open_session(patience) as session:
        try:
            response = session.get(url, headers=headers, stream=True, timeout=(patience.connect, patience.read))
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:  # of bad redirects
            raise DownloadError(root_cause(error)) from None
        try:
            with response:
                yield response
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise DownloadError(root_cause(error)) from None


def clear_partial(folder: Path) -> None:
    """Delete the transfers in a folder and its subfolders that nobody has continued for a week."""
    for notes in folder.glob("**/*.partial.json"):
        with contextlib.suppress(OSError):
            if is_old(notes, days=7):
                notes.with_suffix("").unlink(missing_ok=True)
                notes.unlink()


class _WrongFileError(DownloadError):
    """All bytes came, but they are not the expected ones; they are deleted."""


class _BrokenOffError(Exception):
    """The connection broke; what came so far is in the partial file."""


@dataclass(frozen=True)
class _Begun:
    """A transfer that was cut off: what is there, and what tells whether the server still has the same file."""

    offset: int
    total: int
    validator: str


@dataclass
class _Transfer:
    """One URL to one `.partial` file."""

    url: str
    target: Path
    size: int | None
    limit: int
    sha256: str | None
    progress: bool
    patience: Patience

    def __post_init__(self) -> None:
        self.partial = self.target.with_name(self.target.name + ".partial")
        self.notes = self.target.with_name(self.target.name + ".partial.json")  # which file the bytes belong to

    def obtain(self, check: Callable[[Path], object] | None) -> str:
        """Transfer, check, and give the file its name. Returns its SHA-256."""
        resumes = self._bytes_there() > 0
        try:
            self._transfer()
            return self._finish(check)
        except _WrongFileError:
            if not resumes:
                raise
        self._transfer()  # perhaps the earlier bytes were wrong: start over
        return self._finish(check)

    def _transfer(self) -> None:
        """Fill the partial file."""
        if self.size is not None:
            self._check_space(self.size)
        if path := local_path(self.url):
            self._copy(path)
            return
        best, failures, delay = self._bytes_there(), 0, self.patience.backoff
        while not (self.size is not None and self._bytes_there() == self.size):
            try:
                self._request()
                return
            except _BrokenOffError as error:
                failures += 1
                if self._bytes_there() > best:  # there is progress: a bad line, not a dead server
                    best, failures, delay = self._bytes_there(), 0, self.patience.backoff
                if failures > self.patience.retries:
                    raise DownloadError(f"gave up after {failures} tries without progress: {error}") from None
                time.sleep(delay)
                delay *= 2

    def _request(self) -> None:
        begun = self._begun()
        headers = {"Range": f"bytes={begun.offset}-", "If-Range": begun.validator} if begun else None
        with _answer(self.url, self.patience, headers) as response:
            status = response.status_code
            if status == 206 and begun is None:
                raise DownloadError("the whole file was asked for, and the server sent a part of it")
            if status == 416 or (status == 206 and not _continues(response, begun)):
                self._discard()
                raise _BrokenOffError("the server has a different file from the one begun")
            if status not in (200, 206):
                raise DownloadError(f"HTTP status {status} {response.reason}")
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise DownloadError(f"expected the file as it is, got Content-Encoding {encoding}")
            if status == 206 and begun is not None:
                self._receive(_chunks(response), begun)
                return
            total = content_length(response)
            if total is None and not response.raw.chunked and self.sha256 is None:
                raise DownloadError("the server does not say how long the file is, and no digest is known")
            self._check_total(total)
            self._receive(_chunks(response), None, total, _validator(response))

    def _copy(self, source: Path) -> None:
        if not source.is_file():
            raise DownloadError("no such file")
        total = source.stat().st_size
        self._check_total(total)
        try:
            file = source.open("rb")
        except OSError as error:
            raise DownloadError(f"cannot be read: {error.strerror}") from None
        with file:
            self._receive(iter(lambda: file.read(_CHUNK), b""), None, total)

    def _receive(
        self, chunks: Iterable[bytes], begun: _Begun | None, total: int | None = None, validator: str = ""
    ) -> None:
        """Append the chunks to what has `begun`, or write them to a new file."""
        total = begun.total if begun else total
        with self._open_partial() as file, self._bar(total, begun) as bar:
            if begun is None:
                file.truncate()
                notes = {"url": self.url, "validator": validator, "total": total}
                with replacing(self.notes) as path:  # once the old bytes are gone: these notes are not theirs
                    path.write_text(json.dumps(notes), encoding="utf-8")
            else:
                file.seek(begun.offset)
            for chunk in chunks:
                if file.tell() == 0 and len(chunk) >= 64:  # a shorter one is checked at the end
                    self._check_head(chunk)
                if file.tell() + len(chunk) > self.limit:
                    self._discard()
                    raise DownloadError(f"{self._expected()}, got more")
                file.write(chunk)
                bar.update(len(chunk))
            if total is not None and file.tell() < total:
                raise _BrokenOffError(f"the connection ended at {file.tell()} of {total} bytes")

    def _open_partial(self) -> BinaryIO:
        """The partial file, which is our own: not a link to another file."""
        with contextlib.suppress(FileNotFoundError):
            info = self.partial.lstat()
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
                self.partial.unlink()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        return os.fdopen(os.open(self.partial, flags, 0o666), "r+b")

    def _begun(self) -> _Begun | None:
        """The transfer that is in the partial file; None if this URL's server cannot be asked to continue it."""
        notes = read_json(self.notes) or {}
        offset, total, validator = self._bytes_there(), notes.get("total"), notes.get("validator")
        if (
            notes.get("url") == self.url
            and type(total) is int
            and 0 < offset < total
            and isinstance(validator, str)
            and re.fullmatch("[ -~]+", validator)
        ):
            return _Begun(offset, total, validator)
        return None

    def _bytes_there(self) -> int:
        try:
            info = self.partial.lstat()
        except FileNotFoundError:
            return 0
        return info.st_size if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 else 0

    def _finish(self, check: Callable[[Path], object] | None) -> str:
        """Check what came and give it its name. A wrong file is deleted."""
        try:
            got = self._checked_digest()
            if check is not None:
                check(self.partial)
        except WeightsError as error:
            self._discard()
            raise _WrongFileError(f"{str(error).removeprefix(f'{self.partial}: ')}; deleted") from None
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        self.notes.unlink(missing_ok=True)
        os.replace(self.partial, self.target)
        return got

    def _checked_digest(self) -> str:
        with self.partial.open("rb") as file:
            self._check_head(file.read(64))
        if self.size not in (None, self._bytes_there()):
            raise DownloadError(f"{self._expected()}, got {self._bytes_there()}")
        got = sha256_of(self.partial)
        if not got.startswith(self.sha256 or ""):
            raise DownloadError(f"expected SHA-256 {self.sha256}, got {got}")
        return got

    def _check_head(self, head: bytes) -> None:
        if find_format(head) is None:
            self._discard()
            raise DownloadError(f"expected a file of weights, got {describe(head)}")

    def _check_total(self, total: int | None) -> None:
        """Before anything is transferred, as far as the size is known."""
        if total is None:
            return
        if total > self.limit or self.size not in (None, total):
            raise DownloadError(f"{self._expected()}, the server offers {total}")
        self._check_space(total)

    def _expected(self) -> str:
        if self.size is not None:
            return f"expected {self.size} bytes"
        return f"expected at most {self.limit} bytes (RESNEXT_MAX_DOWNLOAD=MEGABYTES allows more)"

    def _check_space(self, total: int) -> None:
        needed = total - self._bytes_there()
        free = shutil.disk_usage(self.target.parent).free
        if free < needed:
            folder = self.target.parent
            raise OSError(errno.ENOSPC, f"not enough space: {needed} bytes are needed, {free} are free", str(folder))

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def _bar(self, total: int | None, begun: _Begun | None) -> Any:
        return progress_bar(
            total,
            show=self.progress,
            desc=self.target.name,
            initial=begun.offset if begun else 0,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
        )


def _continues(response: requests.Response, begun: _Begun | None) -> bool:
    """Whether a partial answer is the rest of the very file that was begun."""
    match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+)", response.headers.get("Content-Range", ""))
    if match is None or begun is None:
        return False
    return (match[1], match[2], _validator(response)) == (str(begun.offset), str(begun.total), begun.validator)


def _validator(response: requests.Response) -> str:
    """What If-Range takes: a strong ETag, else the date of last modification, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def content_length(response: requests.Response) -> int | None:
    """The bytes that a server announces; None where it does not, or writes no number."""
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body. Raises _BrokenOffError where the connection breaks."""
    import urllib3

    try:
        yield from response.raw.stream(_CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise _BrokenOffError(root_cause(error)) from None


def _open_session(patience: Patience) -> requests.Session:
    """A session that retries as `patience` says, and fetches only what `check_url` allows."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class BoundedRetry(Retry):
        def get_retry_after(self, response: Any) -> float | None:
            wait = super().get_retry_after(response)
            return None if wait is None else min(wait, patience.longest_wait)

    class CheckingAdapter(HTTPAdapter):
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
    session.headers["Accept-Encoding"] = "identity"  # a range of a compressed body is useless
    for scheme in ("https://", "http://"):
        session.mount(scheme, CheckingAdapter(max_retries=retry))
    return session


def root_cause(error: BaseException) -> str:
    """The innermost cause of an error in one line, without urllib3's classes and their addresses in memory."""
    while inner := [
        cause for cause in (getattr(error, "reason", None), *error.args) if isinstance(cause, BaseException)
    ]:
        error = inner[0]
    text = _CONNECTION.sub("", " ".join(str(error).split())) or type(error).__name__
    return text[2:-2] if text.startswith("('") else text  # some errors of urllib3 are pairs: connection, text
