"""--precision auto: what is tried, what is chosen, and what is shown."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cgan.errors import GateError, UserError
from cgan.spec import Sidecar, read_sidecar, sidecar_path
from export import artefact as pipeline
from export import search
from export.artefact import Artefact, ExportOptions
from export.choices import Preference
from export.cli import main
from export.search import Trial, search_precision
from export.tolerance import Tolerance
from infer.backends import open_model

Floats = NDArray[np.float32]

SIZES = {"int8": 1000, "fp16": 2000, "fp32": 4000}
PSNR: dict[str, float | None] = {"int8": 45.0, "fp16": 80.0, "fp32": None}
SPEEDS = {"int8": 30.0, "fp16": 10.0, "fp32": 20.0}


class Tried:
    """Calls of the stub."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self.options: list[ExportOptions] = []
        self.sources: list[Path] = []

    def make(self, source: Path, out: Path, options: ExportOptions) -> Artefact:
        """An artefact of the precision's size, or GateError where its PSNR is below the limit."""
        self.options.append(options)
        self.sources.append(source)
        psnr = PSNR[options.precision]
        assert options.tolerance is not None and options.tolerance.min_psnr is not None
        if psnr is not None and psnr < options.tolerance.min_psnr:
            raise GateError(f"{options.precision} is not the trained model")
        path = out / f"{options.precision}.onnx"
        path.write_bytes(bytes(SIZES[options.precision]))
        numbers: dict[str, Any] = {"verified": True, "min_psnr": psnr, "comparisons": []}
        return Artefact(path, Sidecar(spec=self.sidecar.spec, file_sha256="", verification=numbers))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, exported_onnx: Path) -> Tried:
    """Exports and timings of made-up sizes, distances and speeds."""
    sidecar = read_sidecar(exported_onnx)
    assert sidecar is not None
    stub = Tried(sidecar)
    monkeypatch.setattr(search, "make_onnx", stub.make)
    monkeypatch.setattr(search, "_speed", lambda artefact, batch_size: SPEEDS[artefact.path.stem])
    return stub


def options(min_psnr: float, calibration: Path | None = Path("photos"), **others: Any) -> ExportOptions:
    return ExportOptions(tolerance=Tolerance(min_psnr=min_psnr), calibration=calibration, **others)


@pytest.mark.parametrize(
    ("min_psnr", "prefer", "expected"),
    [
        (40, "size", "int8"),
        (40, "speed", "int8"),
        (50, "size", "fp16"),
        (50, "speed", "fp32"),
        (100, "size", "fp32"),
        (100, "speed", "fp32"),
    ],
)
@pytest.mark.usefixtures("tried")
def test_the_best_that_passes_is_chosen(min_psnr: float, prefer: Preference, expected: str) -> None:
    chosen, trials = search_precision(Path("run"), options(min_psnr), prefer)
    assert chosen == expected
    assert [trial.precision for trial in trials] == ["int8", "fp16", "fp32"]


@pytest.mark.usefixtures("tried")
def test_trials_hold_what_was_found() -> None:
    _, trials = search_precision(Path("run"), options(50), "size")
    assert trials == [
        Trial("int8", None, None, None, "int8 is not the trained model"),
        Trial("fp16", 0.002, 10.0, 80.0, None),
        Trial("fp32", 0.004, 20.0, None, None),
    ]


def test_without_photos_int8_is_not_tried(tried: Tried) -> None:
    chosen, trials = search_precision(Path("run"), options(0, calibration=None), "size")
    assert chosen == "fp16"
    assert [trial.precision for trial in trials] == ["fp16", "fp32"]
    assert [made.precision for made in tried.options] == ["fp16", "fp32"]


def test_all_are_held_to_the_options_given(tried: Tried) -> None:
    given = options(40, batch_sizes=(2, 2, 2), dynamic_size=True, int8_target="tensorrt")
    search_precision(Path("run"), given, "size")
    assert tried.sources == [Path("run")] * 3
    assert [vars(made) | {"precision": "fp32"} for made in tried.options] == [vars(given)] * 3


def test_none_passes(monkeypatch: pytest.MonkeyPatch, tried: Tried) -> None:
    monkeypatch.setitem(PSNR, "fp32", 90.0)
    chosen, trials = search_precision(Path("run"), options(100), "size")
    assert chosen is None
    assert all(trial.failure and trial.megabytes is None for trial in trials)


def test_a_wrong_request_is_no_failed_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: object) -> Artefact:
        raise UserError("no such run")

    monkeypatch.setattr(search, "make_onnx", make)
    with pytest.raises(UserError, match="no such run"):
        search_precision(Path("run"), options(30), "size")


def test_nothing_is_left_of_the_trials(tried: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    search_precision(Path("run"), options(50), "size")
    assert list(tmp_path.iterdir()) == []


def test_the_speed_is_measured_at_the_largest_batch(exported_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    clock = iter(range(1000))
    sidecar = read_sidecar(exported_onnx)
    assert sidecar is not None

    def open_and_watch(path: Path, device: str) -> Any:
        backend = open_model(path, device)
        run = backend.run

        def watched(gray: Floats) -> Floats:
            sizes.append(len(gray))
            return run(gray)

        monkeypatch.setattr(backend, "run", watched)
        return backend

    monkeypatch.setattr(search, "open_model", open_and_watch)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    # Two seconds at a tick each reading: one run within them after the warm-up.
    assert search._speed(Artefact(exported_onnx, sidecar), 5) == 5 / 2
    assert sizes == [5, 5]


# the command


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, exported_onnx: Path, tried: Tried) -> list[str]:
    """Precisions that the command exported once it had chosen."""
    calls: list[str] = []

    def make(source: Path, out: Path, given: ExportOptions) -> Artefact:
        calls.append(given.precision)
        out.mkdir(exist_ok=True)
        path = Path(shutil.copy(exported_onnx, out))
        shutil.copy(sidecar_path(exported_onnx), out)
        return Artefact(path, tried.sidecar)

    monkeypatch.setattr(pipeline, "make_onnx", make)
    return calls


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--min-psnr", "40"), "int8"),
        (("--min-psnr", "50"), "fp16"),
        (("--min-psnr", "50", "--prefer", "size"), "fp16"),
        (("--min-psnr", "50", "--prefer", "speed"), "fp32"),
    ],
)
def test_the_command_exports_what_was_chosen(
    invoke: Callable[..., Any],
    published: list[str],
    trained_run: Path,
    photo_folder: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    command = (trained_run, "--out", tmp_path / "out", "--precision", "auto", "--calibration", photo_folder)
    result = invoke(main, *command, *arguments)
    assert result.code == 0
    assert published == [expected]
    *steps, heading, int8, fp16, fp32 = result.err.splitlines()[:7]
    assert steps == ["try       int8", "try       fp16", "try       fp32"]
    assert heading.split() == ["precision", "MB", "images/s", "PSNR"]
    if "40" in arguments:
        assert int8.split() == ["int8", "0.0", "30.0", "45.0"]
    else:
        assert int8.split() == ["int8", "-", "-", "failed"] and len(int8) == len(heading)
        assert result.err.splitlines()[7] == "int8 failed: int8 is not the trained model"
    assert fp16.split() == ["fp16", "0.0", "10.0", "80.0"]
    assert fp32.split() == ["fp32", "0.0", "20.0", "equal"]
    assert invoke(main, *command, *arguments, "--quiet").err == ""


def test_the_command_fails_where_none_passes(
    invoke: Callable[..., Any],
    published: list[str],
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PSNR, "fp32", 90.0)
    out = tmp_path / "out"
    result = invoke(main, trained_run, "--out", out, "--precision", "auto", "--min-psnr", 99)
    assert (
        "none of fp16, fp32 is within the tolerance (PSNR at least 99.0 dB); allow a larger difference"
        in result.error(1)
    )
    assert "fp16 is not the trained model" in result.err and "fp32 is not the trained model" in result.err
    assert published == [] and not out.exists()


@pytest.mark.slow
def test_a_real_search(
    invoke: Callable[..., Any], trained_run: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "TIMED_SECONDS", 0.05)
    arguments = ("--precision", "auto", "--min-psnr", 70, "--calibration", photo_folder)
    result = invoke(main, trained_run, "--out", tmp_path, *arguments)
    assert result.code == 0
    rows = [line.split() for line in result.err.splitlines()[4:7]]
    assert [row[0] for row in rows] == ["int8", "fp16", "fp32"]
    assert rows[0] == ["int8", "-", "-", "failed"]
    assert "int8 failed: " in result.err and "is not the trained model" in result.err
    assert all(float(row[1]) > 0 and float(row[2]) > 0 and float(row[3]) >= 70 for row in rows[1:])
    (artefact,) = tmp_path.glob("*.onnx")
    assert artefact.name == "unet-w4-rgb-32-fp16.onnx"
    sidecar = read_sidecar(artefact)
    assert sidecar is not None and sidecar.verification["tolerance"]["min_psnr"] == 70
