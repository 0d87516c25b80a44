"""Folder runs from and to an object store that is slow, throttled, cut off or down; what a photo costs in requests."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from infer.folder.filesystems import S3_CONFIG
from tests.infer.fake_s3 import FakeS3, fake_s3, settings

IN, OUT = "s3://bucket/in", "s3://bucket/out"
PHOTOS = 6
Color = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeS3]:
    with fake_s3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in settings(server.url).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield server
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(
    server: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gray_photos: Callable[..., Path]
) -> Iterator[FakeS3]:
    """The server with some photos; pauses between tries take no time."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    photos = gray_photos(tmp_path / "photos", PHOTOS)
    server.objects = {f"bucket/in/{path.name}": path.read_bytes() for path in photos.iterdir()}
    server.requests = []
    yield server
    server.fault = lambda method, path: None


def report(s3: FakeS3) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(s3.objects["bucket/out/report.json"])
    return values


def counts(s3: FakeS3) -> tuple[int, ...]:
    return tuple(report(s3)[name] for name in ("done", "skipped", "failed"))


def requests_for(s3: FakeS3, name: str) -> dict[str, int]:
    """Number of requests by method and side for a photo and its output."""
    found = Counter(f"{method} {path.split('/')[1]}" for method, path in s3.requests if path.endswith(name))
    s3.requests = []
    return dict(found)


def test_requests_for_a_photo_are_as_few_as_can_be(s3: FakeS3, color: Color) -> None:
    assert color(IN, OUT).code == 0
    assert counts(s3) == (PHOTOS, 0, 0)
    assert requests_for(s3, "/000.png") == {"GET in": 1, "PUT out": 1}
    assert color(IN, OUT).code == 0
    assert requests_for(s3, "/000.png") == {}
    s3.objects["bucket/in/000.png"] = s3.objects["bucket/in/001.png"]
    assert color(IN, OUT).code == 0
    assert counts(s3) == (1, PHOTOS - 1, 0)
    assert requests_for(s3, "/000.png") == {"GET in": 1, "HEAD out": 1, "GET out": 1, "PUT out": 1}


@pytest.mark.parametrize("status", [500, 502, 503, 504, "cut"])
def test_what_fails_once_is_tried_again(s3: FakeS3, color: Color, status: int | str) -> None:
    tried: set[tuple[str, str]] = set()

    def once(method: str, path: str) -> int | str | None:
        is_new = (method, path) not in tried
        tried.add((method, path))
        return status if is_new and not (status == "cut" and method not in ("GET", "PUT")) else None

    s3.fault = once
    assert color(IN, OUT).code == 0
    assert counts(s3) == (PHOTOS, 0, 0)


def test_what_fails_for_ever_fails_its_photo_and_the_others_go_on(s3: FakeS3, color: Color) -> None:
    def fault(method: str, path: str) -> int | str | None:
        return {
            ("GET", "bucket/in/000.png"): 503,
            ("GET", "bucket/in/001.png"): "cut",
            ("PUT", "bucket/out/002.png"): 500,
            ("PUT", "bucket/out/003.png"): "cut",
        }.get((method, path))

    s3.fault = fault
    assert color(IN, OUT).code == 1
    assert counts(s3) == (2, 0, 4)
    failures = report(s3)["failures"]
    assert "SlowDown" in failures["000.png"] or "told to" in failures["000.png"]
    assert sorted(failures) == ["000.png", "001.png", "002.png", "003.png"]
    assert not {"bucket/out/002.png", "bucket/out/003.png"} & s3.objects.keys()
    print(s3.count("GET", "bucket/in/000.png"), s3.count("PUT", "bucket/out/002.png"), failures)
    s3.fault = lambda method, path: None
    assert color(IN, OUT).code == 0
    assert counts(s3) == (4, 2, 0)


def test_a_cut_upload_leaves_the_former_output(s3: FakeS3, color: Color) -> None:
    color(IN, OUT)
    before = s3.objects["bucket/out/000.png"]
    s3.objects["bucket/in/000.png"] = s3.objects["bucket/in/001.png"]
    s3.fault = lambda method, path: "cut" if (method, path) == ("PUT", "bucket/out/000.png") else None
    assert color(IN, OUT).code == 1
    assert s3.objects["bucket/out/000.png"] == before
    s3.fault = lambda method, path: None
    assert color(IN, OUT).code == 0
    assert s3.objects["bucket/out/000.png"] == s3.objects["bucket/out/001.png"]


def test_a_store_that_does_not_answer_fails_the_photo(
    s3: FakeS3, color: Color, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(S3_CONFIG, "read_timeout", 0.05)
    s3.fault = lambda method, path: "hang" if (method, path) == ("GET", "bucket/in/000.png") else None
    assert color(IN, OUT).code == 1
    assert counts(s3) == (PHOTOS - 1, 0, 1)
    assert "ReadTimeoutError" in report(s3)["failures"]["000.png"]
