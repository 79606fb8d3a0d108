"""How the downloader talks to servers: which URLs it may fetch, how long it waits, when it tries again."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import requests

_STATUSES_TO_RETRY = (408, 429, *range(500, 600))


class DownloadError(RuntimeError):
    """A file that could not be had. Says which URL, what was expected and what came."""


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


PATIENCE = Patience()


def check_url(url: str) -> str:
    """A URL that may be fetched: https, file, or http to this machine alone. Raises DownloadError."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise DownloadError(f"refused {url}: {error}") from None
    if parts.scheme == "http" and not _is_loopback(host):
        raise DownloadError(
            f"refused {url}: http is not safe against tampering; use https (http is for loopback alone)"
        )
    if parts.scheme == "file" and host not in ("", "localhost"):
        raise DownloadError(f"refused {url}: a file of another machine; expected file:///path")
    if parts.scheme not in ("http", "https", "file"):
        raise DownloadError(f"refused {url}: expected https://, file:// or http:// to loopback")
    return url


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
            check_url(request.url or "")  # also where a redirect leads
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
