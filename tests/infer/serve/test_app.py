"""Requests to the server: pictures are those of a folder run, options change them, and the other paths answer."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from infer.folder import photo_stages
from infer.folder.options import ColoringOptions
from infer.photo.decode import decode
from infer.photo.formats import OTHER_NAMES, SAME, WRITE_FORMATS, ProfileUse
from infer.serve import coloring
from infer.serve.app import NOTES
from infer.serve.description import Options
from infer.serve.memory import give_back_freed
from tests.conftest import Tinted
from tests.infer.serve.conftest import Served

Serve = Callable[..., Served]

TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".tif": "image/tiff", ".bmp": "image/bmp"}


def form(content: bytes, name: str = "photo") -> dict[str, Any]:
    return {"files": {name: ("../../etc/passwd", content, "text/plain")}}


def test_pictures_and_notes_are_those_of_a_folder_run(
    serve: Serve, color: Callable[..., Any], contents: dict[str, bytes], tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, content in contents.items():
        (source / name).write_bytes(content)
    report = color(source, tmp_path / "out", "--batch-size", 1).report
    served = serve()
    outputs = {path.stem: path for path in (tmp_path / "out").iterdir() if path.suffix in TYPES}
    for name, content in contents.items():
        output = outputs[Path(name).stem]
        for answer in (served.post(content), served.send("POST", "/color", **form(content))):
            assert (answer.status_code, answer.headers["content-type"]) == (200, TYPES[output.suffix])
            assert answer.content == output.read_bytes(), name
            assert json.loads(answer.headers[NOTES]) == report["notes"].get(name, [])
    assert served.figure("cgan_requests_total", status="200") == 2 * len(contents)
    assert served.figure("cgan_held_bytes") == 0


@pytest.mark.parametrize(
    ("name", "query", "options"),
    [
        ("scan.jpg", {"format": "jpeg", "quality": 30}, ["--format", "jpg", "--quality", 30]),
        ("photo.png", {"format": "tif"}, ["--format", "tiff"]),
        ("photo.png", {"strength": 0.5}, ["--strength", 0.5]),
        ("photo.png", {"mark": "false"}, ["--no-mark"]),
        ("scan.jpg", {"resolution": "model"}, ["--resolution", "model"]),
        ("color.webp", {"color_photos": "copy"}, ["--color-photos", "copy"]),
    ],
)
def test_options_are_those_of_a_folder_run(
    serve: Serve,
    color: Callable[..., Any],
    contents: dict[str, bytes],
    tmp_path: Path,
    name: str,
    query: dict[str, Any],
    options: list[Any],
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(contents[name])
    color(tmp_path / "in", tmp_path / "out", *options)
    (output,) = (path for path in (tmp_path / "out").iterdir() if path.stem == Path(name).stem)
    served = serve()
    answer = served.post(contents[name], **query)
    assert answer.content == output.read_bytes()
    assert answer.content != served.post(contents[name]).content


def test_profile_is_an_option(serve: Serve, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def decoding(content: bytes, name: str, max_pixels: int, profile: ProfileUse) -> Any:
        seen.append(profile)
        return decode(content, name, max_pixels, profile)

    monkeypatch.setattr(photo_stages, "decode", decoding)
    served = serve()
    served.post(contents["photo.png"], profile="keep")
    served.post(contents["photo.png"])
    assert seen == ["keep", "convert"]


def test_a_colour_photo_can_be_skipped(serve: Serve, contents: dict[str, bytes]) -> None:
    answer = serve().post(contents["color.webp"], color_photos="skip")
    assert (answer.status_code, answer.content) == (204, b"")
    assert json.loads(answer.headers[NOTES]) == ["a colour photo, skipped"]


def test_parameters_have_the_values_and_defaults_of_the_commands() -> None:
    assert set(get_args(Options.model_fields["format"].annotation)) == {SAME, *WRITE_FORMATS, *OTHER_NAMES}
    assert Options().coloring() == ColoringOptions()
    assert Options(format="tif").written == "tiff"


def test_requests_share_batches(serve: Serve, tinted: Tinted, contents: dict[str, bytes]) -> None:
    served = serve(batch_size=2, batch_wait=100.0)  # seconds: only a full batch runs

    async def both(client: Any) -> list[Any]:
        post = [client.post("/color", content=contents["photo.png"], headers={"Content-Type": ""}) for _ in range(2)]
        return list(await asyncio.gather(*post))

    first, second = served.run(both)
    assert first.content == second.content
    assert [shape[0] for shape in tinted.batches] == [2]
    assert served.figure("cgan_batch_photos_sum") == 2


def test_a_photo_does_not_wait_for_a_full_batch(serve: Serve, tinted: Tinted, contents: dict[str, bytes]) -> None:
    assert serve(batch_size=2, batch_wait=0.001).post(contents["photo.png"]).status_code == 200
    assert [shape[0] for shape in tinted.batches] == [1]


def test_freed_memory_goes_back_to_the_system_once_nothing_waits(
    serve: Serve, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = threading.Event()
    monkeypatch.setattr(coloring, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(coloring, "give_back_freed", given_back.set)
    assert serve().post(contents["photo.png"]).status_code == 200
    assert given_back.wait(60)
    give_back_freed()  # of this process


def test_health_tells_the_model_and_the_end(serve: Serve) -> None:
    served = serve()
    assert served.send("GET", "/healthz").json() == {"status": "ready", "model": "tinted.onnx", "engine": "test CPU"}
    served.coloring.stopping = True
    answer = served.send("GET", "/healthz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert serve(started=False).send("GET", "/healthz").status_code == 503


def test_metrics_are_those_of_prometheus(serve: Serve, contents: dict[str, bytes]) -> None:
    served = serve()
    served.post(contents["photo.png"])
    text = served.send("GET", "/metrics").text
    assert 'cgan_requests_total{status="200"} 1.0' in text
    assert f"cgan_pixels_total {40 * 30:.1f}" in text
    assert "process_resident_memory_bytes" in text


def test_openapi_names_what_the_server_does(serve: Serve) -> None:
    document = serve().send("GET", "/openapi.json").json()
    assert set(document["paths"]) == {"/color", "/healthz", "/metrics"}
    color = document["paths"]["/color"]["post"]
    assert {each["name"] for each in color["parameters"]} == set(Options.model_fields)
    assert set(color["responses"]) == {"200", "204", "400", "408", "413", "415", "422", "503"}
    assert color["requestBody"]["required"]


def test_the_page_is_the_built_one_and_no_other_file_is_opened(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    assert "curl -F photo=@" in serve().send("GET", "/").text
    (tmp_path / "page" / "assets").mkdir(parents=True)
    (tmp_path / "page" / "index.html").write_text("<p>the page")
    (tmp_path / "page" / "assets" / "model.wasm").write_bytes(b"wasm")
    served = serve()
    assert served.send("GET", "/").text == served.send("GET", "/index.html").text == "<p>the page"
    assert served.send("GET", "/assets/model.wasm").headers["content-type"] == "application/wasm"
    assert served.send("HEAD", "/").status_code == 200
    for path in (
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/assets",
        f"/{tmp_path}/secret.txt",
    ):
        answer = served.send("GET", path)
        assert answer.status_code == 404 and answer.json()["error"].startswith("found no such path")
