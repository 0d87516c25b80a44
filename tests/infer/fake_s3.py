"""An S3 on the loopback that counts requests and fails as it is told to; moto's is closer to Amazon's, and slower."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
Answer = int | str | None
Fault = Callable[[str, str], Answer]


class FakeS3(ThreadingHTTPServer):
    """Objects by bucket and key, such as "bucket/a.png"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        """Method and object of each request, LIST and prefix of a listing."""
        self.fault: Fault = lambda method, path: None
        """Status of an error, "cut" to close the connection in the middle of a content, "hang" to give no answer."""
        self.honours_conditions = True
        self.ended = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, method: str, path: str) -> int:
        """Number of requests for an object."""
        return self.requests.count((method, path))

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that the client has closed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeS3

    def log_message(self, *_: object) -> None:
        pass

    def _request(self, method: str) -> tuple[str, dict[str, list[str]], bytes] | None:
        """Read a request and return path, query and content; None if it got its answer by a fault."""
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        path = unquote(url.path).lstrip("/")
        if "list-type" in query:
            method, path = "LIST", f"{path.rstrip('/')}/{query.get('prefix', [''])[0]}"
        self.server.requests.append((method, path))
        fault = self.server.fault(method, path)
        size = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(size // 2 if fault == "cut" else size)
        if fault == "hang":
            self.server.ended.wait(5)
        if fault == "cut" and method == "GET":
            found = self.server.objects[path]
            self._answer(200, found[: len(found) // 2], {"Content-Length": str(len(found)), "ETag": _tag(found)})
        if isinstance(fault, int):
            code = {503: "SlowDown", 403: "AccessDenied"}.get(fault, "InternalError")
            self._answer(fault, f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode())
        self.close_connection = fault is not None
        return None if fault is not None else (path, query, content)

    def _answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        if not (request := self._request(self.command)):
            return
        path, query, _ = request
        if "list-type" in query:
            self._list(path, query)
        elif path.rstrip("/") == "bucket":
            self._answer(200)
        elif (content := self.server.objects.get(path)) is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            modified = {"ETag": _tag(content), "Last-Modified": formatdate(usegmt=True)}
            self._answer(200, content, modified)

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        if not (request := self._request("PUT")):
            return
        path, _, content = request
        with self.server.lock:
            there = self.server.objects.get(path)
            is_new, tag = self.headers.get("If-None-Match") == "*", self.headers.get("If-Match")
            refused = (is_new and there is not None) or (tag and (there is None or _tag(there) != tag))
            if refused and self.server.honours_conditions:
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.server.objects[path] = content
        self._answer(200, headers={"ETag": _tag(content)})

    def do_DELETE(self) -> None:
        if request := self._request("DELETE"):
            self.server.objects.pop(request[0], None)
            self._answer(204)

    def _list(self, path: str, query: dict[str, list[str]]) -> None:
        bucket, _, prefix = path.partition("/")
        after = query.get("continuation-token", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        keys = [key.removeprefix(f"{bucket}/") for key in self.server.objects]
        keys = sorted(key for key in keys if key.startswith(prefix) and key > after)
        folders = {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in keys if "/" in key[len(prefix) :]}
        if delimiter:
            keys = [key for key in keys if "/" not in key[len(prefix) :]]
        page = keys[: min(PAGE, int(query.get("max-keys", [str(PAGE)])[0]))]
        more = len(page) < len(keys)
        parts = [f"<IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"]
        parts += [f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"] if more else []
        for key in page:
            content = self.server.objects[f"{bucket}/{key}"]
            parts.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{escape(_tag(content))}</ETag><Size>{len(content)}</Size></Contents>"
            )
        for folder in sorted(folders) if delimiter else ():
            parts.append(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>")
        self._answer(200, f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode())


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@contextmanager
def started() -> Iterator[FakeS3]:
    """An empty S3."""
    server = FakeS3()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def settings(url: str) -> dict[str, Any]:
    """Environment variables with which an S3 is reached."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "AKIA-key-of-tests",
        "AWS_SECRET_ACCESS_KEY": "s3cret-of-tests/+x",
        "AWS_SESSION_TOKEN": "t0ken-of-tests==",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
