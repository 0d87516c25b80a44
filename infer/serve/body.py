"""Reading of a request's body and waiting for its photo, both bounded in time."""

import asyncio
import math
import re
from typing import Any

from fastapi import Request

from cgan.text import counted, shown
from infer.serve.coloring import Coloring, Upload
from infer.serve.form import FormError, boundary_of
from infer.serve.memory import Share
from infer.serve.refusals import BUSY, GONE, RefusedError, refusal_of

FIRST_SECONDS = 10.0
"""Time that a body has to arrive, beside that for its bytes at LEAST_RATE."""

LEAST_RATE = 2**14
"""Bytes a second below which a client is too slow."""


def departed() -> RefusedError:
    """Return the error for a client that went away, who gets no answer."""
    return RefusedError(GONE, "the client went away")


def form_boundary(request: Request) -> bytes | None:
    """Return the boundary if the body is a form, None if it is a photo.

    Raises:
        RefusedError: the type of the content is neither.
    """
    kind = request.headers.get("content-type", "")
    try:
        boundary = boundary_of(kind)
    except FormError as error:
        raise RefusedError(400, str(error)) from error
    if boundary is None and not re.match(r"image/|application/octet-stream\s*(;|$)|$", kind, re.IGNORECASE):
        raise RefusedError(
            415,
            f"found the content type {shown(kind)}, expected image/*, application/octet-stream or multipart/form-data; "
            "curl: -F photo=@FILE",
        )
    return boundary


async def received(request: Request, share: Share, max_bytes: int, timeout: float) -> bytearray:
    """Return the body of a request, read in the pieces of the connection.

    Args:
        request: the request.
        share: notes the bytes in memory.
        max_bytes: largest size.
        timeout: longest time in seconds; 0 for no limit but LEAST_RATE.

    Raises:
        RefusedError: the body is empty, too large or too slow, or the client went away.
        NoMemoryError: memory is full.
    """
    declared = int(request.headers.get("content-length", "0"))  # h11 has checked that it is a number
    if not declared:
        raise RefusedError(400, "found an empty body, expected a photo; curl: -F photo=@FILE")
    if declared > max_bytes:
        raise RefusedError(413, f"found {declared} bytes, expected at most {max_bytes}; send a smaller photo")
    body, begun, seconds = bytearray(), asyncio.get_running_loop().time(), FIRST_SECONDS
    try:
        async with asyncio.timeout(None) as limit:
            more = True
            while more:
                seconds = min(FIRST_SECONDS + len(body) / LEAST_RATE, timeout or math.inf)
                limit.reschedule(begun + seconds)
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise departed()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                share.hold(len(body), refuse=True)
    except TimeoutError as error:
        raise RefusedError(
            408,
            f"found {len(body)} of {counted(declared, 'byte')} after {seconds:.0f} s, expected "
            f"{LEAST_RATE} a second or more; send a smaller photo, or use a faster connection",
        ) from error
    return body


async def answered(request: Request, coloring: Coloring, item: Upload) -> Upload:
    """Return the photo once it is done; give it up if the client goes away or the time is over.

    Raises:
        RefusedError: there is no picture.
    """
    answer = asyncio.wrap_future(item.answer)
    gone = asyncio.ensure_future(_departure(request))
    try:
        coloring.put(item)
        seconds = coloring.options.timeout or None
        both: list[asyncio.Future[Any]] = [answer, gone]
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and coloring.stopping:  # the server has ended the reading, not the client
            await asyncio.wait([answer], timeout=seconds)
        if answer.done():
            return answer.result()
        if gone.done() and not coloring.stopping:
            raise departed()
        reason = f"found no picture after {coloring.options.timeout:g} s, the limit; send a smaller photo, or {BUSY}"
        raise RefusedError(503, reason)
    except RefusedError:
        raise
    except Exception as error:
        raise refusal_of(error, at_model=item.at_model) from error
    finally:
        gone.cancel()
        coloring.drop(item)


async def _departure(request: Request) -> None:
    """Wait until the client goes away: after the whole body nothing else comes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
