"""The downloader against a real server on loopback: whole files, resumed ones, and every wrong answer."""

import hashlib
import json
import os
import random
import re
import shutil
import time

import pytest
from werkzeug import Response

from resnext.weights.download import (
    DownloadError,
    Patience,
    check_url,
    clear_partial,
    download,
    is_url,
    local_path,
    open_url,
    root_cause,
)
from resnext.weights.files import WeightsError
from tests.helpers.server import answer, status, stream

BODY = b"PK\3\4" + random.Random(0).randbytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(BODY).hexdigest()
IMPATIENT = Patience(retries=2, backoff=0.01)


@pytest.fixture(autouse=True)
def served(home, site):
    """No settings from outside, and a file on the server."""
    site.files["weights.pth"] = BODY
    return site


@pytest.fixture
def target(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "weights.pth"


def fetch(site, target, **options):
    options = {"sha256": SHA256, "size": len(BODY), "progress": False, "patience": IMPATIENT, **options}
    return download(options.pop("urls", None) or [f"{site.url}/weights.pth"], target, **options)


def fetch_unknown(site, target, **options):
    """A file of which neither size nor digest is known."""
    return fetch(site, target, **{"sha256": None, "size": None, **options})


def assert_arrived(target, body=BODY):
    assert target.read_bytes() == body
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def refused(site, target, message, **options):
    with pytest.raises(DownloadError, match=message):
        fetch(site, target, **options)
    assert not target.exists()


def refused_unknown(site, target, message, **options):
    refused(site, target, message, **{"sha256": None, "size": None, **options})


# --- whole files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_whole_file(site, target, known):
    assert (fetch if known else fetch_unknown)(site, target) == SHA256
    assert_arrived(target)
    assert len(site.requests) == 1


def test_503_twice_then_200(site, target):
    site.faults = [status(503), status(503)]
    fetch(site, target)
    assert_arrived(target)


@pytest.mark.parametrize(("wait", "waited"), [("0", []), ("1", [1.0]), ("3600", [120.0])])
def test_429_with_retry_after_is_waited_for_within_bounds(site, target, monkeypatch, wait, waited):
    site.faults = [status(429, Retry_After=wait)]
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    fetch(site, target)
    assert_arrived(target)
    assert waits == waited


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_other_statuses_are_final(site, target, code):
    site.faults = [status(code)]
    refused(site, target, f"HTTP status {code}")
    assert len(site.requests) == 1


def test_a_dead_server_is_given_up(site, target):
    site.faults = [site.broken(0)] * 9
    refused(site, target, "gave up after 3 tries without progress")


def test_nobody_listens(site, target):
    refused(site, target, "Connection refused", urls=["http://127.0.0.1:9/weights.pth"])


def test_the_file_gets_its_name_in_one_step(site, target, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(site, target)
    assert not target.exists()
    fetch(site, target)
    assert_arrived(target)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar(site, target, capsys, progress):
    fetch(site, target, progress=progress)
    assert ("weights.pth: 100%" in capsys.readouterr().err) == progress


def test_a_redirect_is_followed(site, target):
    site.faults = [status(302, Location=f"{site.url}/weights.pth")]
    fetch(site, target, urls=[f"{site.url}/old"])
    assert_arrived(target)


def test_mirrors_are_tried_in_order(site, target):
    fetch(site, target, urls=[f"{site.url}/{name}" for name in ("first", "weights.pth", "third")])
    assert_arrived(target)
    assert site.asked == ["first", "weights.pth"]


def test_when_all_mirrors_fail_each_is_named(site, target):
    site.faults = [status(404), status(403)]
    with pytest.raises(DownloadError, match=rf"{site.url}/a: HTTP status 404 .*; {site.url}/b: HTTP status 403"):
        fetch(site, target, urls=[f"{site.url}/a", f"{site.url}/b"])
    with pytest.raises(DownloadError, match="no URL"):
        download([], target)


def test_file_urls(site, target, tmp_path):
    source = tmp_path / "with space.pth"
    source.write_bytes(BODY)
    assert fetch(site, target, urls=[source.as_uri()]) == SHA256
    assert_arrived(target)
    target.unlink()
    for absent in (source.with_name("absent"), source / "in a file", source.parent):
        refused(site, target, "no such file", urls=[absent.as_uri()])
    fetch(site, target, urls=[source.parent.as_uri(), source.as_uri()])
    target.unlink()
    refused(site, target, "expected SHA-256", urls=[source.as_uri()], sha256="0" * 64)


# --- resumed files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 1000, 2**20, len(BODY) - 1])
def test_a_dropped_connection_is_resumed(site, target, after):
    site.faults = [site.broken(after)]
    fetch(site, target)
    assert_arrived(target)
    assert len(site.requests) == 2
    again = site.requests[1].headers
    assert again.get("Range") == (f"bytes={after}-" if after else None)
    assert again.get("If-Range") == (f'"{len(BODY)}"' if after else None)


def test_a_line_that_breaks_again_and_again_gets_there_as_long_as_it_gets_on(site, target):
    site.faults = [site.broken(300_000)] * 9
    fetch(site, target)
    assert_arrived(target)
    assert len(site.requests) == 10


def test_a_stalled_body_is_given_up_and_resumed(site, target):
    site.faults = [site.broken(2**20, silent=True)]
    fetch(site, target, patience=Patience(read=0.4, retries=99, backoff=0.01))
    assert_arrived(target)
    assert site.requests[1].headers["Range"] == f"bytes={2**20}-"


def break_off(site, target, after=1000):
    """What a process leaves that was stopped in the middle of a transfer."""
    site.faults = [site.broken(after), status(404)]
    refused(site, target, "HTTP status 404")
    site.faults = []
    site.requests.clear()
    return target.with_name("weights.pth.partial")


def test_the_next_process_goes_on_where_the_last_was_stopped(site, target):
    partial = break_off(site, target)
    assert sorted(p.name for p in target.parent.iterdir()) == [partial.name, f"{partial.name}.json"]
    fetch(site, target)
    assert_arrived(target)
    assert site.requests[-1].headers["Range"] == "bytes=1000-"


def test_a_server_without_ranges_starts_over(site, target):
    site.ranges = False
    site.faults = [site.broken(5000)]
    fetch(site, target)
    assert_arrived(target)


def test_a_server_without_validators_is_not_asked_to_resume(site, target):
    site.etag = ""
    site.faults = [site.broken(5000)]
    fetch(site, target)
    assert_arrived(target)
    assert "Range" not in site.requests[1].headers


def test_a_file_that_changed_while_partial_starts_over(site, target):
    other = BODY[:4] + BODY[:3:-1]

    def change(request):
        site.files["weights.pth"], site.etag = other, '"two"'
        return site.whole(request)

    site.faults = [site.broken(5000), change]
    fetch_unknown(site, target)
    assert_arrived(target, other)


def test_a_range_that_the_server_cannot_serve_starts_over(site, target):
    site.faults = [site.broken(5000), status(416)]
    fetch(site, target)
    assert_arrived(target)


OTHER = BODY[:4] + bytes(len(BODY) - 4)
RIGHT = {"ETag": f'"{len(BODY)}"', "Content_Range": f"bytes 5000-{len(BODY) - 1}/{len(BODY)}"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ETag": '"two"'},
        {"ETag": ""},
        {"Content_Range": f"bytes 5001-{len(BODY) - 1}/{len(BODY)}"},
        {"Content_Range": f"bytes 5000-{len(BODY)}/{len(BODY) + 1}"},
        {"Content_Range": f"bytes 5000-{len(BODY) - 1}/*"},
        {"Content_Range": f"bytes ²-{len(BODY) - 1}/{len(BODY)}"},
        {"Content_Range": "nonsense"},
        {"Content_Range": ""},
    ],
)
def test_a_rest_of_another_file_is_never_appended(site, target, wrong):
    """Neither a digest nor a size is known: only the server's own words tell the two files apart."""
    site.faults = [site.broken(5000), answer(OTHER[5000:], 206, **{**RIGHT, **wrong})]
    fetch_unknown(site, target)
    assert_arrived(target)


def test_a_rest_with_the_date_of_another_file_is_never_appended(site, target):
    site.etag = ""

    def dated(date):
        def fault(request):
            response = site.whole(request)
            response.headers["Last-Modified"] = date
            return stream([response.get_data()[:5000]], response)

        return fault

    other = {"Content_Range": RIGHT["Content_Range"], "Last_Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}
    site.faults = [dated("Mon, 01 Jan 2024 00:00:00 GMT"), answer(OTHER[5000:], 206, **other)]
    fetch_unknown(site, target)
    assert_arrived(target)
    assert site.requests[1].headers["If-Range"] == "Mon, 01 Jan 2024 00:00:00 GMT"


def test_the_right_rest_is_appended(site, target):
    site.faults = [site.broken(5000), answer(BODY[5000:], 206, **RIGHT)]
    fetch_unknown(site, target)
    assert_arrived(target)
    assert len(site.requests) == 2


def test_a_part_that_nobody_asked_for_is_refused(site, target):
    site.faults = [answer(BODY[:5000], 206, Content_Range=f"bytes 0-4999/{len(BODY)}")]
    refused_unknown(site, target, "the whole file was asked for, and the server sent a part of it")
    assert not list(target.parent.iterdir())


def test_a_partial_file_with_wrong_bytes_is_fetched_once_more(site, target):
    for wrong in (bytes(1000), bytes(len(BODY))):
        partial = break_off(site, target)
        partial.write_bytes(wrong)
        fetch(site, target)
        assert_arrived(target)
        target.unlink()


def test_a_partial_file_that_is_whole_needs_no_transfer(site, target):
    break_off(site, target).write_bytes(BODY)
    fetch(site, target)
    assert_arrived(target)
    assert site.requests == []


@pytest.mark.parametrize(
    "notes",
    [b"", b"\xff", b"[]", b"{", b"[" * 100_000, b"null", b'{"url": 1}', bytes(2**20),
     {"total": "9"}, {"total": True}, {"total": -1}, {"total": 10**400}, {"total": None}, {"total": 999},
     {"validator": None}, {"validator": ""}, {"validator": 'a"\r\nCookie: b'}, {"validator": "²"}, {"validator": ["x"]},
     {"url": "https://example.com/"}, {"url": None}],
    ids=lambda notes: repr(notes)[:30],
)  # fmt: skip
def test_damaged_notes_of_a_partial_file_start_over(site, target, notes):
    partial = break_off(site, target)
    file = partial.with_name(f"{partial.name}.json")
    file.write_bytes(notes if isinstance(notes, bytes) else json.dumps(json.loads(file.read_text()) | notes).encode())
    if notes == {"total": 10**400}:  # here the expected value is the wrong one
        site.faults = [status(416)]
    fetch_unknown(site, target)
    assert_arrived(target)


def test_notes_that_are_a_pipe(site, target):
    partial = break_off(site, target)
    notes = partial.with_name(f"{partial.name}.json")
    notes.unlink()
    os.mkfifo(notes)
    fetch_unknown(site, target)
    assert_arrived(target)


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("suffix", [".partial", ".partial.json"])
def test_a_partial_file_that_is_a_link_is_not_followed(site, target, tmp_path, link, suffix):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 1000)
    link(victim, target.with_name(target.name + suffix))
    fetch_unknown(site, target)
    assert_arrived(target)
    assert victim.read_bytes() == b"precious" * 1000


def test_a_partial_file_that_is_a_pipe(site, target):
    os.mkfifo(target.with_name(target.name + ".partial"))
    fetch_unknown(site, target)
    assert_arrived(target)


def test_abandoned_transfers_are_cleared_after_a_week(site, target):
    partial = break_off(site, target)
    os.utime(f"{partial}.json", (time.time() - 6 * 86_400,) * 2)
    clear_partial(target.parent.parent)
    assert len(list(target.parent.iterdir())) == 2
    os.utime(f"{partial}.json", (time.time() - 8 * 86_400,) * 2)
    clear_partial(target.parent.parent)
    assert not list(target.parent.iterdir())


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_wrong_digest_deletes_the_file_and_says_both(site, target):
    refused(site, target, f"expected SHA-256 {'0' * 64}, got {SHA256}; deleted", sha256="0" * 64)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"x"])
def test_short_and_long_bodies(site, target, body):
    site.files["weights.pth"] = body
    refused(site, target, f"expected {len(BODY)} bytes, the server offers {len(body)}")


def test_short_and_long_bodies_without_a_content_length(site, target):
    site.faults = [answer([BODY[:-1]])]
    refused(site, target, f"expected {len(BODY)} bytes, got {len(BODY) - 1}; deleted")
    site.faults = [answer([BODY + b"x"])]
    refused(site, target, f"expected {len(BODY)} bytes, got more")
    assert not list(target.parent.iterdir())


def test_a_body_whose_end_nothing_tells_is_refused(site, target):
    """The server closes the connection at the end of such a body, and so does one that dies."""
    site.faults = [answer([BODY[:5000]], Content_Length="unknown")]
    refused_unknown(site, target, "does not say how long the file is, and no digest is known")
    site.faults = [answer([BODY], Content_Length="unknown")]
    fetch(site, target, size=None)
    assert_arrived(target)


def test_a_body_without_a_length_that_breaks_off(site, target):
    def breaks(request):
        def body():
            yield BODY[:5000]
            raise ConnectionError

        return Response(body())

    site.faults = [breaks]
    fetch_unknown(site, target)
    assert_arrived(target)
    assert "Range" not in site.requests[1].headers


@pytest.mark.parametrize("length", ["²", "-5", "many", "9" * 30, ""])
def test_a_content_length_that_is_no_number(site, target, length):
    site.faults = [answer([BODY], Content_Length=length)] * 9
    with pytest.raises(DownloadError):
        fetch_unknown(site, target)
    assert not target.exists()


@pytest.mark.parametrize("stated", [True, False])
def test_a_file_larger_than_the_user_allows(site, target, monkeypatch, stated):
    monkeypatch.setenv("RESNEXT_MAX_DOWNLOAD", "3")
    site.faults = [] if stated else [answer([BODY])]
    got = f"the server offers {len(BODY)}" if stated else "got more"
    message = re.escape(f"expected at most 3000000 bytes (RESNEXT_MAX_DOWNLOAD=MEGABYTES allows more), {got}")
    refused(site, target, message, size=None)
    assert not list(target.parent.iterdir())


def test_a_limit_of_the_record(site, target):
    refused_unknown(site, target, "expected at most 1000 bytes", limit=1000)


def test_a_setting_that_is_no_number(site, target, monkeypatch):
    monkeypatch.setenv("RESNEXT_MAX_DOWNLOAD", "much")
    refused_unknown(site, target, "RESNEXT_MAX_DOWNLOAD=much: expected a number of megabytes")


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"", "got an empty file"),
     (b"<!DOCTYPE html><p>Not here", "got an HTML or XML page"),
     (b"\n <html>", "got an HTML or XML page"),
     (b"\xef\xbb\xbf<?xml version", "got an HTML or XML page"),
     (b"version https://git-lfs.github.com/spec/v1\noid", "got a Git LFS pointer"),
     (b'{"error": "not found"}', "got something that starts with"),
     (b'{"err": {"code": 404}}', "got something that starts with"),
     (b"no", "got something that starts with b'no'"),
     (b"\x89PNG\r\n\x1a\n", "got something that starts with")],
)  # fmt: skip
@pytest.mark.parametrize("stated", [True, False])
def test_what_is_no_weights_by_its_first_bytes(site, target, body, message, stated):
    site.faults = [answer(body if stated else [body])] * 9
    refused(site, target, message, size=None)
    assert not list(target.parent.iterdir())


def test_what_the_caller_does_not_accept_is_deleted(site, target):
    def check(path):
        raise WeightsError(f"{path}: expected other weights")

    refused_unknown(site, target, r"weights\.pth: expected other weights; deleted$", check=check)
    assert not list(target.parent.iterdir())


def test_a_compressed_body_is_refused(site, target):
    site.faults = [answer(b"x", Content_Encoding="gzip")]
    refused(site, target, "got Content-Encoding gzip", size=None)
    assert site.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "place",
    ["http://example.com/a", "http://[::1", "http://127.0.0.1:99999/", "https://", "ftp://127.0.0.1/", "file:///etc/passwd",
     "http://\x00/", "https://a\ud800b/", "//", "https://.example.com/"],
)  # fmt: skip
def test_redirects_that_lead_nowhere(site, target, place):
    def redirect(request):
        response = Response("", 302)
        response.autocorrect_location_header = False
        response.headers["Location"] = place.encode("utf-8", "surrogatepass").decode("latin-1")
        return response

    site.faults = [redirect] * 99
    refused(site, target, f"{site.url}/weights.pth: ")


def test_a_full_disk_is_found_out_before_the_transfer(site, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OSError, match=f"not enough space: {len(BODY)} bytes are needed, 1000 are free"):
        fetch(site, target)
    assert site.requests == []
    with pytest.raises(OSError, match=f"not enough space: {len(BODY)} bytes are needed, 1000 are free"):
        fetch(site, target, size=None)  # then the server says how much it is
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("name", ["a\\b", "..", "c:d", ".hidden", "a\0b", "a\nb", "a\ud800"])
def test_names_that_are_not_plain_are_refused(tmp_path, name):
    with pytest.raises(DownloadError, match="expected a plain name"):
        download(["https://example.com/a"], tmp_path / name)


# --- URLs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://example.com/a", "ftp://127.0.0.1/a", "//127.0.0.1/a", "a.pth", "http://127.0.0.1.example.com/a", "http://[",
     "file://other/a", "http://127.0.0.1:99999/a", "https:///a", "https://a/\0", "file:///%00", "https://a/\ud800", ""],
)  # fmt: skip
def test_urls_that_are_refused(url, target):
    with pytest.raises(DownloadError, match="refused"):
        download([url], target)


@pytest.mark.parametrize("url", ["https://example.com/a", "http://localhost:1/a", "http://[::1]:1/a", "file:///a"])
def test_urls_that_are_allowed(url):
    check_url(url)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("https://a/b", True), ("file:///a", True), ("s3+x://a", True), ("a.pth", False), ("/a://b", False),
     ("C:/a", False), ("C://a", False), ("", False), (None, False), (b"https://a", False)],
)  # fmt: skip
def test_what_is_a_url(text, expected):
    assert is_url(text) is expected


def test_the_local_path_of_a_place(tmp_path):
    path = tmp_path / "a b.pth"
    assert local_path(path.as_uri()) == path
    assert local_path(str(path)) == path
    assert local_path("https://a/b") is None


# --- one answer ----------------------------------------------------------------------------------------------------


def test_open_url(site):
    with pytest.raises(DownloadError, match="HTTP status 404"), open_url(f"{site.url}/absent", IMPATIENT):
        pass
    with open_url(f"{site.url}/weights.pth", IMPATIENT) as response:
        assert response.content == BODY


def test_open_url_names_a_connection_that_breaks(site):
    site.faults = [site.broken(100)]
    with pytest.raises(DownloadError, match="100 bytes read"), open_url(f"{site.url}/weights.pth") as response:
        assert response.content


def test_open_url_while_offline(site, monkeypatch):
    monkeypatch.setenv("RESNEXT_OFFLINE", "yes")
    with pytest.raises(DownloadError, match="RESNEXT_OFFLINE=1 forbids downloads"), open_url(f"{site.url}/weights.pth"):
        pass
    assert site.requests == []


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("HTTPSConnection(host='a.b', port=443): Failed to resolve 'a.b'", "Failed to resolve 'a.b'"),
        ("HTTPConnectionPool(host='a.b', port=80): Read timed out.", "Read timed out."),
        ("<urllib3.connection.HTTPSConnection object at 0x7f12>: Failed to connect", "Failed to connect"),
        ("(<HTTPSConnection(host='a.b', port=443) at 0x7f12>, 'Connection to a.b timed out.')",
         "Connection to a.b timed out."),
        ("an image (of an HTTPSConnection)", "an image (of an HTTPSConnection)"),
    ],
)  # fmt: skip
def test_errors_of_connections_name_no_class(said, plain):
    assert root_cause(OSError(OSError(said))) == plain
