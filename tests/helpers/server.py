"""A real server on loopback that has files, and does everything that servers do wrong."""

import re
import threading

from werkzeug import Response


class Site:
    """`httpserver` with files, and a list of faults: each request takes one, until they are used up.

    `asked` has the names that were asked for, `requests` the requests themselves. With `held` each answer waits until
    that event is set.
    """

    def __init__(self, httpserver):
        self.files, self.asked, self.requests, self.faults = {}, [], [], []
        self.held, self.ranges, self.etag = None, True, None
        self.over = threading.Event()  # set when the test is
        self.url = httpserver.url_for("").rstrip("/")
        httpserver.expect_request(re.compile("/.*")).respond_with_handler(self._answer)

    def _answer(self, request):
        self.asked.append(request.path.removeprefix("/"))
        self.requests.append(request)
        answer = self.faults.pop(0) if self.faults else self.whole
        if self.held:
            self.held.wait()
        return answer(request)

    def whole(self, request):
        """The right answer."""
        body = self.files.get(request.path.removeprefix("/"))
        if body is None:
            return Response("no", 404)
        response = Response(body, content_type="application/octet-stream")
        if self.etag != "":
            response.headers["ETag"] = self.etag or f'"{len(body)}"'
        if self.ranges:
            response.make_conditional(request, accept_ranges=True, complete_length=len(body))
        return response

    def broken(self, after, silent=False):
        """The right answer, cut off (or silent for the rest of the test) after so many bytes of it."""

        def fault(request):
            whole = self.whole(request)

            def body():
                yield whole.get_data()[:after]
                if silent:
                    self.over.wait()

            return stream(body(), whole)

        return fault


def stream(body, like):
    """Another body, bit by bit, with status and headers of an answer; it need not be of the length they state."""
    length = like.headers["Content-Length"]
    response = Response(body, like.status_code, like.headers, direct_passthrough=True)
    response.headers["Content-Length"] = length
    return response


def answer(body, status=200, **headers):
    """A fault: this very answer. Of a list of bytes as body no length is stated."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: Response(iter(body) if isinstance(body, list) else body, status, headers)


def status(code, **headers):
    """A fault: nothing but a status."""
    return answer("no", code, **headers)
