"""Folder runs on a backend that needs no model file: its colours are known."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgan.spec import ModelSpec
from infer import pipeline
from infer.backends.base import Backend
from infer.images import encode
from infer.jobs import WORK_FOLDER, make_plan
from infer.pipeline import FolderOptions, Outcome, color_folder

ROOT = Path(__file__).parent.parent.parent


class Tinted(Backend):
    """Answers with the input, redder; remembers the batch sizes it was asked for."""

    def __init__(self) -> None:
        super().__init__(Path("tinted.onnx"))
        self.batches: list[int] = []

    engine = "test CPU"
    fixed_size = (32, 32)

    def _activate(self) -> ModelSpec:
        return ModelSpec(
            model="unet",
            color_space="rgb",
            render_size=32,
            base_width=1,
            parameters=1,
            config_sha256="",
            weights_sha256="",
        )

    def _deactivate(self) -> None:
        pass

    def _run(self, gray: np.ndarray) -> np.ndarray:
        self.batches.append(len(gray))
        return np.concatenate([np.minimum(gray + 0.2, 1), gray, gray], axis=1)


def make_folder(folder: Path, count: int, size: tuple[int, int] = (40, 30)) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(60, 180, size[::-1], np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def run(source: Path, target: Path, stop: threading.Event | None = None, **options: Any) -> tuple[Outcome, Tinted]:
    format_ = options.pop("format_", "same")
    with Tinted() as backend:
        values = {"batch_size": 4, "workers": 2, **options}
        target.mkdir(exist_ok=True)
        plan = make_plan(source, target, format_)
        return color_folder(plan.jobs, target, backend, FolderOptions(**values), stop=stop), backend


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def test_every_photo_comes_out_red_with_its_own_luma(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 10)
    before = digest(source)
    outcome, backend = run(source, tmp_path / "out")
    assert sorted(outcome.done) == sorted(path.name for path in source.iterdir())
    assert (outcome.failed, outcome.skipped, outcome.stopped) == ({}, [], None)
    assert backend.batches == [4, 4, 2]
    for path in source.iterdir():
        with Image.open(path) as gray, Image.open(tmp_path / "out" / path.name) as color:
            assert color.mode == "RGB"
            assert color.size == gray.size
            pixels = np.asarray(color).astype(int)
            assert (pixels[..., 0] > pixels[..., 2]).mean() > 0.99
            assert np.abs(np.asarray(color.convert("L")).astype(int) - np.asarray(gray)).max() <= 1
    assert digest(source) == before
    assert not (tmp_path / "out" / WORK_FOLDER).exists()


def test_one_bad_file_does_not_end_the_run(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 6)
    (source / "002.png").write_bytes(b"")
    (source / "004.png").write_bytes(b"nonsense")
    outcome, _ = run(source, tmp_path / "out")
    assert len(outcome.done) == 4
    assert outcome.failed.keys() == {"002.png", "004.png"}
    assert outcome.failed["002.png"] == "the file is empty"
    assert not (tmp_path / "out" / "002.png").exists()


def test_outputs_that_are_there_are_skipped_unless_overwritten(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 5)
    run(source, tmp_path / "out")
    (tmp_path / "out" / "001.png").unlink()
    (tmp_path / "out" / "002.png").write_bytes(b"mine")
    (tmp_path / "out" / "003.png").write_bytes(b"")  # as a power cut can leave it
    outcome, _ = run(source, tmp_path / "out")
    assert sorted(outcome.done) == ["001.png", "003.png"]
    assert len(outcome.skipped) == 3
    assert (tmp_path / "out" / "002.png").read_bytes() == b"mine"
    outcome, _ = run(source, tmp_path / "out", overwrite=True)
    assert len(outcome.done) == 5
    assert (tmp_path / "out" / "002.png").read_bytes() != b"mine"


@pytest.mark.parametrize(("batch_size", "expected"), [(1, [1] * 6), (4, [4, 2]), (16, [6])])
def test_batch_size(tmp_path: Path, batch_size: int, expected: list[int]) -> None:
    _, backend = run(make_folder(tmp_path / "in", 6), tmp_path / "out", batch_size=batch_size)
    assert backend.batches == expected


def test_result_does_not_depend_on_workers_batch_or_streams(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 9)
    digests = set()
    for number, (workers, batch_size, streams) in enumerate([(1, 1, 1), (4, 3, 4), (2, 16, 1), (3, 1, 2)]):
        run(source, tmp_path / f"out{number}", workers=workers, batch_size=batch_size, streams=streams)
        digests.add(digest(tmp_path / f"out{number}"))
    assert len(digests) == 1


def test_streams_run_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Tinted._run
    meeting = threading.Barrier(2, timeout=20)

    def meet(self: Tinted, gray: np.ndarray) -> np.ndarray:
        meeting.wait()
        return answer(self, gray)

    monkeypatch.setattr(Tinted, "_run", meet)
    outcome, _ = run(make_folder(tmp_path / "in", 8), tmp_path / "out", streams=2)
    assert len(outcome.done) == 8


def test_model_resolution_is_the_networks_own_output(tmp_path: Path) -> None:
    run(make_folder(tmp_path / "in", 1), tmp_path / "out", resolution="model")
    with Image.open(tmp_path / "out" / "000.png") as image:
        assert image.size == (32, 32)


def test_formats_are_converted(tmp_path: Path) -> None:
    run(make_folder(tmp_path / "in", 1), tmp_path / "out", format_="jpg", quality=50)
    with Image.open(tmp_path / "out" / "000.jpg") as image:
        assert image.format == "JPEG"


def test_pixel_limit(tmp_path: Path) -> None:
    outcome, _ = run(make_folder(tmp_path / "in", 2), tmp_path / "out", max_pixels=40 * 30 - 1)
    assert len(outcome.failed) == 2
    assert all("--max-pixels" in reason for reason in outcome.failed.values())


def test_too_many_failures_stop_the_run(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 40)
    for i in range(5):
        (source / f"{i:03d}.png").write_bytes(b"")
    outcome, _ = run(source, tmp_path / "out", max_failures=2)
    assert outcome.stopped == "more than 2 files failed"
    assert len(outcome.done) < 35
    outcome, _ = run(source, tmp_path / "out", max_failures=5)
    assert outcome.stopped is None


def test_full_disk_stops_the_run_and_leaves_nothing_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_folder(tmp_path / "in", 40)
    written = []

    def fail_later(image: Any, photo: Any, file: Any, format_: str, quality: int) -> Any:
        written.append(1)
        if len(written) > 3:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode(image, photo, file, format_, quality)

    monkeypatch.setattr(pipeline, "encode", fail_later)
    outcome, _ = run(source, tmp_path / "out")
    assert outcome.stopped is not None
    assert "No space left" in outcome.stopped
    assert len(outcome.done) == 3
    found = list((tmp_path / "out").rglob("*"))
    assert sorted(path.name for path in found) == sorted(outcome.done)
    monkeypatch.undo()
    outcome, _ = run(source, tmp_path / "out")
    assert (len(outcome.done), len(outcome.skipped)) == (37, 3)


def test_a_failing_batch_fails_its_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Tinted._run

    def fail_second(self: Tinted, gray: np.ndarray) -> np.ndarray:
        rgb = answer(self, gray)
        if len(self.batches) == 2:
            raise RuntimeError("out of memory")
        return rgb

    monkeypatch.setattr(Tinted, "_run", fail_second)
    outcome, _ = run(make_folder(tmp_path / "in", 10), tmp_path / "out")
    assert outcome.failed == {f"00{i}.png": "RuntimeError: out of memory" for i in range(4, 8)}
    assert len(outcome.done) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE")
@pytest.mark.parametrize("format_", ["jpg", "png", "tiff", "webp"])
def test_what_cannot_be_written_whole_is_not_there(tmp_path: Path, format_: str) -> None:
    source = make_folder(tmp_path / "in", 1)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)).save(source / "large.png")
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
    program += "from infer.cli import main; main()"
    arguments = ["folder", str(source), str(tmp_path / "out"), "--format", format_, "--device", "cpu", "--quiet"]
    result = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert "failed: large.png: OSError" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"000.{format_}", "report.json"]


def test_stop_finishes_what_is_under_way(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 60)
    stop = threading.Event()
    with Tinted() as backend:
        (tmp_path / "out").mkdir()
        plan = make_plan(source, tmp_path / "out")
        options = FolderOptions(batch_size=4, workers=2)
        outcome = color_folder(plan.jobs, tmp_path / "out", backend, options, lambda outcome: stop.set(), stop)
    assert outcome.stopped == "interrupted"
    assert 0 < len(outcome.done) < 60
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(outcome.done)


def test_file_that_vanishes_fails_with_the_reason(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 3)
    with Tinted() as backend:
        (tmp_path / "out").mkdir()
        plan = make_plan(source, tmp_path / "out")
        (source / "001.png").unlink()
        outcome = color_folder(plan.jobs, tmp_path / "out", backend, FolderOptions(batch_size=4, workers=2))
    assert len(outcome.done) == 2
    assert "FileNotFoundError" in outcome.failed["001.png"]


def test_work_folders_of_killed_runs_are_removed_and_of_living_ones_kept(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 1)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"{ended.pid}-00", f"{os.getpid()}-00"):
        (tmp_path / "out" / WORK_FOLDER / name).mkdir(parents=True)
        (tmp_path / "out" / WORK_FOLDER / name / "half").write_bytes(b"x")
    run(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / WORK_FOLDER).iterdir()] == [f"{os.getpid()}-00"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in", 120, (200, 150))
    arguments = [sys.executable, "-c", "from infer.cli import main; main()", "folder", str(source)]
    arguments += [str(tmp_path / "out"), "--device", "cpu", "--quiet"]
    killed = 0
    for delay in (0.0, 0.05, 0.1):
        present = len(list((tmp_path / "out").glob("*.png")))
        process = subprocess.Popen(arguments, cwd=ROOT)
        deadline = time.monotonic() + 30
        while len(list((tmp_path / "out").glob("*.png"))) <= present and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        for path in (tmp_path / "out").glob("*.png"):
            Image.open(path).load()
    assert killed
    assert subprocess.run(arguments, cwd=ROOT).returncode == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 120
    assert not (tmp_path / "out" / WORK_FOLDER).exists()
