"""The client of examples/, with a small server of KServe's protocol that runs a repository's model by its config."""

import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from cgan.command import run_command
from examples.kserve_client import JSON_LENGTH, command
from export.artefact import ExportOptions
from export.repository import make_repository
from infer import Colorizer
from tests.conftest import Result
from tests.triton_message import parsed


class Server:
    """A server of one model, which checks batches against the config as Triton does."""

    def __init__(self, folder: Path) -> None:
        self.config = parsed((folder / "config.pbtxt").read_text())
        self.session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        self.url = ""
        self.extensions: list[bool] = []
        """True for each request with binary tensors."""
        self.answer: bytes | None = None
        """Answer to everything, in place of the right one."""

    def metadata(self) -> dict[str, Any]:
        sides = {"inputs": self.config.input, "outputs": self.config.output}
        return {
            "name": self.config.name,
            **{
                side: [{"name": t.name, "datatype": "FP32", "shape": [-1, *t.dims]} for t in tensors]
                for side, tensors in sides.items()
            },
        }

    def infer(self, body: bytes, length: str | None) -> tuple[bytes, int | None]:
        """Return the answer, and the length of its JSON if binary tensors follow."""
        end = int(length or len(body))
        asked, binary = json.loads(body[:end]), body[end:]
        (given,) = asked["inputs"]
        shape = given["shape"]
        assert (given["name"], given["datatype"]) == ("gray", "FP32")
        assert shape[0] <= self.config.max_batch_size and shape[1:] == list(self.config.input[0].dims)
        self.extensions.append(bool(binary))
        if binary:
            assert given["parameters"]["binary_data_size"] == len(binary)
        values = np.frombuffer(binary, "<f4") if binary else np.array(given["data"], np.float32)
        (rgb,) = self.session.run(["rgb"], {"gray": values.reshape(shape)})
        output: dict[str, Any] = {"name": "rgb", "datatype": "FP32", "shape": list(rgb.shape)}
        if not asked["outputs"][0]["parameters"]["binary_data"]:
            return json.dumps({"outputs": [{**output, "data": rgb.ravel().tolist()}]}).encode(), None
        content = rgb.astype("<f4").tobytes()
        text = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": len(content)}}]}).encode()
        return text + content, len(text)


class _Handler(BaseHTTPRequestHandler):
    server_model: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send(json.dumps(self.server_model.metadata()).encode(), f"/v2/models/{self.server_model.config.name}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        content, length = self.server_model.infer(body, self.headers.get(JSON_LENGTH))
        self._send(content, f"/v2/models/{self.server_model.config.name}/infer", length)

    def _send(self, content: bytes, path: str, length: int | None = None) -> None:
        content = content if self.server_model.answer is None else self.server_model.answer
        if self.path != path:
            self.send_response(404)
            content = b'{"error": "unknown model"}'
        else:
            self.send_response(200)
        if length is not None:
            self.send_header(JSON_LENGTH, str(length))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(tmp_path: Path, exported_onnx: Path) -> Iterator[Server]:
    folder = make_repository(exported_onnx, tmp_path / "repository", ExportOptions(batch_sizes=(1, 2, 4))).path
    model = Server(folder)
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_model": model}))
    model.url = f"http://127.0.0.1:{http.server_port}/"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield model
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    values = np.random.default_rng(0).integers(0, 256, (12, 15), np.uint8)
    Image.fromarray(values).resize((150, 120), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def client(invoke: Callable[..., Result]) -> Callable[..., Result]:
    """`client(*arguments)`: run the client in this process."""
    return lambda *arguments: invoke(lambda given: run_command(command, given, "kserve_client.py"), *arguments)


@pytest.mark.parametrize("extension", [True, False])
def test_the_picture_is_that_of_the_model_here(
    server: Server, client: Callable[..., Result], photo: Path, exported_onnx: Path, tmp_path: Path, extension: bool
) -> None:
    output = tmp_path / "color.png"
    result = client(server.url, exported_onnx.stem, photo, output, *([] if extension else ["--json"]))
    assert (result.code, result.err) == (0, "")
    assert server.extensions == [extension]
    with Colorizer(exported_onnx, device="cpu") as colorizer:
        expected = colorizer.color_photo(photo).content
    with Image.open(output) as found, Image.open(io.BytesIO(expected)) as here:
        assert np.abs(np.asarray(found, np.int16) - np.asarray(here, np.int16)).max() <= 1
        assert f"coloured by model {exported_onnx.stem}<" in found.info["xmp"].decode()


def test_nothing_is_replaced(server: Server, client: Callable[..., Result], photo: Path, exported_onnx: Path) -> None:
    before = photo.read_bytes()
    assert "File exists" in client(server.url, exported_onnx.stem, photo, photo).error(2)
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("answer", "message", "code"),
    [
        (b"<html>", "the server gives another answer than expected", 1),
        (b"{}", "the server gives another answer than expected ('inputs')", 1),
        (b'{"inputs": [{"name": "image", "datatype": "UINT8"}], "outputs": []}', "expected gray and rgb as FP32", 2),
    ],
)
def test_other_servers_are_refused_in_one_line(
    server: Server,
    client: Callable[..., Result],
    photo: Path,
    exported_onnx: Path,
    tmp_path: Path,
    answer: bytes,
    message: str,
    code: int,
) -> None:
    server.answer = answer
    assert message in client(server.url, exported_onnx.stem, photo, tmp_path / "color.png").error(code)


def test_missing_servers_models_and_pixels_are_one_line(
    server: Server, client: Callable[..., Result], photo: Path, exported_onnx: Path, tmp_path: Path
) -> None:
    output, name = tmp_path / "color.png", exported_onnx.stem
    assert 'the server answers 404: b\'{"error": "unknown model"}\'' in client(server.url, "x", photo, output).error(1)
    assert "the server cannot be reached" in client("http://127.0.0.1:1", name, photo, output).error(1)
    assert "leave --side out" in client(server.url, name, photo, output, "--side", 64).error(2)
    shutil.copy(__file__, photo)
    assert f"{photo}: not an image" in client(server.url, name, photo, output).error(1)


def test_a_model_of_dynamic_size_takes_a_side(
    server: Server, client: Callable[..., Result], photo: Path, exported_onnx: Path, tmp_path: Path
) -> None:
    output, name = tmp_path / "color.png", exported_onnx.stem
    sides = list(server.config.input[0].dims)
    server.config.input[0].dims[:] = [1, -1, -1]
    assert "takes any size; give --side" in client(server.url, name, photo, output).error(2)
    metadata = server.metadata()
    server.metadata = lambda: metadata  # type: ignore[method-assign]
    server.config.input[0].dims[:] = sides
    assert client(server.url, name, photo, output, "--side", 32).code == 0
