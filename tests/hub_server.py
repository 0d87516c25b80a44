"""A stand-in for the Hugging Face Hub on the loopback: the requests of huggingface_hub that happen here."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Files = dict[str, bytes]


class Hub:
    """Repositories with one branch each, and the requests that came."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, list[Files]] = {}
        """Files of each commit by owner/name."""
        self.private: set[str] = set()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers."""
        self.failing: tuple[int, str] | None = None
        """Status and X-Error-Code of every answer; None to answer rightly."""

    def add(self, repository: str, files: Files) -> str:
        """Add a commit with these files and no others, and return its digest."""
        self.repositories.setdefault(repository, []).append(files)
        return self.commit(repository, "main") or ""

    def add_model(self, repository: str, artefact: Path, name: str = "model.onnx") -> str:
        """Add a commit with an artefact and its sidecar under another name."""
        sidecar = artefact.with_name(f"{artefact.name}.json")
        return self.add(repository, {name: artefact.read_bytes(), f"{name}.json": sidecar.read_bytes()})

    def commit(self, repository: str, revision: str) -> str | None:
        """The digest of a revision: of main, or of a commit."""
        digests = [hashlib.sha1(f"{repository}{i}".encode()).hexdigest() for i in range(len(self.of(repository)))]
        return digests[-1] if revision == "main" and digests else revision if revision in digests else None

    def of(self, repository: str) -> list[Files]:
        return self.repositories.get(repository, [])

    def files(self, repository: str, commit: str) -> Files:
        digests = [hashlib.sha1(f"{repository}{i}".encode()).hexdigest() for i in range(len(self.of(repository)))]
        return self.of(repository)[digests.index(commit)]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(None)

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes | None) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, dict(self.headers)))
        if self.hub.failing:
            status, code = self.hub.failing
            self._send(status, b"", {"X-Error-Code": code})
            return
        if path == "/api/repos/create":
            self._create(json.loads(body or b""))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            self._model(path.split("/")[3:], body)
        else:
            self._file(path.strip("/").split("/"))

    def _create(self, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        self.hub.repositories[repository] = [{".gitattributes": b""}]
        if asked.get("visibility") == "private" or asked.get("private"):
            self.hub.private.add(repository)
        self._json({"url": f"{self.hub.url}/{repository}"})

    def _model(self, parts: list[str], body: bytes | None) -> None:
        repository, rest = "/".join(parts[:2]), parts[2:]
        revision = rest[1] if rest else "main"
        commit = self.hub.commit(repository, revision)
        if not self.hub.of(repository):
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif commit is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["preupload"]:
            names = [file["path"] for file in json.loads(body or b"")["files"]]
            self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif rest[:1] == ["commit"]:
            lines = [json.loads(line) for line in (body or b"").splitlines()]
            new = {i["value"]["path"]: base64.b64decode(i["value"]["content"]) for i in lines if i["key"] == "file"}
            digest = self.hub.add(repository, {**self.hub.of(repository)[-1], **new})
            self._json({"commitUrl": f"{self.hub.url}/{repository}/commit/{digest}", "commitOid": digest})
        else:
            names = list(self.hub.files(repository, commit))
            self._json({"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in names]})

    def _file(self, parts: list[str]) -> None:
        repository, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        commit = self.hub.commit(repository, revision)
        content = self.hub.files(repository, commit)[name] if commit else b""
        about = {"X-Repo-Commit": commit or "", "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        self._send(200, content, about)

    def _json(self, values: Any) -> None:
        self._send(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """A running stand-in."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use(hub_url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process call the stand-in; it reads the environment only when it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub_url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
