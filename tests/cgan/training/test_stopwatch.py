"""Phases of an epoch, measured with a clock that the test sets."""

import pytest
import torch

from cgan.training import stopwatch
from cgan.training.stopwatch import Stopwatch


class Clock:
    """A clock that only the test advances, in place of the module time and of a GPU's clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits = 0

    def perf_counter(self) -> float:
        return self.now

    def wait(self, _: torch.device) -> None:
        self.waits += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


@pytest.fixture(params=["cpu", "cuda"])
def watch(clock: Clock, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Stopwatch:
    """A watch of each kind; that of the GPU has events that take the clock's time."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at = float("nan")

        def record(self) -> None:
            self.at = clock.now

        def elapsed_time(self, end: "Event") -> float:
            assert clock.waits, "events were read before the GPU had reached them"
            return 1000 * (end.at - self.at)  # CUDA's are milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", clock.wait)
    return Stopwatch(torch.device(request.param))


def spend(watch: Stopwatch, clock: Clock, phase: str, seconds: float) -> None:
    with watch.phase(phase):
        clock.now += seconds


def test_a_phase_is_the_sum_of_its_blocks(watch: Stopwatch, clock: Clock) -> None:
    spend(watch, clock, "data", 1)
    clock.now += 5  # between phases
    spend(watch, clock, "forward", 2)
    spend(watch, clock, "data", 3)
    assert watch.seconds() == pytest.approx({"data": 4, "forward": 2})
    assert watch.total() == pytest.approx(11)


def test_shares_are_of_all_the_time_since_the_watch_was_made(watch: Stopwatch, clock: Clock) -> None:
    clock.now += 3
    spend(watch, clock, "step", 4)
    spend(watch, clock, "data", 1)
    clock.now += 2
    assert watch.shares() == pytest.approx({"step": 0.4, "data": 0.1})


def test_reading_a_watch_counts_nothing_twice(watch: Stopwatch, clock: Clock) -> None:
    spend(watch, clock, "step", 4)
    assert watch.seconds() == watch.seconds() == pytest.approx({"step": 4})
    spend(watch, clock, "step", 1)
    watch.shares()["step"] = 0
    watch.seconds()["step"] = 0
    assert watch.seconds() == pytest.approx({"step": 5})


def test_shares_never_exceed_the_whole(watch: Stopwatch, clock: Clock) -> None:
    for seconds in (0.1, 0.2, 0.7) * 10:
        spend(watch, clock, str(seconds), seconds)
    shares = watch.shares()
    assert all(0 <= share <= 1 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1)


def test_each_watch_has_its_own_time(clock: Clock) -> None:
    first = Stopwatch(torch.device("cpu"))
    spend(first, clock, "data", 2)
    second = Stopwatch(torch.device("cpu"))
    assert (second.seconds(), second.total()) == ({}, 0)
    assert first.total() == 2


def test_the_time_of_a_block_that_fails_is_not_lost_on_the_next(watch: Stopwatch, clock: Clock) -> None:
    with pytest.raises(KeyError), watch.phase("data"):
        clock.now += 9
        raise KeyError
    spend(watch, clock, "data", 1)
    assert watch.seconds() == pytest.approx({"data": 1})
