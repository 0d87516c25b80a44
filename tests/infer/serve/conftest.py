"""The server's application with a model without a file, called in this process."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from infer.folder.options import FolderOptions
from infer.serve.app import make_app
from infer.serve.coloring import Coloring
from infer.serve.metrics import Metrics
from tests.conftest import Tinted
from tests.infer.pictures import content_of, png_of

Url = "http://server"


class Served:
    """An application, and requests to it from this process."""

    def __init__(self, backend: Tinted, page: Path, max_bytes: int, batch_wait: float, **options: Any) -> None:
        values = FolderOptions(**{"batch_size": 1, "workers": 1, "streams": 1, "timeout": 60.0, **options})
        self.metrics = Metrics()
        self.coloring = Coloring(backend, values, 2, batch_wait, self.metrics)
        self.app: FastAPI = make_app(self.coloring, max_bytes, self.metrics, page)

    def post(self, body: bytes, content_type: str = "image/png", **query: Any) -> httpx.Response:
        """Post a body to /color."""
        return self.send("POST", "/color", content=body, headers={"Content-Type": content_type}, params=query)

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send one request."""
        answer: httpx.Response = self.run(lambda client: client.request(method, path, **request))
        return answer

    def run(self, call: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine with a client."""

        async def running() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=Url) as client:
                return await call(client)

        return asyncio.run(running())

    def figure(self, name: str, **labels: str) -> float | None:
        """A figure of /metrics."""
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def serve(tinted: Tinted, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`serve(started=True, max_bytes=2**20, batch_wait=0, **options)`: an application; `started` colours photos."""
    made: list[Coloring] = []

    def make(started: bool = True, max_bytes: int = 2**20, batch_wait: float = 0.0, **options: Any) -> Served:
        tinted.__enter__()  # a folder run of the test may have left it
        served = Served(tinted, tmp_path / "page", max_bytes, batch_wait, **options)
        if started:
            made.append(served.coloring.__enter__())
        return served

    yield make
    for coloring in made:
        coloring.__exit__(None, None, None)


@pytest.fixture(scope="session")
def contents() -> dict[str, bytes]:
    """Photos by the names that files of them could have: of several formats, in colour, with 16 bits, with metadata."""
    random = np.random.default_rng(0)
    gray = Image.fromarray(random.integers(60, 180, (30, 40), np.uint8))
    color = Image.fromarray(random.integers(0, 256, (30, 40, 3), np.uint8))
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a title", 6
    return {
        "photo.png": content_of(gray, "PNG"),
        "scan.jpg": content_of(gray, "JPEG", quality=95, exif=exif, comment=b"kept"),
        "color.webp": content_of(color, "WEBP", lossless=True),
        "deep.png": png_of(random.integers(0, 2**16, (20, 30, 1), np.uint16), 0),
        "moving.gif": content_of(gray, "GIF"),
        "bitmap.bmp": content_of(gray, "BMP"),
        "page.tif": content_of(gray, "TIFF", dpi=(300, 300)),
    }
