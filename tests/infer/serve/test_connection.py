"""Connections on the loopback: what is no request, slow clients, early answers, and the end of the server."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infer.folder import photo_stages, scheduler
from infer.serve import connection
from infer.serve import server as serve_server
from infer.serve.server import Address, http_server
from tests.conftest import Tinted
from tests.infer.pictures import content_of
from tests.infer.serve.conftest import Served

Serve = Callable[..., Served]


class Running:
    """A server in a thread."""

    def __init__(self, served: Served) -> None:
        self.served = served
        listening = Address("127.0.0.1", 0).listen()
        self.port: int = listening.getsockname()[1]
        self.server = http_server(served.app, served.metrics)
        self.thread = threading.Thread(target=self.server.run, args=([listening],))
        self.thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def answer(self, client: socket.socket, content: bytes = b"") -> tuple[int, str]:
        """Send bytes, and return the status and the reason of the answer."""
        client.sendall(content)
        response = http.client.HTTPResponse(client)
        response.begin()
        return response.status, json.loads(response.read())["error"]

    def end(self) -> None:
        self.served.coloring.stopping = True
        self.server.should_exit = True


@pytest.fixture
def running(serve: Serve) -> Iterator[Callable[..., Running]]:
    """`running(**options)`: a server with an application of these options."""
    made: list[Running] = []

    def make(**options: Any) -> Running:
        made.append(Running(serve(**options)))
        return made[-1]

    yield make
    for each in made:
        each.end()
        each.thread.join()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def head(length: int, fields: str = "") -> bytes:
    return f"POST /color HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{fields}\r\n".encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no HTTP\r\n\r\n", "found no HTTP request"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 3000, "a head of more than 16 KiB"),
        (b"GET /" + 2**14 * b"a" + b" HTTP/1.1\r\nHost: x\r\n\r\n", "a head of more than 16 KiB"),  # a whole one
        (b"GET / HTTP/1.1\r\n\r\n", "found no field Host"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100 + b"\r\n",
            "found 101 fields in the head, expected at most 100",
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "found a wrong Content-Length"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "or several, expected one"),
        (
            b"POST /color HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx",
            "found a chunked body, expected",
        ),
    ],
)
def test_bad_requests_end_with_a_reason(running: Callable[..., Running], content: bytes, reason: str) -> None:
    server = running()
    with server.connect() as client:
        status, found = server.answer(client, content)
        assert (status, reason in found) == (400, True)
        assert client.recv(1) == b""
    assert server.served.figure("cgan_requests_total", status="400") == 1


def test_a_head_has_16_kib(running: Callable[..., Running]) -> None:
    address = (2**14 - len(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")) * b"a"
    server = running()
    with server.connect() as client:
        assert server.answer(client, b"GET /" + address + b" HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 404


def test_a_head_that_does_not_end_is_given_up(running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    server = running()
    with server.connect() as slow, server.connect() as silent:
        assert server.answer(slow, b"GET / HT") == (
            408,
            "found no whole head after 0.05 s, expected one; send it at once",
        )
        assert silent.recv(1) == b""


def test_a_client_that_still_sends_reads_the_refusal_first(running: Callable[..., Running]) -> None:
    server = running(max_bytes=1000)
    size = 20_000_000  # more than the buffers of the connection
    with server.connect() as client:
        assert server.answer(client, head(size) + bytes(size))[0] == 413
        assert client.recv(1) == b""


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with Address("127.0.0.1", 0).listen() as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_connection_serves_several_requests(running: Callable[..., Running], contents: dict[str, bytes]) -> None:
    client = http.client.HTTPConnection("127.0.0.1", running().port, timeout=60)
    for _ in range(2):
        client.request("POST", "/color", contents["photo.png"])
        response = client.getresponse()
        assert (response.status, response.headers["Connection"]) == (200, None)
        assert response.read().startswith(b"\x89PNG")
    client.close()


def test_the_client_in_the_documents(
    running: Callable[..., Running],
    contents: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "serve.md").read_text()
    (client,) = re.findall(r"^```python .*\n((?:.*\n)*?)```$", page, re.MULTILINE)
    client = client.replace("127.0.0.1:8000", f"127.0.0.1:{running().port}")
    monkeypatch.chdir(tmp_path)
    for content, said in ((contents["scan.jpg"], "[]\n"), (b"no photo", "415 not an image")):
        Path("gray.jpg").write_bytes(content)
        exec(client, {})
        assert capsys.readouterr().out.startswith(said)
    with Image.open("color.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (30, 40))


def test_the_longest_idle_connection_gives_way(
    running: Callable[..., Running], contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 4)  # half of them for one address
    server = running()
    first, second = server.connect(), server.connect()
    third = server.connect()
    with first, second, third:
        assert first.recv(1) == b""
        assert server.answer(third, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 404


def test_a_connection_beside_too_many_busy_ones_is_refused(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 2)
    server = running()
    with server.connect() as busy:
        busy.sendall(head(9))
        wait_until(lambda: server.server.server_state.tasks)
        with server.connect() as client:
            assert server.answer(client) == (503, "found 1 busy connection, the limit; try again later")
    assert server.served.figure("cgan_requests_total", status="503") == 1


def test_a_client_that_reads_nothing_is_given_up(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.05)
    noise = np.random.default_rng(0).integers(0, 256, (3000, 3000), np.uint8)
    photo = content_of(Image.fromarray(noise), "BMP")  # its picture is more than the buffers of the connection
    server = running(max_bytes=2**25)
    with server.connect() as client:
        client.sendall(head(len(photo)) + photo)
        wait_until(lambda: server.served.figure("cgan_requests_total", status="200"))
        assert not server.server.server_state.connections
    assert server.served.figure("cgan_held_bytes") == 0


def test_photos_in_hand_are_answered_at_the_end(
    running: Callable[..., Running], tinted: Tinted, contents: dict[str, bytes]
) -> None:
    begun, ending, photo = threading.Event(), threading.Event(), contents["photo.png"]

    def before(gray: np.ndarray) -> None:
        begun.set()
        assert ending.wait(60)

    tinted.before = before
    server = running()
    with server.connect() as client, server.connect() as idle:
        client.sendall(head(len(photo)) + photo)
        assert begun.wait(60)
        server.end()
        assert idle.recv(1) == b""  # so it takes no more requests
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        ending.set()
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.read()[:4]) == (200, b"\x89PNG")
    server.thread.join()


def test_a_photo_that_hangs_does_not_hold_up_the_end(
    running: Callable[..., Running], contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ending, photo = threading.Event(), threading.Event(), contents["photo.png"]

    def hang(*arguments: Any, **options: Any) -> None:
        begun.set()
        ending.wait(60)

    monkeypatch.setattr(photo_stages, "decode", hang)
    monkeypatch.setattr(scheduler, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(serve_server, "END_SECONDS", 0.1)
    server = running(timeout=0.0)
    with server.connect() as client:
        client.sendall(head(len(photo)) + photo)
        assert begun.wait(60)
        server.end()
        status, reason = server.answer(client)
        assert (status, reason) == (503, "found the server at its end, and the request not done; try again later")
    server.thread.join()
    server.served.coloring.__exit__(None, None, None)
    assert not server.served.coloring.is_alive
    assert not ending.is_set()
    ending.set()
