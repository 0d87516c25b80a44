"""`cgan-infer serve` as a command: its options, messages and end."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from infer.backends.base import CPU_BATCH, GPU_BATCH
from infer.cli import main
from infer.commands.serve import serve as command
from infer.serve import server
from infer.serve.coloring import Coloring
from tests.conftest import Tinted

Call = Callable[..., Any]


@pytest.fixture
def run(invoke: Call, tinted: Tinted) -> Callable[..., tuple[Any, httpx.Response]]:
    """`run(content, *options)`: run the command, post a photo to it, end it; return its result and the answer."""

    def call(content: bytes, *options: object, end: int = signal.SIGTERM) -> tuple[Any, httpx.Response]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        answers: list[httpx.Response] = []

        over = threading.Event()

        def client() -> None:
            while not answers and not over.is_set():  # until it listens
                with suppress(httpx.ConnectError):
                    answers.append(httpx.post(f"http://127.0.0.1:{port}/color", content=content, timeout=60))
            if answers:
                os.kill(os.getpid(), end)

        thread = threading.Thread(target=client)
        thread.start()
        result = invoke(main, "serve", "--port", port, *options)
        over.set()
        thread.join()
        return result, answers[0]

    return call


def test_it_serves_until_a_signal(run: Call, contents: dict[str, bytes], tinted: Tinted) -> None:
    tinted.said = "going on with the CPU"
    result, answer = run(contents["photo.png"])
    assert (result.code, result.out, answer.status_code) == (0, "", 200)
    note, ready, end = result.err.splitlines()
    assert note == "note: going on with the CPU"
    assert ready.startswith("tinted.onnx on test CPU at http://127.0.0.1:")
    assert end == "stopping as soon as possible; a second signal ends at once"


def test_quiet_and_another_address(run: Call, contents: dict[str, bytes]) -> None:
    result, answer = run(contents["photo.png"], "--quiet", "--host", "0.0.0.0", end=signal.SIGINT)
    assert (result.code, answer.status_code) == (0, 200)
    warning, _ = result.err.splitlines()
    assert warning.startswith("warning: 0.0.0.0:")
    assert warning.endswith("is open to other machines, and there is no authentication or encryption")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [("--max-bytes", 10, "expected at most 10;"), ("--max-pixels", 10, "the limit is 10;")],
)
def test_limits_are_options(run: Call, contents: dict[str, bytes], option: str, value: int, reason: str) -> None:
    _, answer = run(contents["photo.png"], option, value)
    assert answer.status_code == 413 and reason in answer.json()["error"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Size of batches, workers, time limit, places and batch wait of each server."""
    found: list[tuple[Any, ...]] = []

    class Noted(Coloring):
        def __init__(self, backend: Any, options: Any, places: int, batch_wait: float, metrics: Any) -> None:
            found.append((options.batch_size, options.workers, options.timeout, places, batch_wait))
            super().__init__(backend, options, places, batch_wait, metrics)

    monkeypatch.setattr(server, "Coloring", Noted)
    return found


def test_options_reach_the_thread_that_colours(
    run: Call, contents: dict[str, bytes], made: list[tuple[Any, ...]]
) -> None:
    given = {"--batch-size": 3, "--workers": 2, "--timeout": 7, "--queue": 9, "--batch-wait": 20}
    run(contents["photo.png"], *(part for option in given.items() for part in option))
    run(contents["photo.png"], "--workers", 2)
    assert made == [(3, 2, 7, 9, 0.02), (CPU_BATCH, 2, 60, 256, 0.0)]


def test_a_gpu_gets_batches_and_time_for_them(
    run: Call, contents: dict[str, bytes], tinted: Tinted, made: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tinted, "on_gpu", True)
    run(contents["photo.png"], "--workers", 2)
    assert made == [(GPU_BATCH, 2, 60, 256, server.GPU_WAIT)]
    assert {shape[0] for shape in tinted.batches} == {GPU_BATCH}  # padded


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_that_colours_ends_the_server(
    invoke: Call, tinted: Tinted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(coloring: Coloring) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(Coloring, "_color", fail)
    assert invoke(main, "serve", "--port", 0).code == 1


def test_an_address_that_is_taken_is_refused(invoke: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = invoke(main, "serve", "--port", port).error(2)
    assert f"127.0.0.1 port {port}: cannot listen there" in error
    assert "choose another --host or --port" in error
    assert "cannot listen there" in invoke(main, "serve", "--host", "nothing.invalid").error(2)


def test_help_names_the_defaults() -> None:
    texts = {option.name: str(getattr(option, "help", "")) for option in command.params}
    assert f"default: {1000 * server.GPU_WAIT:g}, on a CPU 0]" in texts["batch_wait"]
