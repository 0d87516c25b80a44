"""No command connects to anything, or leaves a file outside OUTPUT, RUN and the cache of this project."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        if event == "socket.connect" and isinstance(address, (str, bytes)):
            return  # a socket of this machine
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{event} {address!r}\\n")
        raise OSError("a test lets nothing out")

sys.addaudithook(watch)
"""
"""Python reads it when it starts, in child processes too."""

HOMES = {"HOME": "home", "XDG_CACHE_HOME": "xdg/cache", "XDG_CONFIG_HOME": "xdg/config", "XDG_DATA_HOME": "xdg/data"}
HOMES |= {"XDG_STATE_HOME": "xdg/state", "TMPDIR": "tmp"}


class Away:
    """Folders that a command must leave as they were: empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connections = folder / "connections"
        (folder / "site").mkdir(parents=True)
        (folder / "site" / "sitecustomize.py").write_text(WATCH)
        for name in HOMES.values():
            (folder / "watched" / name).mkdir(parents=True)

    def run(self, *arguments: object) -> None:
        """Run Python with these arguments, and look what it left."""
        own = {
            name: value for name, value in os.environ.items() if name in ("PATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
        }
        homes = {name: str(self.folder / "watched" / folder) for name, folder in HOMES.items()}
        paths = {
            "PYTHONPATH": os.pathsep.join([str(self.folder / "site"), str(Path(__file__).parents[2])]),
            "CGAN_CACHE": str(self.folder / "cache"),
            "CONNECTIONS": str(self.connections),
        }
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env={**own, **homes, **paths}, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        assert not self.connections.exists(), self.connections.read_text()
        left = [path for path in (self.folder / "watched").rglob("*") if path.is_file()]
        assert left == []


@pytest.fixture
def away(tmp_path: Path) -> Away:
    return Away(tmp_path)


def program(command: str) -> tuple[str, str]:
    return "-c", f"import sys; from {command}.cli import main; main(sys.argv[1:])"


def test_the_watch_sees_a_connection(away: Away) -> None:
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9))"
    with pytest.raises(AssertionError, match=r"socket\.getaddrinfo"):
        away.run("-c", code)


@pytest.mark.slow
def test_training(away: Away, photo_folder: Path, tiny_options: tuple[str, ...]) -> None:
    away.run(*program("cgan"), photo_folder, "--out", away.folder / "run", *tiny_options, "--epochs", 1)


@pytest.mark.slow
def test_export(away: Away, trained_run: Path, photo_folder: Path) -> None:
    """An int8 file is made of an fp32 file."""
    out = ["--out", away.folder / "out", "--precision", "int8", "--calibration", photo_folder, "--no-verify"]
    away.run(*program("export"), trained_run, *out)


@pytest.mark.parametrize("backend", ["ort", "torch", "openvino"])
@pytest.mark.slow
def test_folder_runs(away: Away, trained_run: Path, exported_onnx: Path, photo_folder: Path, backend: str) -> None:
    if backend == "openvino" and not find_spec("openvino"):
        pytest.skip("needs openvino")
    model = ["--model", trained_run if backend == "torch" else exported_onnx, "--backend", backend, "--device", "cpu"]
    away.run(*program("infer"), "folder", photo_folder, away.folder / "out", *model)


def test_bf16_where_the_processor_lacks_it_too(away: Away, exported_onnx: Path) -> None:
    if not find_spec("openvino"):
        pytest.skip("needs openvino")
    code = """
import sys
from pathlib import Path
from cgan.errors import UserError
from infer.backends import open_model
try:
    with open_model(Path(sys.argv[1]), "cpu", backend="openvino-bf16"):
        pass
except UserError as error:
    assert "which this processor lacks" in str(error)
"""
    away.run("-c", code, exported_onnx)


def test_the_loop_of_openvino_in_the_benchmarks(away: Away, exported_onnx: Path) -> None:
    if not find_spec("openvino"):
        pytest.skip("needs openvino")
    code = (
        "import sys, pathlib; from benchmarks.peers import openvino_loop; openvino_loop(pathlib.Path(sys.argv[1]), 1)"
    )
    away.run("-c", code, exported_onnx)


def test_the_variable_that_silences_openvino_is_set_for_its_import_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from infer.backends import ov

    seen: list[str | None] = []
    monkeypatch.setattr(ov, "import_module", lambda name: seen.append(os.environ.get("CI")))
    for before in (None, "false"):
        monkeypatch.delenv("CI", raising=False)
        if before is not None:
            monkeypatch.setenv("CI", before)
        ov.load_openvino()
        assert os.environ.get("CI") == before
    assert seen == ["true", "true"]
