"""A run of the server: model, socket, threads, and its end."""

import ipaddress
import logging
import socket
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import uvicorn
from fastapi import FastAPI

import infer
from cgan.cores import available_cores
from cgan.errors import UserError
from infer.backends.base import Backend
from infer.folder.console import Console, stop_on_signal
from infer.folder.request import ColoringRequest, check_options, note_on_sidecar, opened_model
from infer.photo.decode import use_own_pixel_limit
from infer.serve.app import make_app
from infer.serve.coloring import Coloring
from infer.serve.connection import Connection
from infer.serve.metrics import Metrics

GPU_WAIT = 0.005
"""Default time in seconds that a photo waits on a GPU for others to share its batch."""

END_SECONDS = 60
"""Time that requests in hand have to be answered once the server is to end."""

PAGE = Path(infer.__file__).parent / "web"
"""Folder of the static page, if it is built."""


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int
    """0 for any free port."""

    def listen(self) -> socket.socket:
        """Return a socket that listens there.

        Raises:
            UserError: it cannot.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family)
        except (OSError, UnicodeError) as error:
            raise UserError(
                f"{self.host} port {self.port}: cannot listen there ({error}); choose another --host or --port"
            ) from error
        # Connections inherit it. Without it the end of an answer waits 40 ms for the client's acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening


def run_server(
    request: ColoringRequest, address: Address, places: int, max_bytes: int, batch_wait: float | None, console: Console
) -> int:
    """Serve until a signal comes, and return the exit code.

    Args:
        request: the model, limits of pixels and time, threads.
        address: where to listen.
        places: photos that can wait.
        max_bytes: largest body of a request.
        batch_wait: longest time in seconds that a photo waits for others to share its batch; None for the default.
        console: for messages.

    Raises:
        UserError: the model or the address cannot be used.
    """
    use_own_pixel_limit()
    for name in ("uvicorn", "python_multipart"):  # what clients send must not fill a log
        logging.getLogger(name).setLevel(logging.CRITICAL)
    workers = request.workers or available_cores()
    with (
        address.listen() as listening,
        stop_on_signal() as stop,
        opened_model(request, max(1, available_cores() // workers)) as backend,
    ):
        check_options(request, backend)
        options = request.resolve(backend, workers, None)
        backend.batch_size = options.batch_size
        backend.run(np.zeros((1, 1, *backend.own_size), np.float32))  # some engines prepare themselves in the first run
        wait = batch_wait if batch_wait is not None else GPU_WAIT if backend.on_gpu else 0.0
        metrics = Metrics()
        with Coloring(backend, options, places, wait, metrics) as coloring:
            server = http_server(make_app(coloring, max_bytes, metrics, PAGE), metrics)
            _announce(listening, backend, console)
            _serve_until(stop.event, listening, server, coloring)
        return 0 if stop.event.is_set() else 1


def _announce(listening: socket.socket, backend: Backend, console: Console) -> None:
    host, port = listening.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if backend.note:
        console.warn(f"note: {backend.note}")
    if note := note_on_sidecar(backend):
        console.note(note)
    if not ipaddress.ip_address(host).is_loopback:
        console.warn(f"warning: {place} is open to other machines, and there is no authentication or encryption")
    console.note(f"{backend.path.name} on {backend.engine} at http://{place}; POST photos to /color, Ctrl-C ends it")


def http_server(app: FastAPI, metrics: Metrics) -> uvicorn.Server:
    """Return the HTTP server of an application."""
    config = uvicorn.Config(
        app,
        http=cast(type[Connection], partial(Connection, metrics)),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=END_SECONDS,
    )
    return uvicorn.Server(config)


def _serve_until(stop: threading.Event, listening: socket.socket, server: uvicorn.Server, coloring: Coloring) -> None:
    """Serve until an event, and then until the requests in hand are answered or END_SECONDS are over."""
    thread = threading.Thread(target=server.run, args=([listening],), name="requests")  # leaves signals to this one
    thread.start()
    while thread.is_alive() and coloring.is_alive and not stop.wait(1.0):
        pass  # a bug may have ended one of the two
    coloring.stopping = True
    server.should_exit = True
    thread.join()
