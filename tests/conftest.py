"""What test modules share: photos, one tiny trained run, its export, and commands called in process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Before torch is loaded: on networks this small a second thread only waits, and beside another job it waits long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

Main = Callable[[list[str]], None]


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def error(self, code: int) -> str:
        """The one line of a user error, after checking that there is only this one and no traceback."""
        assert self.code == code, f"exit code {self.code}: {self.err}"
        lines = self.err.splitlines()
        assert lines, "nothing on stderr"
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.err
        assert "Traceback" not in self.err
        return lines[-1]


def exit_code(main: Main, *arguments: object) -> int:
    """Call the entry point of a command in this process."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        if isinstance(end.code, str):
            raise AssertionError(f"exit with a text: {end.code}") from end
        return end.code or 0
    return 0


def write_photos(folder: Path, count: int, seed: int = 0) -> Path:
    """Photos of 48 x 40 smooth random colours, JPEG in a/ and PNG in b/ by turns."""
    random = np.random.default_rng(seed)
    for i in range(count):
        blotches = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        path = folder / "ab"[i % 2] / f"photo-{i:02d}{('.jpg', '.png')[i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        blotches.resize((48, 40), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(autouse=True)
def photo_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of prepared photos for each test, so that none is read from or written to the user's."""
    folder = tmp_path_factory.mktemp("photo-cache")
    monkeypatch.setenv("CGAN_CACHE", str(folder))
    return folder


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`invoke(main, *arguments)`: run a command in this process and keep what it printed."""

    def call(main: Main, *arguments: object) -> Result:
        capfd.readouterr()
        code = exit_code(main, *arguments)
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., Path]:
    """`make_photos(folder, count, seed=0)`: write photos and return the folder."""
    return write_photos


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 colour photos in two subfolders; copy it before changing it."""
    return write_photos(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture(scope="session")
def tiny_options() -> tuple[str, ...]:
    """Options of cgan-train for a run of well under a second an epoch."""
    return (
        *("--width", "4", "--size", "32", "--batch-size", "4", "--test-fraction", "0.25"),
        *("--device", "cpu", "--precision", "fp32", "--no-fid", "--quiet"),
    )


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path, tiny_options: tuple[str, ...]) -> Path:
    """The run folder of two epochs on `photo_folder`; copy it before changing it."""
    from cgan.cli import main

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGAN_CACHE", str(folder / "cache"))
        run = folder / "run"
        assert exit_code(main, photo_folder, "--out", run, *tiny_options, "--epochs", 2, "--lr", 0.005) == 0
    return run


@pytest.fixture(scope="session")
def exported_onnx(tmp_path_factory: pytest.TempPathFactory, trained_run: Path) -> Path:
    """`trained_run` exported and verified, with its sidecar beside it; copy both before changing them."""
    from export.cli import main

    folder = tmp_path_factory.mktemp("exported")
    assert exit_code(main, trained_run, "--out", folder, "--quiet") == 0
    (artefact,) = folder.glob("*.onnx")
    return artefact
