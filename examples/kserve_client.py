"""Colours one photo with a model on an inference server, such as NVIDIA Triton with a folder of --format triton.

    python examples/kserve_client.py http://localhost:8000 unet-w32-rgb-128-fp32 photo.jpg photo-color.jpg

The protocol is version 2 of KServe over HTTP ("Open Inference Protocol"), with the extension for binary tensors; with
--json, without it. The server sees the luma of the photo at the model's size. All else of the photo stays here.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from cgan.command import run_command
from cgan.errors import GateError, UserError, cannot_write
from cgan.text import say, shown
from infer import Mark, PreparedPhoto, prepare
from infer.photo.decode import PhotoError

JSON_LENGTH = "Inference-Header-Content-Length"
"""Header with the length of the JSON text in front of binary tensors."""

SECONDS = 60.0
"""Longest wait for an answer."""

Floats = NDArray[np.float32]


class KServeModel:
    """A model on a server.

    Args:
        server: URL, such as http://localhost:8000.
        name: name of the model.
        binary: send and ask for tensors as bytes.
    """

    def __init__(self, server: str, name: str, binary: bool = True) -> None:
        self.url = f"{server.rstrip('/')}/v2/models/{name}"
        self.binary = binary

    def own_size(self) -> tuple[int, int] | None:
        """Return height and width of the input in pixels; None for a dynamic size.

        Raises:
            UserError: it is another kind of model.
            GateError: the server cannot be reached, or fails.
        """
        with self._readable():
            found, _ = self._ask(self.url)
            tensors = [[(part["name"], part["datatype"]) for part in found[side]] for side in ("inputs", "outputs")]
            if tensors != [[("gray", "FP32")], [("rgb", "FP32")]]:
                raise UserError(
                    f"{self.url}: found {shown(tensors)}, expected gray and rgb as FP32; name another model"
                )
            height, width = map(int, found["inputs"][0]["shape"][-2:])
        return None if height < 0 or width < 0 else (height, width)

    def run(self, gray: Floats) -> Floats:
        """Return the colours of one photo.

        Args:
            gray: 1 x H x W in [0, 1], Rec.601 luma.

        Returns:
            3 x H x W in [0, 1], sRGB.

        Raises:
            GateError: the server cannot be reached, or fails.
        """
        tensor: dict[str, Any] = {"name": "gray", "shape": [1, *gray.shape], "datatype": "FP32"}
        content, headers = b"", {"Content-Type": "application/json"}
        if self.binary:
            content = gray.astype("<f4").tobytes()
            tensor["parameters"] = {"binary_data_size": len(content)}
        else:
            tensor["data"] = gray.ravel().tolist()
        wanted = {"name": "rgb", "parameters": {"binary_data": self.binary}}
        text = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
        if self.binary:
            headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(text))}
        with self._readable():
            found, binary = self._ask(f"{self.url}/infer", text + content, headers)
            (output,) = found["outputs"]
            values = np.frombuffer(binary, "<f4") if binary else np.array(output["data"], np.float32)
            return values.astype(np.float32).reshape(3, *gray.shape[1:])

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            raise GateError(f"{self.url}: the server gives another answer than expected ({error})") from error

    def _ask(self, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[Any, bytes]:
        """Return the JSON of an answer, and the binary tensors behind it."""
        try:
            request = urllib.request.Request(url, body, headers or {})
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                content, length = answer.read(), answer.headers.get(JSON_LENGTH)
        except urllib.error.HTTPError as error:
            raise GateError(f"{url}: the server answers {error.code}: {shown(error.read()[:500])}") from error
        except (OSError, http.client.HTTPException) as error:
            raise GateError(f"{url}: the server cannot be reached ({error}); check its address") from error
        end = len(content) if length is None else int(length)
        return json.loads(content[:end]), content[end:]


def photo_for(photo: Path, model: KServeModel, side: int | None) -> PreparedPhoto:
    """Return a photo at the size of the model, or at `side` x `side` pixels if its size is dynamic.

    Raises:
        UserError: the model needs a `side`, or has one.
    """
    size = model.own_size()
    if (size is None) != (side is not None):
        found = "any size" if size is None else "{} x {} pixels".format(*size)
        raise UserError(f"{model.url}: takes {found}; {'give --side' if size is None else 'leave --side out'}")
    return prepare(photo, *(size or (side or 0, side or 0)))


@click.command()
@click.argument("server")
@click.argument("name")
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Send numbers as text.")
@click.option("--side", type=click.IntRange(32, 4096), help="Height and width for a model of dynamic size.")
def command(server: str, name: str, photo: Path, output: Path, as_json: bool, side: int | None) -> None:
    """Colour PHOTO with the model NAME on SERVER, and write OUTPUT."""
    model = KServeModel(server, name, binary=not as_json)
    try:
        prepared = photo_for(photo, model, side)
    except PhotoError as error:
        raise GateError(f"{photo}: {error}") from error
    colored = prepared.finish(model.run(prepared.gray), output.suffix.lstrip("."), mark=Mark(name))
    try:
        with output.open("xb") as file:  # replaces nothing
            file.write(colored.content)
    except OSError as error:
        raise cannot_write(output, error) from error
    say(*(f"note: {note}" for note in colored.notes))


if __name__ == "__main__":
    run_command(command, None, "kserve_client.py")
