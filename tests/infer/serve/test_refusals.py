"""Requests that get no picture: the status, and one line with what was found, expected, and what to do."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from infer.backends.base import OutOfMemory
from infer.photo import encode
from infer.serve import body as reading
from infer.serve import exchange, memory
from infer.serve.app import PIECE, Picture
from infer.serve.coloring import Upload
from infer.serve.description import Options
from infer.serve.line import FullError
from infer.serve.refusals import refusal_of
from tests.conftest import Tinted
from tests.infer.serve.conftest import Served

Serve = Callable[..., Served]
FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="photo"\r\n\r\n'


def error_of(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    reason: str = answer.json()["error"]
    assert "\n" not in reason
    return reason


@pytest.mark.parametrize(
    ("content", "content_type", "query", "status", "reason"),
    [
        ("photo.png", "image/png", {"quality": 500}, 400, "quality: found '500', expected less than or equal to 100"),
        ("photo.png", "image/png", {"strength": "nan"}, 400, "strength: found 'nan', expected"),
        ("photo.png", "image/png", {"format": "gif"}, 400, "format: found 'gif', expected 'same', 'jpg'"),
        ("photo.png", "image/png", {"qualty": 50}, 400, "found 'qualty' in the query, expected only format, quality"),
        (b"", "image/png", {}, 400, "found an empty body, expected a photo"),
        (b"x", "multipart/form-data", {}, 400, "found a boundary of 0 characters"),
        (b"x", "multipart/form-data; boundary=" + 71 * "x", {}, 400, "found a boundary of 71 characters"),
        (b"no form", FORM, {}, 400, "found a damaged form"),
        (PART + b"photo", FORM, {}, 400, "found a form without its end"),
        (b"--x--\r\n", FORM, {}, 400, "found a form without a part, expected photo"),
        (PART.replace(b"photo", b"other") + b"\r\n--x--\r\n", FORM, {}, 400, "a part with the name 'other', expected"),
        (PART + b"\r\n" + PART + b"\r\n--x--\r\n", FORM, {}, 400, "found more than one part, expected photo alone"),
        (b"--x\r\nA: b\r\n\r\n\r\n--x--\r\n", FORM, {}, 400, "found a part with the name '', expected photo"),
        (b"--x\r\n" + 20 * b"A: b\r\n", FORM, {}, 400, "found a damaged form"),
        (b"--x\r\nA: " + bytes(10_000), FORM, {}, 400, "found a damaged form"),
        (PART + b"\r\n--x--\r\n", FORM, {}, 415, "found nothing in it, expected a photo"),
        ("photo.png", "text/plain", {}, 415, "found the content type 'text/plain', expected image/*"),
        ("photo.png", "application/x-www-form-urlencoded", {}, 415, "curl: -F photo=@FILE"),
        (b"no photo", "image/png", {}, 415, "not an image, or of a format that is not known; expected a photo"),
        (b"%PDF-1.7", "image/png", {}, 415, "its content is PDF, which is not read; convert it to TIFF, PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n", "image/png", {}, 422, "damaged, or a kind of PNG that is not read"),
        (bytes(2**10 + 1), "image/png", {}, 413, "found 1025 bytes, expected at most 1024; send a smaller photo"),
        ("bitmap.bmp", "image/png", {}, 413, "found 40 x 30 pixels, the limit is 1000; send a smaller photo"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(
    serve: Serve,
    contents: dict[str, bytes],
    content: bytes | str,
    content_type: str,
    query: dict[str, Any],
    status: int,
    reason: str,
) -> None:
    pixels = {"max_pixels": 1000} if status == 413 else {}
    served = serve(max_bytes=2**10 if isinstance(content, bytes) and status == 413 else 2**20, **pixels)
    answer = served.post(contents[content] if isinstance(content, str) else content, content_type, **query)
    assert reason in error_of(answer, status)
    assert served.figure("cgan_requests_total", status=str(status)) == 1
    assert served.figure("cgan_held_bytes") == 0


def test_unknown_paths_and_methods_are_refused(serve: Serve) -> None:
    served = serve(started=False)
    assert error_of(served.send("GET", "/nothing"), 404).startswith("found no such path, expected POST /color")
    answer = served.send("PUT", "/color")
    assert error_of(answer, 405) == "found the method 'PUT', expected POST; change it"
    assert answer.headers["allow"] == "POST"


def test_a_photo_too_large_for_its_format_names_the_parameter(
    serve: Serve, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encode.SIDE_LIMITS, "WEBP", 30)
    answer = serve().post(contents["photo.png"], format="webp")
    assert error_of(answer, 422) == "40 x 30 pixels, WEBP holds 30 a side; use format=png"


# busy


def test_a_full_line_refuses_before_the_body_is_read(serve: Serve, contents: dict[str, bytes]) -> None:
    served = serve(started=False)
    for _ in range(2):
        served.coloring.put(upload("127.0.0.1", contents["photo.png"]))
    answer = served.post(contents["photo.png"])
    assert "found as many waiting photos as --queue allows; try again later" in error_of(answer, 503)
    assert answer.headers["retry-after"] == "2"


def test_a_client_with_fewer_photos_takes_a_place_in_a_full_line(serve: Serve, contents: dict[str, bytes]) -> None:
    served = serve(started=False)
    many = [upload("1.1.1.1", contents["photo.png"]) for _ in range(2)]
    for each in many:
        served.coloring.put(each)
    other = upload("2.2.2.2", contents["photo.png"])
    served.coloring.put(other)
    with pytest.raises(FullError):
        many[1].answer.result(0)
    with served.coloring:
        assert many[0].answer.result(60).content == other.answer.result(60).content


def test_photos_that_wait_too_long_are_given_up(serve: Serve, tinted: Tinted, contents: dict[str, bytes]) -> None:
    release = threading.Event()
    tinted.before = lambda gray: release.wait(60)
    served = serve(timeout=0.5)
    answer = served.post(contents["photo.png"])
    release.set()
    assert "found no picture after 0.5 s, the limit; send a smaller photo, or try again later" in error_of(answer, 503)


def test_a_photo_that_takes_too_long_is_refused(serve: Serve, contents: dict[str, bytes]) -> None:
    served = serve(started=False, timeout=0.001)
    item = upload("127.0.0.1", contents["photo.png"])
    item.arrived -= 1
    served.coloring.put(item)
    with served.coloring:
        error = item.answer.exception(60)
    assert isinstance(error, Exception)
    reason = refusal_of(error, at_model=False)
    assert (reason.status, str(reason)) == (503, "not done after 0.001 s; send a smaller photo, or try again later")


def test_bodies_need_memory(serve: Serve, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(share: memory.Share, size: int, refuse: bool = False) -> None:
        if refuse:
            raise memory.NoMemoryError

    monkeypatch.setattr(memory.Share, "hold", hold)
    assert "no memory for the photo beside those in progress" in error_of(serve().post(contents["photo.png"]), 503)


def test_memory_is_bounded_for_all_and_for_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_HELD", 1000)
    totals: list[int] = []
    whole = memory.Memory(totals.append)
    with memory.Share(whole, "a") as first:
        first.hold(2000, refuse=True)  # alone
        first.hold(400, refuse=True)
        with memory.Share(whole, "a") as second, memory.Share(whole, "b") as other:
            second.hold(100, refuse=True)
            with pytest.raises(memory.NoMemoryError):
                second.hold(101, refuse=True)
            other.hold(500, refuse=True)
            with pytest.raises(memory.NoMemoryError):
                other.hold(501, refuse=True)
            other.hold(800)  # a picture
    assert totals == [2000, 400, 500, 1000, 1300, 500, 400, 0]
    assert not whole.held


def test_large_photos_of_one_client_wait_in_the_line(
    serve: Serve, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = serve(started=False, batch_size=8).coloring.work
    photos = [upload("1.1.1.1", contents["photo.png"]) for _ in range(2)]
    for each in photos:
        work.line.put(each.client, each)
    work.most = 2
    first = work.next()
    assert first is photos[0]
    first.pixels = 2**25 + 1
    assert work.next() is None
    first.pixels = 2**25
    work.most = 1
    assert work.next() is None
    work.most = 2
    assert work.next() is photos[1]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (OutOfMemory("no room"), 503, "found no memory for the photo"),
        (RuntimeError("a bug in the engine"), 500, "the server failed; its standard error has the reason"),
    ],
)
def test_a_model_that_fails_is_not_the_photos_fault(
    serve: Serve,
    tinted: Tinted,
    contents: dict[str, bytes],
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
    reason: str,
) -> None:
    def fail(gray: Any) -> None:
        raise error

    tinted.before = fail
    served = serve()
    assert reason in error_of(served.post(contents["photo.png"]), status)
    assert (str(error) in capfd.readouterr().err) == (status == 500)
    tinted.before = lambda gray: None
    assert served.post(contents["photo.png"]).status_code == 200


def test_a_full_batch_without_memory_is_halved(serve: Serve, tinted: Tinted, contents: dict[str, bytes]) -> None:
    def fail(gray: Any) -> None:
        if len(gray) > 1:
            raise OutOfMemory("no room")

    tinted.before = fail
    served = serve(batch_size=2, batch_wait=100.0)

    async def both(client: Any) -> list[Any]:
        return list(await asyncio.gather(*(client.post("/color", content=contents["photo.png"]) for _ in range(2))))

    assert [answer.status_code for answer in served.run(both)] == [200, 200]
    assert served.figure("cgan_batches_halved_total") == 1


# clients that go away or are slow


def upload(client: str, content: bytes) -> Upload:
    return Upload.of(client, bytearray(content), Options().coloring(), "same", None)


def called(served: Served, *messages: dict[str, Any], length: int) -> list[dict[str, Any]]:
    """Call the application with messages of a client, which then is silent; return what it was sent."""
    sent: list[dict[str, Any]] = []
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"image/png"), (b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/color", "query_string": b"", "headers": headers}
    asyncio.run(served.app(scope | {"client": ("127.0.0.1", 1)}, receive, send))
    return sent


def test_photos_of_clients_that_went_away_are_not_coloured(serve: Serve, contents: dict[str, bytes]) -> None:
    served, photo = serve(started=False), contents["photo.png"]
    called(served, {"type": "http.request", "body": photo}, {"type": "http.disconnect"}, length=len(photo))
    assert len(served.coloring.line) == 0
    called(served, {"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}, length=9)
    assert served.figure("cgan_requests_total", status="499") == 2
    assert served.figure("cgan_held_bytes") == 0


def test_a_server_at_its_end_answers_what_it_has(serve: Serve, tinted: Tinted, contents: dict[str, bytes]) -> None:
    served, photo = serve(), contents["photo.png"]

    def end(gray: Any) -> None:
        served.coloring.stopping = True

    tinted.before = end
    served.coloring.stopping = True  # uvicorn then says that the client went away, as it reads no more
    sent = called(served, {"type": "http.request", "body": photo}, {"type": "http.disconnect"}, length=len(photo))
    assert sent[0]["status"] == 200


def test_a_picture_that_is_read_too_slowly_is_cut() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 3:
            await asyncio.Event().wait()

    async def receive() -> Any:
        raise AssertionError

    picture = Picture(memoryview(bytes(3 * PIECE)), "image/png", {}, 0.01)
    asyncio.run(picture({"type": "http"}, receive, send))
    assert [len(message.get("body", b"")) for message in sent] == [0, PIECE, PIECE]
    assert sent[2]["more_body"]


def test_a_slow_body_is_given_up_and_the_rest_is_dropped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(exchange, "LINGER_SECONDS", 0.01)
    sent = called(serve(), {"type": "http.request", "body": b"x", "more_body": True}, length=1000)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert b"found 1 of 1000 bytes after 0 s, expected 16384 a second or more" in sent[1]["body"]
