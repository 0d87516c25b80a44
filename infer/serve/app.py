"""The routes of the server: POST /color, GET /healthz, /metrics, /openapi.json, and the page at /."""

import asyncio
import traceback
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as RoutingError
from starlette.types import Receive, Scope, Send

from cgan.formats import READABLE_FORMATS
from cgan.text import json_text, say, shown
from infer.folder.output_names import suffix_of
from infer.photo.formats import ColorPhotos
from infer.serve.body import answered, form_boundary, received
from infer.serve.coloring import Coloring, Upload
from infer.serve.description import COLOR, HEALTHZ, METRICS, PLAIN_PAGE, Options
from infer.serve.exchange import Exchange
from infer.serve.line import FullError
from infer.serve.memory import NoMemoryError
from infer.serve.metrics import Metrics
from infer.serve.refusals import RefusedError, refusal_of

NOTES = "X-Cgan-Notes"
"""Header with the notes of the report, a JSON array of texts."""

NOTES_LENGTH = 4096
"""Most characters of that header; clients bound the lines that they read."""

PIECE = 2**18
"""Bytes of an answer that are sent at a time."""

MEDIA = {"JPEG2000": "image/jp2", "PPM": "image/x-portable-anymap"}
"""Types of formats, where they are not named for them."""


def make_app(coloring: Coloring, max_bytes: int, metrics: Metrics, page: Path) -> FastAPI:
    """Return the application.

    Args:
        coloring: entered; its options have the limits of pixels and time.
        max_bytes: largest body.
        metrics: those of `coloring`.
        page: folder of the static page; a plain page is served if it has no index.html.
    """
    app = FastAPI(
        title="cgan-infer serve", version=version("cgan"), docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.add_middleware(Exchange, metrics=metrics)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RoutingError, _not_routed)
    app.add_exception_handler(Exception, _failed)

    @app.post("/color", **COLOR)
    async def color(request: Request, options: Annotated[Options, Query()]) -> Response:
        """Colour the photo in the body. Size, bit depth and metadata are kept as in a folder run."""
        boundary, share = form_boundary(request), request.scope["share"]
        try:
            coloring.line.check(share.client)
            body = await received(request, share, max_bytes, coloring.options.timeout)
        except (FullError, NoMemoryError, MemoryError) as error:
            raise refusal_of(error, at_model=False) from error
        item = Upload.of(share.client, body, options.coloring(), options.written, boundary)
        del body  # the photo is taken out of it meanwhile
        return _picture(await answered(request, coloring, item), coloring.options.timeout, share)

    @app.get("/healthz", **HEALTHZ)
    async def healthz() -> Any:
        """Tell that photos are coloured: the model is loaded, and the server does not end."""
        if coloring.stopping or not coloring.is_alive:
            raise RefusedError(503, "found the server at its end, expected one that colours; ask another one")
        backend = coloring.backend
        return {"status": "ready", "model": backend.path.name, "engine": backend.engine}

    @app.get("/metrics", **METRICS)
    async def figures() -> Response:
        """Return the figures of the server in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    _add_page(app, page)
    return app


def _add_page(app: FastAPI, page: Path) -> None:
    """Add a route for each file of the page; what a client names is compared with these and never opened."""

    async def file(path: Path, request: Request) -> Response:
        return FileResponse(path)

    async def plain(request: Request) -> Response:
        return HTMLResponse(PLAIN_PAGE)

    files = {path.relative_to(page).as_posix(): path for path in sorted(page.rglob("*")) if path.is_file()}
    if index := files.get("index.html"):
        for name, path in {"": index, **files}.items():
            app.add_route(f"/{name}", partial(file, path), include_in_schema=False)
    else:
        app.add_route("/", plain, include_in_schema=False)


def _picture(item: Upload, seconds: float, share: Any) -> Response:
    """Return the answer with the output of a photo; without content if there is none."""
    notes, headers = list(item.notes), {"X-Content-Type-Options": "nosniff"}
    while len(json_text(notes)) > NOTES_LENGTH:
        notes = [*notes[:-2], "some notes are left out here"]
    headers[NOTES] = json_text(notes)
    if item.content is None:
        return Response(status_code=204, headers=headers)
    assert isinstance(item.content, bytes | memoryview)
    share.hold(len(item.content))
    copied = item.color is ColorPhotos.COPY
    format_ = READABLE_FORMATS[suffix_of(item.job.name)] if copied else item.job.format
    media = MEDIA.get(format_, f"image/{format_.lower()}")
    return Picture(memoryview(item.content), media, headers, seconds)


class Picture(Response):
    """A picture that is sent in pieces, so that a slow client is noticed.

    Args:
        picture: content.
        media: its type.
        headers: further headers.
        seconds: longest time in which it is sent, after which the connection ends; 0 for no limit.
    """

    def __init__(self, picture: memoryview, media: str, headers: dict[str, str], seconds: float) -> None:
        super().__init__(media_type=media, headers=headers | {"Content-Length": str(len(picture))})
        self.picture, self.seconds = picture, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; if that takes too long, return before its end, after which the server closes the connection."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds or None):
                await self._send_pieces(send)

    async def _send_pieces(self, send: Send) -> None:
        for start in range(0, len(self.picture), PIECE):
            body = bytes(self.picture[start : start + PIECE])
            more = start + PIECE < len(self.picture)
            await send({"type": "http.response.body", "body": body, "more_body": more})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse(error.content, error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer a query that pydantic has refused."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name, found = str(first["loc"][-1]), shown(first.get("input"))
    known = ", ".join(Options.model_fields)
    if first["type"] == "extra_forbidden":
        reason = f"found {shown(name)} in the query, expected only {known}; leave it out"
    else:
        expected = first["msg"].removeprefix("Input should be ")
        reason = f"{name}: found {found}, expected {expected}; change it or leave it out"
    return await _refused(request, RefusedError(400, reason))


async def _not_routed(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method."""
    assert isinstance(error, RoutingError)
    reason = {
        404: "found no such path, expected POST /color, GET /healthz, /metrics, /openapi.json or /; change it",
        405: f"found the method {shown(request.method)}, expected {(error.headers or {}).get('Allow', '')}; change it",
    }.get(error.status_code, error.detail)
    return JSONResponse({"error": reason}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """Answer where the server is at fault, and say why. No message contains a photo or its name."""
    say(*"".join(traceback.format_exception(error)).splitlines())
    return JSONResponse({"error": "the server failed; its standard error has the reason"}, 500)
