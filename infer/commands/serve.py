"""The command `cgan-infer serve`."""

import os
import sys
from typing import Any

import click

from cgan.extras import needed
from infer.commands.coloring_options import MOST, model_options

MOST_PLACES = 100_000
"""Longest line of waiting photos."""


@click.command(short_help="Colour photos in HTTP requests.")
@model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on; 0 for any."
)
@click.option("--queue", type=click.IntRange(1, MOST_PLACES), default=256, show_default=True, help="Photos that wait.")
@click.option(
    "--max-bytes", type=click.IntRange(1, MOST), default=2**27, show_default=True, help="Refuse larger requests."
)
@click.option(
    "--timeout",
    type=click.IntRange(0, MOST),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Limit of each: receiving a photo, colouring it, sending the picture; 0 for none.",
)
@click.option(
    "--batch-wait",
    type=click.FloatRange(0, 10_000),
    metavar="MS",
    help="Milliseconds that a photo waits for others to share its batch.  [default: 5, on a CPU 0]",
)
@click.option("--quiet", is_flag=True, help="Print only warnings and errors.")
def serve(
    host: str, port: int, queue: int, max_bytes: int, batch_wait: float | None, quiet: bool, **given: Any
) -> None:
    """Colour photos in HTTP requests: POST a photo to /color, and the answer is the picture.

    curl -F photo=@gray.jpg http://127.0.0.1:8000/color -o color.jpg

    Options of the picture are in the query: ?format=png&strength=1.2. GET /openapi.json describes all of them,
    /healthz tells that the model is loaded, /metrics has figures for Prometheus. There is no authentication. Ctrl-C and
    SIGTERM end the server once the requests in hand are answered.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the workers already use all cores
    from cgan.photo_limits import MAX_PIXELS
    from infer.folder.console import Console
    from infer.folder.request import ColoringRequest

    request = ColoringRequest(**given | {"max_pixels": given["max_pixels"] or MAX_PIXELS})
    with needed("serving", "serve"):
        from infer.serve.server import Address, run_server
    wait = None if batch_wait is None else batch_wait / 1000
    sys.exit(run_server(request, Address(host, port), queue, max_bytes, wait, Console(quiet)))
