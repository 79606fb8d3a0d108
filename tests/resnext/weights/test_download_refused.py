"""What the downloader does not accept: other files, pages, addresses, names, and disks that are full."""

import os
import shutil

import pytest
from werkzeug import Response

from resnext.weights.download import DownloadError, check_url, download
from tests.resnext.faulty_server import BODY, IMPATIENT, SHA256, assert_arrived, fetch, refused


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
     (b"\n <html>", "application/octet-stream", "got an HTML or XML page"),
     (b"\xef\xbb\xbf<?xml version", "application/octet-stream", "got an HTML or XML page"),
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
    for absent in (source.with_name("absent"), source / "in a file", source.parent):
        refused(None, target, "no such file", urls=[absent.as_uri()])
    fetch(None, target, urls=[source.parent.as_uri(), source.as_uri()])
    target.unlink()
    refused(None, target, "expected SHA-256", urls=[source.as_uri()], sha256="0" * 64)


def test_a_full_disk_is_found_out_before_the_transfer(server, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OSError, match=f"not enough space: {len(BODY)} bytes are needed, 1000 are free"):
        fetch(server, target)
    assert server.requests == []
    with pytest.raises(OSError, match=f"not enough space: {len(BODY)} bytes are needed, 1000 are free"):
        fetch(server, target, size=None)  # then the server says how much it is
    assert not target.with_name("weights.pth.partial").exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a",
        "ftp://127.0.0.1/a",
        "//127.0.0.1/a",
        "a.pth",
        "http://127.0.0.1.example.com/a",
        "http://[",
        "file://other/a",
    ],
)
def test_urls_that_are_refused(url, target):
    with pytest.raises(DownloadError, match="refused"):
        download([url], target)


@pytest.mark.parametrize("url", ["https://example.com/a", "http://localhost:1/a", "http://[::1]:1/a", "file:///a"])
def test_urls_that_are_allowed(url):
    check_url(url)


@pytest.mark.parametrize("name", ["a\\b", "..", "c:d"])
def test_names_with_path_separators_are_refused(tmp_path, name):
    with pytest.raises(DownloadError, match="expected a plain name"):
        download(["https://example.com/a"], tmp_path / name)
