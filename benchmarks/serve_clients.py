"""Clients of `python -m benchmarks serve`: a server in a process of its own; good, wrong, slow and broken requests."""

import contextlib
import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.stress_runs import PROGRAM

LEAST_PATIENCE = 120.0
"""Seconds for a request, and for the start and the end of a server."""

DRIP_SECONDS = 0.5
"""Time between two bytes of a slow client."""


@dataclass(frozen=True)
class Answer:
    """An answer to a request."""

    status: int
    """HTTP status, 0 for a connection that ended without an answer."""
    body: bytes
    reason: str = ""
    """The line of the error, if it is one."""


NONE = Answer(0, b"")


class Server:
    """`cgan-infer serve` in a process of its own. Use it as a context manager, which ends it."""

    def __init__(self, model: Path, *options: str) -> None:
        command = [sys.executable, "-c", PROGRAM, "serve", "--port", "0", "--model", str(model), "--device", "cpu"]
        self._process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        self.port = 0

    def __enter__(self) -> Self:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return self
        raise SystemExit(f"cgan-infer serve failed with exit code {self._process.wait()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def rss_mib(self) -> float:
        """Return its resident memory in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> tuple[int, str]:
        """Wait for the end; return exit code and standard error."""
        _, said = self._process.communicate(timeout=LEAST_PATIENCE)
        return self._process.returncode, said


class Client:
    """A client that keeps its connection between good requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LEAST_PATIENCE)

    def post(self, body: bytes, content_type: str = "image/jpeg", query: str = "") -> Answer:
        """Post a body; a connection that the server has closed meanwhile is made again once."""
        try:
            return self._request("POST", f"/color{query}", body, content_type)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._connection.close()
            return self._request("POST", f"/color{query}", body, content_type)

    def get(self, path: str) -> Answer:
        """Get a path."""
        return self._request("GET", path, None, "")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _request(self, method: str, path: str, body: bytes | None, content_type: str) -> Answer:
        self._connection.request(method, path, body, {"Content-Type": content_type} if body is not None else {})
        response = self._connection.getresponse()
        try:
            content = response.read()
        except (OSError, http.client.HTTPException):
            return Answer(response.status, b"", "the answer was cut")
        return answer_of(response.status, content)


def answer_of(status: int, content: bytes) -> Answer:
    """Return an answer with the reason in it, if it is an error."""
    return Answer(status, content, json.loads(content)["error"] if status >= 400 else "")


def form(body: bytes, name: str = "photo") -> tuple[bytes, str]:
    """Return a multipart form with one part, and its content type."""
    head = f'--limit\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'
    return head.encode() + body + b"\r\n--limit--\r\n", "multipart/form-data; boundary=limit"


def sent(port: int, content: bytes, rest: bytes = b"", cut: bool = False) -> Answer:
    """Send raw bytes, then single bytes of `rest`, slowly; return the answer.

    Args:
        port: of the server.
        content: bytes that are sent at once.
        rest: bytes that are sent one by one.
        cut: end the connection after `content` without reading.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=LEAST_PATIENCE) as connection:
        connection.sendall(content)
        if cut:
            return NONE
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in rest:
                connection.sendall(bytes([byte]))
                connection.settimeout(DRIP_SECONDS)
                with contextlib.suppress(TimeoutError):
                    if connection.recv(1, socket.MSG_PEEK):
                        break
        connection.settimeout(LEAST_PATIENCE)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            return answer_of(response.status, response.read())
        except (http.client.HTTPException, ConnectionResetError):
            return NONE


def head(length: int, content_type: str = "image/jpeg") -> bytes:
    """Return the head of a request with a body of this length."""
    lines = "POST /color HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", f"Content-Length: {length}"
    return "\r\n".join((*lines, "", "")).encode()


def bomb() -> bytes:
    """Return a PNG that claims 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


@dataclass(frozen=True)
class Bad:
    """A bad request, and the status of its answer."""

    status: int
    send: Callable[[int, bytes], Answer]
    """Called with port and a good photo."""


def _post(port: int, body: bytes, content_type: str = "image/jpeg", query: str = "") -> Answer:
    client = Client(port)
    try:
        return client.post(body, content_type, query)
    finally:
        client.close()


BAD = {
    "no photo": Bad(415, lambda port, photo: _post(port, b"no photo" * 1000)),
    "damaged photo": Bad(422, lambda port, photo: _post(port, photo[: len(photo) // 2])),
    "claims 3,600 megapixels": Bad(413, lambda port, photo: _post(port, bomb())),
    "claims 10 GB": Bad(413, lambda port, photo: sent(port, head(10**10) + bytes(10**6))),
    "unknown option": Bad(400, lambda port, photo: _post(port, photo, query="?quallity=5")),
    "form without photo": Bad(400, lambda port, photo: _post(port, *form(photo, "other"))),
    "form without end": Bad(400, lambda port, photo: _post(port, form(photo)[0][:-9], form(photo)[1])),
    "wrong content type": Bad(415, lambda port, photo: _post(port, photo, "text/plain")),
    "no HTTP": Bad(400, lambda port, photo: sent(port, b"\x16\x03\x01 hello\r\n\r\n")),
    "long head": Bad(400, lambda port, photo: sent(port, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n")),
    "chunked": Bad(400, lambda port, photo: sent(port, b"POST /color HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")),
    "empty": Bad(400, lambda port, photo: _post(port, b"")),
    "cut in the middle": Bad(0, lambda port, photo: sent(port, head(len(photo)) + photo[: len(photo) // 2], cut=True)),
    "cut before the answer": Bad(0, lambda port, photo: sent(port, head(len(photo)) + photo, cut=True)),
}
"""Bad requests that take little time."""

SLOW = {
    "slow head": Bad(408, lambda port, photo: sent(port, b"GET / HT", b"T" * 1000)),
    "slow body": Bad(408, lambda port, photo: sent(port, head(len(photo)), photo)),
    "stalled body": Bad(408, lambda port, photo: sent(port, head(len(photo)) + photo[:100])),
}
"""Bad requests that take until the server gives them up."""


def waited(condition: Callable[[], bool], seconds: float = LEAST_PATIENCE) -> None:
    """Wait until a condition holds.

    Raises:
        SystemExit: it does not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"the server did not get there within {seconds:g} s")
        time.sleep(0.01)
