"""The downloader against a real server on loopback: whole files, resumed ones, and servers that need patience."""

import os
import time

import pytest
from werkzeug import Response

from tests.resnext.faulty_server import BODY, IMPATIENT, SHA256, Server, assert_arrived, fetch, refused, status


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


def test_a_partial_file_with_wrong_bytes_is_fetched_once_more(server, target):
    partial = target.with_name("weights.pth.partial")
    for wrong in (bytes(1000), bytes(len(BODY))):
        server.faults = [server.broken(1000), status(404)]
        refused(server, target, "404")
        partial.write_bytes(wrong)
        fetch(server, target)
        assert_arrived(target)
        target.unlink()


def test_a_partial_file_that_is_whole_needs_no_transfer(server, target):
    server.faults = [server.broken(1000), *[status(404)] * 2]
    refused(server, target, "404")
    target.with_name("weights.pth.partial").write_bytes(BODY)
    server.requests.clear()
    fetch(server, target)
    assert_arrived(target)
    assert server.requests == []


def test_the_file_gets_its_name_in_one_step(server, target, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, target)
    assert not target.exists()
    fetch(server, target)
    assert_arrived(target)
    assert len(server.requests) == 1


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar(server, target, capsys, progress):
    fetch(server, target, progress=progress)
    assert ("weights.pth: 100%" in capsys.readouterr().err) == progress
