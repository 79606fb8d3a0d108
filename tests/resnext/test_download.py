"""The downloader against a real server on loopback that does everything servers do wrong."""

import hashlib
import os
import random
import shutil
import time

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from resnext.download import download
from resnext.transport import DownloadError, Patience, check_url

BODY = random.Random(0).randbytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(BODY).hexdigest()
IMPATIENT = Patience(connect=2, read=0.4, retries=2, backoff=0.01, longest_wait=0.3)


class Server:
    """`httpserver` with one file, and a list of faults: each request takes one, until they are used up."""

    def __init__(self, httpserver, body=BODY, ranges=True):
        self.body, self.ranges, self.etag = body, ranges, '"one"'
        self.requests, self.faults = [], []
        self.url = httpserver.url_for("/weights.pth")
        httpserver.expect_request("/weights.pth").respond_with_handler(self.answer)

    def answer(self, request):
        self.requests.append(request)
        if self.faults:
            return self.faults.pop(0)(request)
        return self.whole(request)

    def whole(self, request):
        response = Response(self.body, content_type="application/octet-stream")
        if self.etag:
            response.headers["ETag"] = self.etag
        if self.ranges:
            response.make_conditional(request, accept_ranges=True, complete_length=len(self.body))
        return response

    def broken(self, after, stall=0.0):
        """The answer, cut off (or silent) after so many bytes of it."""

        def fault(request):
            whole = self.whole(request)
            data, length = whole.get_data(), whole.headers["Content-Length"]

            def body():
                yield data[:after]
                time.sleep(stall)

            response = Response(body(), whole.status_code, whole.headers, direct_passthrough=True)
            response.headers["Content-Length"] = length
            return response

        return fault


def status(code, **headers):
    return lambda request: Response("no", code, headers)


@pytest.fixture(scope="session")
def make_httpserver():
    """As pytest_httpserver's own, but with a thread for each request: one that stalls must not hold up the next."""
    with HTTPServer(threaded=True) as running:
        yield running


@pytest.fixture
def server(httpserver):
    return Server(httpserver)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "weights.pth"


def fetch(server, target, **options):
    options = {"sha256": SHA256, "size": len(BODY), "progress": False, "patience": IMPATIENT, **options}
    return download(options.pop("urls", None) or [server.url], target, **options)


def assert_arrived(target, body=BODY):
    assert target.read_bytes() == body
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def refused(server, target, message, **options):
    with pytest.raises(DownloadError, match=message):
        fetch(server, target, **options)
    assert not target.exists()


@pytest.mark.parametrize("known", [True, False])
def test_whole_file(server, target, known):
    options = {} if known else {"sha256": None, "size": None}
    assert fetch(server, target, **options) == SHA256
    assert_arrived(target)
    assert len(server.requests) == 1


@pytest.mark.parametrize("after", [0, 1, 1000, 2**20, len(BODY) - 1])
def test_a_dropped_connection_is_resumed(server, target, after):
    server.faults = [server.broken(after)]
    fetch(server, target)
    assert_arrived(target)
    assert len(server.requests) == 2
    again = server.requests[1].headers
    assert again.get("Range") == (f"bytes={after}-" if after else None)
    assert again.get("If-Range") == ('"one"' if after else None)


def test_a_line_that_breaks_again_and_again_gets_there_as_long_as_it_gets_on(server, target):
    server.faults = [server.broken(300_000)] * 9
    fetch(server, target)
    assert_arrived(target)
    assert len(server.requests) == 10


def test_the_next_process_goes_on_where_the_last_was_stopped(server, target):
    server.faults = [server.broken(1000)] + [status(500)] * 9
    refused(server, target, "HTTP status 500")
    assert sorted(p.name for p in target.parent.iterdir()) == ["weights.pth.partial", "weights.pth.partial.json"]
    server.faults = []
    fetch(server, target)
    assert_arrived(target)
    assert server.requests[-1].headers["Range"] == "bytes=1000-"


def test_a_server_without_ranges_starts_over(httpserver, target):
    server = Server(httpserver, ranges=False)
    server.faults = [server.broken(5000)]
    fetch(server, target)
    assert_arrived(target)


def test_a_server_without_validators_is_not_asked_to_resume(server, target):
    server.etag = ""
    server.faults = [server.broken(5000)]
    fetch(server, target)
    assert_arrived(target)
    assert "Range" not in server.requests[1].headers


def test_a_file_that_changed_while_partial_starts_over(server, target):
    other = BODY[::-1]

    def change(request):
        server.body, server.etag = other, '"two"'
        return server.whole(request)

    server.faults = [server.broken(5000), change]
    fetch(server, target, sha256=None)
    assert_arrived(target, other)


def test_a_range_that_the_server_cannot_serve_starts_over(server, target):
    server.faults = [server.broken(5000), status(416)]
    fetch(server, target)
    assert_arrived(target)


def test_a_wrong_range_starts_over(server, target):
    def other_range(request):
        return Response(BODY[7:], 206, {"Content-Range": f"bytes 7-{len(BODY) - 1}/{len(BODY)}"})

    server.faults = [server.broken(5000), other_range]
    fetch(server, target)
    assert_arrived(target)


def test_503_twice_then_200(server, target):
    server.faults = [status(503), status(503)]
    fetch(server, target)
    assert_arrived(target)


@pytest.mark.parametrize("wait", ["0", "1", "3600"])
def test_429_with_retry_after_is_waited_for_within_bounds(server, target, wait):
    server.faults = [status(429, **{"Retry-After": wait})]
    started = time.monotonic()
    fetch(server, target)
    assert_arrived(target)
    assert time.monotonic() - started >= min(float(wait), IMPATIENT.longest_wait)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_other_statuses_are_final(server, target, code):
    server.faults = [status(code)]
    refused(server, target, f"HTTP status {code}")
    assert len(server.requests) == 1


def test_a_stalled_body_is_given_up_and_resumed(server, target):
    server.faults = [server.broken(2**20, stall=1.0)]
    fetch(server, target)
    assert_arrived(target)
    assert server.requests[1].headers["Range"] == f"bytes={2**20}-"


def test_a_dead_server_is_given_up(server, target):
    server.faults = [server.broken(0)] * 9
    refused(server, target, "gave up after 3 tries without progress")


def test_nobody_listens(server, target):
    refused(server, target, "Connection refused", urls=["http://127.0.0.1:9/weights.pth"])


def test_a_wrong_digest_deletes_the_file_and_says_both(server, target):
    refused(server, target, f"expected SHA-256 {'0' * 64}, got {SHA256}; deleted", sha256="0" * 64)
    assert not os.listdir(target.parent)


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"x"])
def test_short_and_long_bodies(server, target, body):
    server.body = body
    refused(server, target, f"expected {len(BODY)} bytes, the server offers {len(body)}")


def chunked(body):
    """No Content-Length: nothing tells in advance how much will come."""
    return lambda request: Response(iter([body]), 200)


def test_short_and_long_bodies_without_a_content_length(server, target):
    server.faults = [chunked(BODY[:-1])]
    refused(server, target, f"expected {len(BODY)} bytes, got {len(BODY) - 1}; deleted")
    server.faults = [chunked(BODY + b"x")]
    refused(server, target, f"expected {len(BODY)} bytes, got more")


def test_an_empty_body(server, target):
    server.body = b""
    refused(server, target, "got an empty one", sha256=None, size=None)


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [(b"<!DOCTYPE html><p>Not here", "text/html; charset=utf-8", "got an HTML page"),
     (b"\n <html>", "application/octet-stream", "got an HTML page"),
     (b"version https://git-lfs.github.com/spec/v1\noid", "text/plain", "got a Git LFS pointer")],
)  # fmt: skip
def test_pages_and_pointers_with_status_200_are_recognised(server, target, body, content_type, message):
    server.faults = [lambda request: Response(body, 200, content_type=content_type)]
    refused(server, target, message, sha256=None, size=None)


def test_a_compressed_body_is_refused(server, target):
    server.faults = [lambda request: Response(b"x", 200, {"Content-Encoding": "gzip"})]
    refused(server, target, "got Content-Encoding gzip", size=None)
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_redirect_is_followed(httpserver, server, target):
    httpserver.expect_request("/old").respond_with_data("", 302, {"Location": server.url})
    fetch(server, target, urls=[httpserver.url_for("/old")])
    assert_arrived(target)


def test_a_redirect_to_plain_http_elsewhere_is_not_followed(httpserver, server, target):
    httpserver.expect_request("/old").respond_with_data("", 302, {"Location": "http://example.com/weights.pth"})
    refused(server, target, "refused http://example.com/weights.pth", urls=[httpserver.url_for("/old")])


def test_mirrors_are_tried_in_order(httpserver, server, target):
    asked = []
    httpserver.expect_request("/first").respond_with_handler(lambda r: asked.append("first") or Response("", 404))
    httpserver.expect_request("/third").respond_with_handler(lambda r: asked.append("third") or Response("", 404))
    fetch(server, target, urls=[httpserver.url_for("/first"), server.url, httpserver.url_for("/third")])
    assert_arrived(target)
    assert asked == ["first"]


def test_when_all_mirrors_fail_each_is_named(httpserver, target):
    urls = [httpserver.url_for("/a"), httpserver.url_for("/b")]
    for path, code in (("/a", 404), ("/b", 403)):
        httpserver.expect_request(path).respond_with_data("", code)
    with pytest.raises(DownloadError, match=rf"{urls[0]}: HTTP status 404 .*; {urls[1]}: HTTP status 403"):
        download(urls, target, progress=False, patience=IMPATIENT)
    with pytest.raises(DownloadError, match="no URL"):
        download([], target)


def test_file_urls(target, tmp_path_factory):
    source = tmp_path_factory.mktemp("mirror") / "with space.pth"
    source.write_bytes(BODY)
    assert fetch(None, target, urls=[source.as_uri()]) == SHA256
    assert_arrived(target)
    target.unlink()
    refused(None, target, "no such file", urls=[source.with_name("absent").as_uri()])
    refused(None, target, "expected SHA-256", urls=[source.as_uri()], sha256="0" * 64)


def test_a_full_disk_is_found_out_before_the_transfer(server, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OSError, match=f"not enough space: {len(BODY)} bytes are needed, 1000 are free"):
        fetch(server, target)
    assert server.requests == []
    with pytest.raises(OSError, match=f"not enough space: {len(BODY)} bytes are needed, 1000 are free"):
        fetch(server, target, size=None)  # then the server says how much it is
    assert not target.with_name("weights.pth.partial").exists()


def test_a_partial_file_that_is_whole_needs_no_transfer(server, target):
    server.faults = [server.broken(1000), *[status(404)] * 2]
    refused(server, target, "404")
    target.with_name("weights.pth.partial").write_bytes(BODY)
    server.requests.clear()
    fetch(server, target)
    assert_arrived(target)
    assert server.requests == []


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar(server, target, capsys, progress):
    fetch(server, target, progress=progress)
    assert ("weights.pth: 100%" in capsys.readouterr().err) == progress


@pytest.mark.parametrize(
    "url", ["http://example.com/a", "ftp://127.0.0.1/a", "//127.0.0.1/a", "a.pth", "http://127.0.0.1.example.com/a"]
)
def test_urls_that_are_refused(url, target):
    with pytest.raises(DownloadError, match="refused"):
        download([url], target)


@pytest.mark.parametrize("url", ["https://example.com/a", "http://localhost:1/a", "http://[::1]:1/a", "file:///a"])
def test_urls_that_are_allowed(url):
    assert check_url(url) == url


@pytest.mark.parametrize("name", ["a\\b", "..", "c:d"])
def test_names_with_path_separators_are_refused(tmp_path, name):
    with pytest.raises(DownloadError, match="expected a plain name"):
        download(["https://example.com/a"], tmp_path / name)
