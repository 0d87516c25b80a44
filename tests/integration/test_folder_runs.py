"""Folder runs in processes of their own: killed, interrupted, beside each other, on a full disk, over hostile files."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
Photos = Callable[..., Path]
Files = Callable[[Path], dict[str, bytes]]


@contextlib.contextmanager
def started(*arguments: object, setup: str = "") -> Iterator[subprocess.Popen[str]]:
    """`cgan-infer folder` in a process of its own, killed at the end where it still runs."""
    program = f"{setup}\nfrom infer.cli import main; main()"
    command = [sys.executable, "-c", program, "folder", *map(str, arguments), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(*arguments: object, setup: str = "") -> subprocess.CompletedProcess[str]:
    """`cgan-infer folder` to its end."""
    with started(*arguments, setup=setup) as process:
        out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess([], process.returncode, out, err)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def pictures(out: Path) -> list[str]:
    """Outputs by name, each of which is whole."""
    paths = sorted(out.glob("*.png"))
    for path in paths:
        with Image.open(path) as image:
            image.load()
    return [path.name for path in paths]


def journaled(out: Path, copy: Path) -> set[str]:
    """Inputs that the journal of an ended run has as done."""
    for path in (out / ".cgan").glob("journal.sqlite*"):
        shutil.copy(path, copy.with_name(path.name.replace("journal.sqlite", copy.name)))
    with closing(sqlite3.connect(copy)) as database:
        return {os.fsdecode(name) for (name,) in database.execute("SELECT name FROM files WHERE state = 'done'")}


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, gray_photos: Photos) -> None:
    source, out = gray_photos(tmp_path / "in", 60, (160, 120)), tmp_path / "out"
    moments = random.Random(0)
    known: set[str] = set()
    done: list[str] = []
    killed = 0
    for attempt in range(4):
        with started(source, out, "--log-json", "--workers", 2) as process:
            if attempt < 3:
                present = len(list(out.glob("*.png")))
                wait_for(lambda: len(list(out.glob("*.png"))) > present or process.poll() is not None)  # noqa: B023
                time.sleep(moments.uniform(0, 0.15))
                process.kill()
            text, err = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert "Traceback" not in err
        # A kill can cut the last line.
        events = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        now = [event["name"] for event in events if event["event"] == "file" and event["state"] == "done"]
        assert not (known | set(done)) & set(now), "done twice"
        done += now
        pictures(out)
        known |= journaled(out, tmp_path / f"copy{attempt}")
    assert process.returncode == 0
    assert pictures(out) == [f"{number:03d}.png" for number in range(60)] == sorted(known)
    assert sorted(str(path.relative_to(out)) for path in (out / ".cgan").rglob("*")) == [".cgan/journal.sqlite"]
    report = json.loads((out / "report.json").read_text())
    assert report["done"] + report["skipped"] == 60
    assert killed
    assert report["skipped"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_a_signal_finishes_what_is_under_way(
    tmp_path: Path, gray_photos: Photos, number: signal.Signals, code: int
) -> None:
    source, out = gray_photos(tmp_path / "in", 150, (300, 200)), tmp_path / "out"
    with started(source, out) as process:
        wait_for(lambda: any(out.glob("*.png")))
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopped: interrupted; run the same command again to go on" in err
    report = json.loads((out / "report.json").read_text())
    assert 0 < len(pictures(out)) == report["done"] < 150
    assert report["done"] + report["not_begun"] == 150
    assert len(journaled(out, tmp_path / "copy")) == report["done"]


SLOW = """
import os, time, infer.folder.photo_stages
def write_photo(*_, **__):
    os.write(1, b"writing\\n")  # whole lines, whatever the other threads print
    time.sleep(30)
infer.folder.photo_stages.write_photo = write_photo
"""


def test_a_second_signal_ends_at_once(tmp_path: Path, gray_photos: Photos) -> None:
    with started(gray_photos(tmp_path / "in"), tmp_path / "out", "--log-json", setup=SLOW) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "begin"
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "a second signal ends at once" in process.stderr.readline()
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 128 + signal.SIGINT
        assert time.monotonic() - sent < 10
    assert pictures(tmp_path / "out") == []


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_end_the_run(tmp_path: Path, gray_photos: Photos) -> None:
    with started(gray_photos(tmp_path / "in", 20), tmp_path / "out", "--log-json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert len(pictures(tmp_path / "out")) == 20


def test_a_watch_in_a_process_ends_with_its_report(tmp_path: Path, gray_photos: Photos) -> None:
    source, out = gray_photos(tmp_path / "in"), tmp_path / "out"
    with started(source, out, "--watch", setup="import infer.folder.folder_run as f; f.WATCH_SECONDS = 0.1") as process:
        wait_for((out / "report.json").exists)
        Image.new("L", (20, 10)).save(source / "late.png")
        wait_for((out / "late.png").exists)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert json.loads((out / "report.json").read_text())["done"] == 4
    assert len(journaled(out, tmp_path / "copy")) == 4


@pytest.mark.slow
def test_one_run_at_a_time_and_none_is_kept_out_by_a_dead_one(tmp_path: Path, gray_photos: Photos) -> None:
    source, out = gray_photos(tmp_path / "in"), tmp_path / "out"
    with started(source, out, "--log-json", setup=SLOW) as process:
        assert process.stdout is not None
        process.stdout.readline()  # begun
        second = ran(source, out)
        assert second.returncode == 2
        assert second.stderr == (
            f"error: {out}/.cgan/journal.sqlite: another run is writing there; wait for it or stop it\n"
        )
        process.kill()
        process.wait()
    assert ran(source, out).returncode == 0
    assert len(pictures(out)) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB, which `mount -o remount` can enlarge."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("report", [[], ["--report", "r.json"]], ids=["report on the disk", "report elsewhere"])
@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    small_disk: Path,
    tmp_path: Path,
    gray_photos: Photos,
    color: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    report: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    source, out = gray_photos(tmp_path / "in", 60, (100, 80)), small_disk / "out"
    first = color(source, out, *report)
    assert first.code == 1
    assert "stopped: " in first.err
    assert "No space left on device" in first.err or "disk is full" in first.err
    assert "Traceback" not in first.err
    whole = pictures(out)
    assert 0 < len(whole) < 60
    assert [path.name for path in (out / ".cgan").glob("work/*")] == []
    if report:
        values = json.loads(Path("r.json").read_text())
        assert values["done"] <= len(whole)
        assert values["done"] + values["failed"] + values["not_begun"] <= 60
    assert color(source, out, *report).code == 1  # no room yet
    assert set(whole) <= set(pictures(out))
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    last = color(source, out, *report)
    assert last.code == 0, last.err
    assert len(pictures(out)) == 60
    assert journaled(out, tmp_path / "copy") == set(pictures(out))


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE")
@pytest.mark.parametrize("format_", ["jpg", "png", "tiff", "webp"])
@pytest.mark.slow
def test_what_cannot_be_written_whole_is_not_there(tmp_path: Path, gray_photos: Photos, format_: str) -> None:
    source, out = gray_photos(tmp_path / "in", 1), tmp_path / "out"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)).save(source / "large.png")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    result = ran(source, out, "--format", format_, "--quiet", setup=limit)
    assert result.returncode == 1
    assert "failed: large.png: File too large" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == [".cgan", f"000.{format_}", "report.json"]
    assert [path.name for path in (out / ".cgan").iterdir()] == ["journal.sqlite"]


def hostile_folder(folder: Path, gray_photos: Photos) -> tuple[set[str], dict[str, str]]:
    """Photos of all formats beside files that cannot be coloured: names of the first, reasons by name."""
    gray_photos(folder, 6)
    content = (folder / "000.png").read_bytes()
    gray = Image.open(folder / "000.png")
    gray.load()
    good = {f"00{number}.png" for number in range(6)}
    for name in (
        "a.jpg",
        "a.webp",
        "a.tif",
        "a.bmp",
        "a.gif",
        "a.pgm",
        "sub/a.png",
        "new\nline.png",
        "latin-\udce9.png",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        gray.save(folder / name)
        good.add(name)
    bad = {
        "empty.jpg": (b"", "the file is empty"),
        "cut.png": (content[: len(content) // 2], "truncated"),
        "text.png": (b"hello", "not an image"),
        "other.jpg": (content, "its content is PNG but its name says JPEG"),
        "head.png": (content[:8], "its header is not understood"),
        "zeros.tif": (bytes(1000), "not an image"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    return good, {**{name: reason for name, (_, reason) in bad.items()}, "bomb.png": "the limit is"}


@pytest.mark.slow
def test_a_folder_of_all_kinds_loses_no_photo_and_names_what_failed(
    tmp_path: Path, gray_photos: Photos, files_in: Files
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    good, bad = hostile_folder(source, gray_photos)
    before = files_in(source)
    result = ran(source, out, "--log-json")
    assert result.returncode == 1
    events = [json.loads(line) for line in result.stdout.splitlines()]
    outputs = {event["name"]: event["output"] for event in events if event.get("state") == "done"}
    assert outputs.keys() == good
    assert len(set(outputs.values())) == len(good)
    for name, output in outputs.items():
        with Image.open(out / output) as image, Image.open(source / name) as photo:
            assert image.size == photo.size
            assert np.ptp(np.asarray(image.convert("RGB")).astype(int), axis=-1).max() > 0
    report = json.loads((out / "report.json").read_text())
    assert report["failures"].keys() == bad.keys()
    for name, reason in bad.items():
        assert reason in report["failures"][name], name
    assert report["passed_over"].keys() == {"loop", "pipe.png"}
    assert files_in(source) == before
    assert set(files_in(out)) == {*outputs.values(), "report.json"}
    again = ran(source, out, "--quiet")
    assert again.returncode == 1
    assert json.loads((out / "report.json").read_text())["skipped"] == len(good)
