"""Fixtures of all tests: photos, a tiny trained run, its export, commands called in process, folder runs."""

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from cgan.spec import ModelSpec, generator_parameters
from infer.backends.base import Backend
from infer.backends.flavours import FLAVOURS, find_gpu, runs_on
from infer.folder.journal import Journal
from infer.folder.local_folder import LocalFolder
from infer.folder.options import Event, FolderOptions, Outcome
from infer.folder.pipeline import Pipeline
from infer.folder.plan import make_plan
from tests.shortcuts import keep_in_memory, made_once, remember_exports, shared_folder

# Before torch is loaded: on networks this small a second thread only waits, and beside another job it waits long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shells start background jobs with Ctrl-C ignored, which they and their children would keep.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests write in memory where there is room; --basetemp or PYTEST_DEBUG_TEMPROOT name another place."""
    if not config.option.basetemp:
        keep_in_memory()


Main = Callable[[list[str]], None]


class Result(NamedTuple):
    """Exit code and output of a command."""

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


@pytest.fixture
def needs() -> Callable[[str], None]:
    """Skip the test unless a flavour of TensorRT is installed and runs on the GPU that is here."""

    def check(flavour: str) -> None:
        pytest.importorskip(FLAVOURS[flavour].module)
        gpu = find_gpu()
        if gpu is None or not runs_on(flavour, gpu):
            pytest.skip(f"{FLAVOURS[flavour].label} does not run on {gpu.name if gpu else 'a CPU'}")

    return check


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
    return made_once(tmp_path_factory, "photos", partial(write_photos, count=12))


@pytest.fixture(scope="session")
def tiny_options() -> tuple[str, ...]:
    """Options of cgan-train for a run of well under a second an epoch."""
    return (
        *("--width", "4", "--size", "32", "--batch-size", "4", "--test-fraction", "0.25"),
        *("--device", "cpu", "--precision", "fp32", "--no-fid", "--quiet"),
    )


@pytest.fixture
def unsearchable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """`unsearchable(folder)`: make a folder that nobody may look into; root could whatever its permissions are."""
    scandir = os.scandir

    def call(folder: Path) -> None:
        folder.mkdir()

        def refuse(path: Any) -> Any:
            if not isinstance(path, int) and Path(os.fsdecode(path)) == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return call


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no curves: they have tests of their own, and take longer than an epoch of the smallest trainings."""
    monkeypatch.setattr(
        "cgan.training.run_folder.save_curves", lambda history, path: path.write_text(str(len(history)))
    )


@pytest.fixture(scope="session")
def remembered_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Trace each architecture once in a test run; the exporter itself, for tests that are about it."""
    import torch

    export = torch.onnx.export
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", remember_exports(export, shared_folder(tmp_path_factory, "exports")))
        yield export


@pytest.fixture
def real_exporter(remembered_exports: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace in this test whatever was traced before."""
    monkeypatch.setattr("torch.onnx.export", remembered_exports)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path, tiny_options: tuple[str, ...]) -> Path:
    """The run folder of two epochs on `photo_folder`; copy it before changing it."""
    from cgan.cli import main

    def train(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CGAN_CACHE", str(folder / "cache"))
            options = (*tiny_options, "--epochs", 2, "--lr", 0.005)
            assert exit_code(main, photo_folder, "--out", folder / "run", *options) == 0

    return made_once(tmp_path_factory, "trained", train) / "run"


@pytest.fixture(scope="session")
def exported_onnx(tmp_path_factory: pytest.TempPathFactory, trained_run: Path, remembered_exports: object) -> Path:
    """`trained_run` exported and verified, with its sidecar beside it; copy both before changing them."""
    from export.cli import main

    def export(folder: Path) -> None:
        assert exit_code(main, trained_run, "--out", folder, "--quiet") == 0

    (artefact,) = made_once(tmp_path_factory, "exported", export).glob("*.onnx")
    return artefact


class Tinted(Backend):
    """A model without a file: answers with the input, redder, and remembers the shapes of its batches."""

    engine = "test CPU"
    fixed_size: tuple[int, int] | None = (32, 32)
    size_range: tuple[int, int] | None = None

    def __init__(self) -> None:
        super().__init__(Path("tinted.onnx"))
        self.batches: list[tuple[int, ...]] = []
        self.weights = "first"
        """Stands for the weights' digest."""
        self.said: str | None = None
        """Its note about the device, if any."""
        self.before: Callable[[np.ndarray], object] = lambda gray: None
        """Called with each batch; may raise."""
        self.opened: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        """Arguments with which a folder run opened its model."""

    def _activate(self) -> ModelSpec:
        self.note = self.said
        return ModelSpec(
            model="unet",
            color_space="rgb",
            render_size=32,
            base_width=1,
            parameters=generator_parameters("rgb", 1, 1),
            config_sha256="",
            weights_sha256=self.weights,
        )

    def _deactivate(self) -> None:
        pass

    def _run(self, gray: np.ndarray) -> np.ndarray:
        self.before(gray)
        self.batches.append(gray.shape)
        return np.concatenate([np.minimum(gray + 0.2, 1), gray, gray], axis=1)


@dataclass(frozen=True)
class FolderRun:
    """Result and OUTPUT of `cgan-infer folder`."""

    result: Result
    target: Path

    @property
    def code(self) -> int:
        return self.result.code

    @property
    def err(self) -> str:
        return self.result.err

    @property
    def report(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.target / "report.json").read_text())
        return values

    @property
    def counts(self) -> tuple[int, int, int]:
        """Files that are done, skipped and failed."""
        return tuple(self.report[state] for state in ("done", "skipped", "failed"))

    @property
    def events(self) -> list[dict[str, Any]]:
        """Objects that --log-json printed."""
        return [json.loads(line) for line in self.result.out.splitlines()]


@pytest.fixture
def tinted(monkeypatch: pytest.MonkeyPatch) -> Tinted:
    """A `Tinted`, which folder runs of this process take for the model."""
    backend = Tinted()

    def open_model(*arguments: Any, **options: Any) -> Tinted:
        backend.opened = arguments, options
        return backend

    monkeypatch.setattr("infer.folder.request.open_model", open_model)
    return backend


@pytest.fixture
def color(invoke: Callable[..., Result], tinted: Tinted) -> Callable[..., FolderRun]:
    """`color(source, target, *options)`: run `cgan-infer folder` in this process with `tinted` for its model."""
    from infer.cli import main

    def call(source: object, target: Path | str, *options: object) -> FolderRun:
        return FolderRun(invoke(main, "folder", source, target, "--workers", 2, *options), Path(target))

    return call


class WatchedFolder(LocalFolder):
    """An OUTPUT that calls `before` with each name it is to publish."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.before: Callable[[str], object] = lambda name: None

    def publish(
        self, name: str, content: bytes | memoryview, replaces: Collection[str] | None = (), mode: int = 0o666
    ) -> None:
        self.before(name)
        super().publish(name, content, replaces, mode)


class PipelineRun:
    """A run from `in` to `out` of a folder, to be changed before it is called; the journal stays between calls."""

    def __init__(self, folder: Path, backend: Tinted) -> None:
        self.source, self.target = LocalFolder(folder / "in"), WatchedFolder(folder / "out")
        self.backend = backend
        self.journal = Journal(folder / "journal.sqlite")
        self.stop = threading.Event()
        self.recipe = "recipe"
        self.events: list[Event] = []
        self.on_event: Callable[[Event, Outcome], object] = lambda event, outcome: None
        self.in_hand: list[tuple[int, int]] = []
        """Photos that were settled, and those that were said to be finished, when runs were stopped."""

    def __call__(self, **options: Any) -> Outcome:
        self.events = []
        self.backend.batches = []

        def note(event: Event, outcome: Outcome) -> None:
            self.events.append(event)
            self.on_event(event, outcome)

        plan = make_plan(self.source, self.target, known=list(self.journal.outputs()))
        values = FolderOptions(**{"batch_size": 4, "workers": 2, **options})
        with self.backend:
            parts = self.source, self.target, self.backend, values, self.journal, self.recipe

            def stopped(in_hand: int) -> None:
                self.in_hand.append((len(self.events), in_hand))

            return Pipeline(*parts, note, self.stop, stopped).color(plan.jobs)

    def states(self) -> dict[str, str]:
        """By output, as the journal has it."""
        rows = {output: self.journal.find(output) for _, output in self.journal.outputs()}
        return {name: row.state for name, row in rows.items() if row}

    def outputs(self) -> list[str]:
        return sorted(path.name for path in self.target.path.iterdir() if path.name != ".cgan")

    @property
    def batch_sizes(self) -> list[int]:
        return [shape[0] for shape in self.backend.batches]


@pytest.fixture
def run(tmp_path: Path, tinted: Tinted) -> Iterator[PipelineRun]:
    """A `PipelineRun` from `tmp_path / "in"` to `tmp_path / "out"` with `tinted` for its model."""
    made = PipelineRun(tmp_path, tinted)
    with closing(made.journal):
        yield made


@pytest.fixture(scope="session")
def gray_photos() -> Callable[..., Path]:
    """`gray_photos(folder, count=3, size=(40, 30))`: write 000.png, 001.png and so on, and return the folder."""

    def write(folder: Path, count: int = 3, size: tuple[int, int] = (40, 30)) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for i in range(count):
            Image.fromarray(random.integers(60, 180, size[::-1], np.uint8)).save(folder / f"{i:03d}.png")
        return folder

    return write


@pytest.fixture(scope="session")
def files_in() -> Callable[[Path], dict[str, bytes]]:
    """`files_in(folder)`: content of all files in it and below by relative path, the journal's aside."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and ".cgan" not in path.parts)
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read
