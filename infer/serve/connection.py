"""HTTP on one connection: uvicorn's protocol, with limits on heads, on slow clients and on the number of connections.

Uvicorn bounds only the time between requests. Without the timers here, a client that sends a head byte by byte or that
reads no answer would keep its connection for ever.
"""

import asyncio
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from cgan.text import counted, json_text
from infer.serve.metrics import Metrics
from infer.serve.refusals import BUSY, RefusedError

MOST_CONNECTIONS = 512
"""Largest number of connections, below the usual limit of open files. One address has at most half of them."""

MOST_HEAD = 2**14
"""Largest head of a request in bytes, with all of its fields."""

MOST_FIELDS = 100
"""Largest number of fields in a head."""

HEAD_SECONDS = 10.0
"""Time in which a head must be complete."""

STALL_SECONDS = 20.0
"""Time in which a piece of an answer must be read."""


TOO_LONG = f"found a head of more than {MOST_HEAD // 1024} KiB, the limit; send a shorter address and fewer fields"
CHUNKED = "found a chunked body, expected Content-Length; send the photo as a whole"


class _Requests(h11.Connection):
    """Parser of requests, which refuses chunked bodies: parsing tiny chunks would keep the event loop busy."""

    problem = ""
    """Reason of the refusal."""

    def next_event(self) -> Any:
        """Return the next event.

        Raises:
            RemoteProtocolError: the client sent something that is not accepted.
        """
        before = len(self.trailing_data[0]) if self.their_state is h11.IDLE else 0
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.problem = _problem_of(error)
            raise
        if not isinstance(event, h11.Request):
            return event
        if before - len(self.trailing_data[0]) > MOST_HEAD:  # h11 bounds only heads that come in several pieces
            self.problem = TOO_LONG
        elif any(name == b"transfer-encoding" for name, _ in event.headers):
            self.problem = CHUNKED
        elif len(event.headers) > MOST_FIELDS:
            self.problem = f"found {len(event.headers)} fields in the head, expected at most {MOST_FIELDS}; send fewer"
        else:
            return event
        raise h11.RemoteProtocolError(self.problem)


def _problem_of(error: h11.RemoteProtocolError) -> str:
    """Return the reason for what h11 refuses; its own messages may hold anything that the client sent."""
    if error.error_status_hint == 431:
        return TOO_LONG
    if "Transfer-Encoding" in str(error):
        return CHUNKED
    if "Content-Length" in str(error):
        return "found a wrong Content-Length, or several, expected one number: the bytes of the body; correct it"
    if "Host:" in str(error):
        return "found no field Host in the head, or several, expected one; correct it"
    return "found no HTTP request, expected HTTP/1.1 without TLS; change the client"


class Connection(H11Protocol):
    """One connection.

    Args:
        metrics: counts what is refused here; the application counts the other requests.
        arguments, options: those of uvicorn's protocol.
    """

    def __init__(self, metrics: Metrics, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.metrics = metrics
        self.conn: Any = _Requests(h11.SERVER, MOST_HEAD)
        self.since = time.monotonic()
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """True if no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Accept the connection; if there are too many, or too many of its address, the longest idle of them ends.

        If all others are busy, this one is refused.
        """
        super().connection_made(transport)
        self._time_head()
        every = [each for each in self.connections if isinstance(each, Connection)]
        own = [each for each in every if each.client and self.client and each.client[0] == self.client[0]]
        crowd = own if len(own) > MOST_CONNECTIONS // 2 else every if len(every) > MOST_CONNECTIONS else []
        idle = [each for each in crowd if each.is_idle and each is not self]
        if idle:
            min(idle, key=lambda each: each.since).transport.abort()
        elif crowd:
            self._refuse(RefusedError(503, f"found {counted(len(crowd) - 1, 'busy connection')}, the limit; {BUSY}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        super().connection_lost(exc)
        for timer in (self._head_timer, self._stall_timer):
            if timer:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and time an incomplete head."""
        super().data_received(data)
        self._time_head()

    def _time_head(self) -> None:
        """Start the timer of the head if one is being waited for, otherwise end it."""
        if self.conn.their_state is not h11.IDLE:
            if self._head_timer:
                self._head_timer.cancel()
                self._head_timer = None
        elif not self._head_timer:
            self.since = time.monotonic()
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _late(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            reason = f"found no whole head after {HEAD_SECONDS:g} s, expected one; send it at once"
            self._refuse(RefusedError(408, reason))
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not accept."""
        self._refuse(RefusedError(400, self.conn.problem))

    def _refuse(self, error: RefusedError) -> None:
        """Answer and end the connection."""
        self.metrics.requests.labels(str(error.status)).inc()
        body = json_text(error.content).encode()
        headers = [
            *error.headers.items(),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        events = (
            h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def pause_writing(self) -> None:
        """Wait for the client to read what was sent, but not for ever."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read it."""
        super().resume_writing()
        if self._stall_timer:
            self._stall_timer.cancel()
