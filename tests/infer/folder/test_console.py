"""Output of a run: progress, JSON lines, --quiet, signals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cgan import progress
from cgan.text import say
from infer.folder.console import SHOWN_FAILURES, Console, counts, stop_on_signal
from infer.folder.options import Event, Outcome, State
from infer.folder.plan import Job
from infer.photo.formats import PillowFormat

Color = Callable[..., Any]
BYTES_NAME = os.fsdecode(b"latin-\xe9.png")


def settle(console: Console, count: int) -> None:
    """A run over some files that are done."""
    outcome = Outcome()
    console.begin(count)
    for number in range(count):
        outcome.done += 1
        console.update(Event(Job(f"{number}.png", f"{number}.png", PillowFormat.PNG, "1:1"), State.DONE), outcome)
    console.end()


def test_a_line_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(Console(), 5)
    assert capsys.readouterr() == ("", "")  # all within the first 30 seconds
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1)
    settle(Console(), 2)
    assert capsys.readouterr().err == "1/2  done 1  skipped 0  failed 0\n2/2  done 2  skipped 0  failed 0\n"


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    settle(Console(), 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err
    settle(Console(quiet=True), 3)
    assert capsys.readouterr() == ("", "")


def test_a_signal_is_answered_on_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console, outcome = Console(), Outcome()
    console.begin(3)
    console.stopping(2)
    outcome.done += 1
    console.update(Event(Job("0.png", "0.png", PillowFormat.PNG, "1:1"), State.DONE), outcome)
    console.end()
    err = capsys.readouterr().err
    assert err.endswith("\nfinishing the 2 photos in progress; a second signal ends at once\n")


def test_a_signal_that_other_code_answers_is_not_answered_twice(capfd: pytest.CaptureFixture[str]) -> None:
    with stop_on_signal() as stop:
        stop.answered = True
        signal.raise_signal(signal.SIGTERM)
        assert stop.event.wait(10)
    assert capfd.readouterr().err == ""


def test_quiet_leaves_out_what_goes_well_for_machines_too(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, expected in ((False, ["begin", "file", "file", "warning"]), (True, ["begin", "file", "warning"])):
        shown = Console(quiet, log_json=True)
        shown.log("begin")
        for state in (State.DONE, State.FAILED):
            shown.update(Event(Job("a.png", "a.png", PillowFormat.PNG, "1:1"), state), Outcome())
        shown.warn("disk")
        out, err = capsys.readouterr()
        assert [json.loads(line)["event"] for line in out.splitlines()] == expected
        assert err == ""


def test_counts() -> None:
    assert counts(Outcome(done=1, skipped=2, failed={"a": "x"})) == "done 1  skipped 2  failed 1"


def test_names_cannot_move_the_cursor_or_break_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a\nb\x1b[2J\r{BYTES_NAME} ü\u202e")
    assert capsys.readouterr().err == "a\\nb\\x1b[2J\\rlatin-\\udce9.png ü\\u202e\n"


def test_json_lines_are_complete(tmp_path: Path, color: Color, gray_photos: Callable[..., Path]) -> None:
    source = gray_photos(tmp_path / "in", 4)
    (source / BYTES_NAME).write_bytes((source / "003.png").read_bytes())
    color(source, tmp_path / "out")
    (source / "new\nline.png").write_bytes((source / "003.png").read_bytes())
    (source / "001.png").write_bytes(b"")
    ran = color(source, tmp_path / "out", "--log-json")
    assert ran.code == 1
    assert ran.err == ""
    begin, *files, warning, end = ran.events
    assert all({"event", "time"} <= event.keys() for event in ran.events)
    assert (begin["event"], begin["photos"], begin["engine"]) == ("begin", 6, "test CPU")
    assert {event["event"] for event in files} == {"file"}
    assert {(event["name"], event["output"], event["state"], event["reason"]) for event in files} == {
        *((name, name, "skipped", "") for name in ("000.png", "002.png", "003.png", BYTES_NAME)),
        ("001.png", "001.png", "failed", "the file is empty"),
        ("new\nline.png", "new\nline.png", "done", ""),
    }
    assert (warning["event"], warning["text"]) == ("warning", "failed: 001.png: the file is empty")
    assert (end["event"], end["done"], end["skipped"], end["failed"], end["stopped"]) == ("end", 1, 4, 1, None)


def test_quiet_is_silent_where_all_is_well(tmp_path: Path, color: Color, gray_photos: Callable[..., Path]) -> None:
    ran = color(gray_photos(tmp_path / "in"), tmp_path / "out", "--quiet")
    assert (ran.code, *ran.result[1:]) == (0, "", "")
    assert ran.counts == (3, 0, 0)


def test_a_run_ends_with_the_files_to_look_at(tmp_path: Path, color: Color, gray_photos: Callable[..., Path]) -> None:
    source, out = gray_photos(tmp_path / "in"), tmp_path / "out"
    (source / "bad.png").write_bytes(b"")
    (source / "notes.txt").write_text("")
    lines = color(source, out, "--manifest").err.splitlines()
    assert lines[1] == "failed: bad.png: the file is empty"
    assert lines[2].startswith("done 3  skipped 0  failed 1; ") and lines[2].endswith("; 1 other file ignored")
    assert lines[3:] == [
        f"outputs   {out}",
        f"manifest  {out}/manifest-sha256.txt",
        f"report    {out}/report.json (1 failure with reasons)",
    ]
    assert color(source, out).err.splitlines()[2] == "done 0  skipped 3  failed 1; 1 other file ignored"


def test_messages_are_wrapped_on_a_terminal_and_paths_stay_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a-folder/" + 50 * "x"
    text = f"failed: {path}: a reason that is not short\x1b"
    Console().warn(text)
    assert capsys.readouterr().err == f"{text[:-1]}\\x1b\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Console().warn(text)
    assert capsys.readouterr().err.splitlines() == ["failed:", f"  {path}:", "  a reason that is not short\\x1b"]


def test_many_failures_are_listed_in_part(tmp_path: Path, color: Color) -> None:
    (tmp_path / "in").mkdir()
    for number in range(SHOWN_FAILURES + 5):
        (tmp_path / "in" / f"{number:03d}.png").write_bytes(b"")
    ran = color(tmp_path / "in", tmp_path / "out", "--quiet")
    assert ran.err.count("the file is empty") == SHOWN_FAILURES
    assert ran.err.splitlines()[-1] == f"failed: 5 more, see {tmp_path / 'out' / 'report.json'}"
    assert len(ran.report["failures"]) == SHOWN_FAILURES + 5


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_asks_and_the_second_ends(
    capfd: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    with stop_on_signal() as stop:
        assert not stop.event.is_set()
        signal.raise_signal(number)
        assert stop.event.wait(10)
        assert stop.exit_code == code
    assert capfd.readouterr().err == "stopping as soon as possible; a second signal ends at once\n"
    assert signal.set_wakeup_fd(-1) == -1


SECOND = """
import hashlib, os, signal, sys, threading
from infer.folder.console import stop_on_signal

with stop_on_signal() as stop:
    for first in (signal.SIGINT, signal.SIGTERM):
        threading.Timer(0.2, os.kill, (os.getpid(), first)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # one call that takes minutes
"""


def test_a_second_signal_ends_at_once_whatever_runs() -> None:
    done = subprocess.run([sys.executable, "-c", SECOND], stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode in (130, 143)
    assert done.stderr == b"stopping as soon as possible; a second signal ends at once\n"


MANY = """
import os, signal, sys, threading
from infer.folder.console import stop_on_signal

for _ in range(300):
    with stop_on_signal() as stop:
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()
        while not stop.event.wait(1e-5):
            pass
"""


def test_a_signal_never_meets_a_lock_that_it_interrupted() -> None:
    # As a handler that sets the event it hung in two of three hundred.
    done = subprocess.run([sys.executable, "-c", MANY], stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stderr.count(b"\n") == 300


def test_signals_that_were_ignored_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signal() as stop:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert stop.event.wait(10)
            assert stop.exit_code == 143
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.slow
def test_output_that_nobody_can_take_does_not_end_the_run(
    tmp_path: Path, gray_photos: Callable[..., Path], stream: str
) -> None:
    photos = gray_photos(tmp_path / "in")
    command = [sys.executable, "-c", "from infer.cli import main; main()", "folder", str(photos)]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run([*command, str(tmp_path / "out"), "--log-json"], **streams, text=True, check=False)
    assert done.returncode == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    if stream == "stdout":
        assert done.stderr.count("note: standard output takes no more") == 1


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_exits_with_the_signal_s_code_and_its_report(
    tmp_path: Path, color: Color, tinted: Any, gray_photos: Callable[..., Path], number: signal.Signals, code: int
) -> None:
    tinted.before = lambda gray: os.kill(os.getpid(), number) if not tinted.batches else None
    source = gray_photos(tmp_path / "in", 60)
    ran = color(source, tmp_path / "out", "--batch-size", 2)
    assert ran.code == code
    assert "stopped: interrupted; run the same command again to go on" in ran.err
    report = ran.report
    assert 0 < report["done"] < 60
    assert report["done"] + report["not_begun"] == 60
    tinted.before = lambda gray: None
    assert color(source, tmp_path / "out").counts == (60 - report["done"], report["done"], 0)


def test_log_lines_are_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    Console(log_json=True).log("begin", name=BYTES_NAME)
    values = json.loads(capsys.readouterr().out)
    assert values["name"] == BYTES_NAME
    Console().log("begin", name="x")
    assert capsys.readouterr().out == ""


def test_machines_hear_of_notes_and_of_what_was_passed_over(
    tmp_path: Path, color: Color, gray_photos: Callable[..., Path]
) -> None:
    photos = gray_photos(tmp_path / "in", 1)
    (photos / "x.psd").touch()
    frames = [Image.new("L", (8, 8), value) for value in (0, 99)]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    ran = color(photos, tmp_path / "out", "--log-json")
    notes = {event["name"]: event["notes"] for event in ran.events if event["event"] == "file"}
    assert notes == {"000.png": [], "moving.gif": ["first frame of several"]}
    (passed,) = (event for event in ran.events if event["event"] == "passed over")
    assert passed["name"] == "x.psd"
    again = color(photos, tmp_path / "out", "--log-json")
    assert again.counts == (0, 2, 0)
    assert again.report["notes"] == ran.report["notes"] == {"moving.gif": ["first frame of several"]}
