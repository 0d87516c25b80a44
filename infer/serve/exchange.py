"""Middleware around each request: it counts, gives memory back, and reads the rest of a body after an early answer.

A client that is still sending would not see such an answer: closing a connection with unread data resets it.
"""

import asyncio
import contextlib
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infer.serve.memory import Memory, Share
from infer.serve.metrics import Metrics
from infer.serve.refusals import BUSY, GONE, RefusedError

LINGER_SECONDS = 5.0
"""Longest time in which the rest of a body is read and dropped after an early answer."""


class Exchange:
    """ASGI middleware; `scope["share"]` is the `Share` of the request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self.memory = Memory(metrics.held.set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        begun, status = time.perf_counter(), GONE
        unread = any(name == b"content-length" and value.strip(b"0") for name, value in scope["headers"])

        async def receiving() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body"))
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if unread:
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            elif unread and not message.get("more_body"):
                await send({**message, "more_body": True})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_SECONDS):
                        while unread:
                            await receiving()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            with Share(self.memory, (scope["client"] or ("",))[0]) as share:
                await self.app({**scope, "share": share}, receiving, sending)
        except asyncio.CancelledError:  # the server ends, and its time for what was in hand is over
            if status != GONE:
                raise
            error = RefusedError(503, f"found the server at its end, and the request not done; {BUSY}")
            await JSONResponse(error.content, error.status, error.headers)(scope, receive, sending)
        finally:
            self.metrics.requests.labels(str(status)).inc()
            self.metrics.seconds.observe(time.perf_counter() - begun)
