"""The page's build, a server for it, and headless Chromium."""

import contextlib
import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shortcuts import made_once

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
PATH = "below/another/path"
"""Folder of the server that holds the page, whose addresses must be relative."""


@pytest.fixture(scope="session")
def node() -> str:
    """The command of Node.js; skips the test where it or the page's packages are missing."""
    found = shutil.which("node")
    if not found:
        pytest.skip("needs Node.js")
    if not (WEB / "node_modules").is_dir():
        pytest.skip("needs web/node_modules: run make web")
    return found


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, node: str) -> Path:
    """The folder of a server that holds a new build of the page in PATH."""

    def make(folder: Path) -> None:
        command = [node, "node_modules/vite/bin/vite.js", "build", "--outDir", str(folder / PATH), "--logLevel", "warn"]
        done = subprocess.run(command, cwd=WEB, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "page", make)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and prints nothing."""

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """Serve a folder on the loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def server(build: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server of `build` on the loopback."""
    with serving(build) as server:
        yield server


@pytest.fixture(scope="session")
def address(server: http.server.ThreadingHTTPServer) -> str:
    """Address of the page."""
    return f"http://127.0.0.1:{server.server_port}/{PATH}/"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("needs Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def opened(browser: Any, address: str) -> tuple[Any, list[str]]:
    """The open page, and a list of the errors in its console. Opening it takes longer than most tests."""
    page = browser.new_context().new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    return page, errors


@pytest.fixture
def page(opened: tuple[Any, list[str]]) -> Iterator[Any]:
    """The page without photos; fails if a script failed."""
    page, errors = opened
    page.set_viewport_size({"width": 1280, "height": 900})
    yield page
    page.evaluate("document.querySelectorAll('.remove').forEach(button => button.click())")
    assert not errors
