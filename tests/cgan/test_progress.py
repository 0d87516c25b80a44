"""Progress: bars on a terminal, lines elsewhere, nothing with quiet."""

import io
import sys

import pytest

from cgan import progress
from cgan.progress import Progress
from tests.hostile import HOSTILE, is_safe


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, quiet: bool = False) -> str:
    """Text on standard error after two items of each of two labels."""
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(quiet) as shows:
        for label in ("one", "two"):
            for done in (1, 2):
                shows.update(done, 2, f"{label}: {done} of 2", label)
        return stream.getvalue()


def test_each_label_has_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    assert all(part in text for part in ("one:", "two:", "0/2"))
    assert "of 2" not in text


def test_lines_elsewhere_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == ""  # all within the first seconds
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1)
    assert shown(monkeypatch, io.StringIO()) == "one: 1 of 2\none: 2 of 2\ntwo: 1 of 2\ntwo: 2 of 2\n"


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1)
    assert shown(monkeypatch, stream(), quiet=True) == ""


def test_a_bar_that_was_closed_after_its_last_item_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with Progress(quiet=False) as shows:
        shows.update(1, 2)
        shows.close()
        before = stream.getvalue()
        shows.update(2, 2)
        assert stream.getvalue() == before


def test_a_label_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with Progress(quiet=False) as shows:
        shows.begin(2, HOSTILE)
    assert r"a\x1b]0;x\x07\r\nerror:" in stream.getvalue()
    assert is_safe(stream.getvalue().replace("\r", ""))
