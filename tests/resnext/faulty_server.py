"""A server that does everything servers do wrong, and what a download from it is checked by."""

import hashlib
import random
import time

import pytest
from werkzeug import Response

from resnext.weights.download import DownloadError, Patience, download

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
