"""cgan-infer folder --watch: files are taken as they arrive, once they no longer grow."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cgan.errors import UserError
from infer.folder import folder_run as folder
from infer.folder.journal import Journal
from infer.folder.request import plan_of

Photos = Callable[..., Path]


class Watch:
    """Steps that are taken one by one between the searches of a watching run, which is then told to stop.

    A step is a function that is called after a search, or a number of searches to let pass.
    """

    def __init__(self, run: Callable[..., Any], source: Path, target: Path) -> None:
        self.run, self.source, self.target = run, source, target

    def __call__(self, *steps: Callable[[], object] | int, options: tuple[object, ...] = ()) -> Any:
        waiting = [step for given in steps for step in ([None] * given if isinstance(given, int) else [given])]

        def wait(event: threading.Event, timeout: float | None = None) -> bool:
            if timeout is None or threading.current_thread() is not threading.main_thread():
                return original(event, timeout)
            if not waiting:
                os.kill(os.getpid(), signal.SIGTERM)
                return original(event, 10)
            elif step := waiting.pop(0):
                step()
            return original(event, 0)

        original = threading.Event.wait
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Event, "wait", wait)
            return self.run(self.source, self.target, "--watch", *options)

    def outputs(self) -> list[str]:
        return sorted(path.name for path in self.target.glob("*.*") if path.name not in (".cgan", "report.json"))


@pytest.fixture
def watch(tmp_path: Path, color: Callable[..., Any]) -> Iterator[Watch]:
    (tmp_path / "in").mkdir()
    yield Watch(color, tmp_path / "in", tmp_path / "out")


def test_files_are_taken_as_they_arrive(watch: Watch, gray_photos: Photos) -> None:
    gray_photos(watch.source, 2)
    found: list[list[str]] = []

    def look() -> None:
        found.append(watch.outputs())

    def arrive() -> None:
        Image.new("L", (9, 9)).save(watch.source / "late.png")

    ran = watch(look, look, arrive, 1, look, 1)
    assert found == [[], ["000.png", "001.png"], ["000.png", "001.png", "late.png"]]
    assert ran.code == 128 + signal.SIGTERM
    assert ran.counts == (3, 0, 0)
    assert ran.report["photos"] == 3
    assert ran.report["not_begun"] == 0


def test_an_empty_folder_is_watched_too(watch: Watch, gray_photos: Photos) -> None:
    ran = watch(2, lambda: gray_photos(watch.source, 1), 2)
    assert ran.counts == (1, 0, 0)
    assert "watching" in ran.err
    assert "tinted.onnx on test CPU; batch 4, 2 workers" in ran.err


def test_a_growing_file_waits(watch: Watch, gray_photos: Photos, tmp_path: Path) -> None:
    content = (gray_photos(tmp_path / "other", 1, (90, 80)) / "000.png").read_bytes()
    growing = watch.source / "slow.png"

    def write(share: float) -> Callable[[], object]:
        return lambda: growing.write_bytes(content[: int(len(content) * share)])

    def absent() -> None:
        assert watch.outputs() == []

    write(0.2)()
    ran = watch(write(0.4), write(0.6), write(0.8), write(1), absent, 2)
    assert ran.counts == (1, 0, 0)
    assert watch.outputs() == ["slow.png"]


def test_a_failed_file_is_tried_again_only_when_it_changed(watch: Watch, gray_photos: Photos) -> None:
    gray_photos(watch.source, 1)
    (watch.source / "bad.png").write_bytes(b"x")

    def mend() -> None:
        Image.new("L", (9, 9)).save(watch.source / "bad.png")

    ran = watch(5, mend, 3, options=("--log-json",))
    events = [event["state"] for event in ran.events if event["event"] == "file" and event["name"] == "bad.png"]
    assert events == ["failed", "done"]
    assert ran.report["failures"] == {}  # it came through later
    assert ran.counts == (2, 0, 0)


def test_a_changed_photo_is_coloured_again(watch: Watch, gray_photos: Photos) -> None:
    gray_photos(watch.source, 2)
    ran = watch(2, lambda: Image.new("L", (9, 9)).save(watch.source / "000.png"), 3)
    assert ran.counts == (3, 0, 0)
    with Image.open(watch.target / "000.png") as image:
        assert image.size == (9, 9)


def test_who_comes_later_gets_an_output_of_its_own(watch: Watch) -> None:
    Image.new("L", (10, 20)).save(watch.source / "a.png")
    Image.new("L", (11, 22)).save(watch.source / "b.gif")

    def arrive() -> None:
        Image.new("L", (20, 10)).save(watch.source / "a.gif")
        Image.new("L", (22, 11)).save(watch.source / "b.png")

    ran = watch(2, arrive, 3)
    assert ran.counts == (4, 0, 0)
    assert watch.outputs() == ["a.gif.png", "a.png", "b.png", "b.png.png"]
    sizes = {}
    for name in watch.outputs():
        with Image.open(watch.target / name) as image:
            sizes[name] = image.size
    assert sizes == {"a.gif.png": (20, 10), "a.png": (10, 20), "b.png": (11, 22), "b.png.png": (22, 11)}


def test_outputs_inside_the_watched_folder_are_not_taken(watch: Watch, gray_photos: Photos) -> None:
    gray_photos(watch.source, 1)
    watch.target = watch.source / "out"
    assert watch(6).counts == (1, 0, 0)


def test_what_was_done_before_is_skipped(watch: Watch, gray_photos: Photos) -> None:
    gray_photos(watch.source, 2)
    watch(3)
    assert watch(3).counts == (0, 2, 0)


def test_a_run_that_stops_ends_the_watch(watch: Watch) -> None:
    for number in range(3):
        (watch.source / f"{number}.png").write_bytes(b"")
    ran = watch(100, options=("--max-failures", 1))
    assert ran.code == 1
    assert "stopped: more than 1 file failed" in ran.err


def test_a_device_other_than_the_one_asked_for_is_said(watch: Watch, tinted: Any) -> None:
    tinted.said = "going on with the CPU"
    assert "note: going on with the CPU" in watch(1, options=("--quiet",)).err


def test_a_second_run_is_kept_out(watch: Watch, gray_photos: Photos) -> None:
    gray_photos(watch.source, 1)
    journals: list[Exception] = []

    def open_another() -> None:
        try:
            Journal(watch.target / ".cgan" / "journal.sqlite")
        except UserError as error:
            journals.append(error)

    watch(open_another, 1)
    assert "another run is writing there" in str(journals[0])


def test_the_pause_grows_with_the_search(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    wait = threading.Event.wait

    def noted(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None and threading.current_thread() is threading.main_thread():
            pauses.append(timeout)
            event.set()
        return wait(event, 0)

    monkeypatch.setattr(threading.Event, "wait", noted)
    watch.run(watch.source, watch.target, "--watch")
    assert pauses == [folder.WATCH_SECONDS]

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.25)
        return plan_of(*arguments)

    monkeypatch.setattr(folder, "plan_of", slowly)
    watch.run(watch.source, watch.target, "--watch")
    assert pauses[1] >= folder.WATCH_SHARE * 0.25 > folder.WATCH_SECONDS


def test_a_photo_that_was_away_at_its_turn_is_tried_again(
    watch: Watch, gray_photos: Photos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gray_photos(watch.source, 1)
    (photo,) = watch.source.glob("*.png")
    away = tmp_path / "away.png"

    def planned(*arguments: Any) -> Any:
        made = plan_of(*arguments)
        if made.jobs and not away.exists() and not watch.outputs():
            photo.rename(away)
        return made

    monkeypatch.setattr(folder, "plan_of", planned)

    def back() -> None:
        assert watch.outputs() == []
        monkeypatch.setattr(folder, "plan_of", plan_of)
        away.rename(photo)

    ran = watch(2, back, 3)
    assert watch.outputs() == [photo.name]
    assert ran.counts == (1, 0, 0)
