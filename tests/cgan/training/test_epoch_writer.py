"""EpochWriter writes in the background, reports in the caller's thread, and never loses an epoch silently."""

import signal
import threading
import time
from typing import Any

import pytest

from cgan.training.epoch_writer import EpochWriter


def fail() -> None:
    raise OSError("no space left")


def test_an_epoch_is_written_beside_the_caller_and_told_of_in_its_thread() -> None:
    told: list[tuple[int, threading.Thread]] = []
    begun, go_on, threads = threading.Event(), threading.Event(), []

    def write() -> None:
        threads.append(threading.current_thread())
        begun.set()
        assert go_on.wait(60)

    with EpochWriter(lambda metrics: told.append((metrics["epoch"], threading.current_thread()))) as writer:
        writer.write(write, {"epoch": 1})
        assert begun.wait(60)
        writer.look()
        assert told == []
        go_on.set()
        writer.write(write, {"epoch": 2})
        assert told == [(1, threading.current_thread())]
    assert [epoch for epoch, _ in told] == [1, 2]
    assert threading.current_thread() not in threads


def test_looking_tells_of_what_is_written() -> None:
    told: list[dict[str, Any]] = []
    written = threading.Event()
    with EpochWriter(told.append) as writer:
        writer.write(written.set, {"epoch": 1})
        for _ in range(6000):  # a minute
            writer.look()
            if told:
                break
            time.sleep(0.01)
        assert written.is_set()
        writer.look()
    assert told == [{"epoch": 1}]


def test_an_epoch_that_another_process_writes_is_told_of() -> None:
    told: list[dict[str, Any]] = []
    with EpochWriter(told.append) as writer:
        writer.write(None, {"epoch": 1})
    assert told == [{"epoch": 1}]


def test_what_writing_raised_is_raised_at_the_next_epoch() -> None:
    told: list[dict[str, Any]] = []
    with EpochWriter(told.append) as writer:
        writer.write(fail, {"epoch": 1})
        with pytest.raises(OSError, match="no space left"):
            writer.write(lambda: told.append({}), {"epoch": 2})
    assert told == []


@pytest.mark.parametrize("error", [None, ValueError("not finite")])
def test_what_writing_raised_is_raised_at_the_end(error: Exception | None) -> None:
    with pytest.raises(OSError, match="no space left") as raised, EpochWriter() as writer:
        writer.write(fail, {"epoch": 1})
        if error:
            raise error
    assert raised.value.__context__ is error


def test_an_interrupt_waits_for_what_is_being_written_and_tells_of_it() -> None:
    """A second and a third interrupt do the same."""
    told: list[dict[str, Any]] = []
    main = threading.main_thread().ident
    assert main is not None

    def write() -> None:
        for _ in range(2):
            time.sleep(0.05)
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)
        assert told == []

    with pytest.raises(KeyboardInterrupt), EpochWriter(told.append) as writer:
        writer.write(write, {"epoch": 1})
        raise KeyboardInterrupt
    assert told == [{"epoch": 1}]


def test_an_interrupt_while_waiting_for_the_epoch_before_does_not_lose_it() -> None:
    told: list[dict[str, Any]] = []
    main = threading.main_thread().ident
    assert main is not None

    def write() -> None:
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt), EpochWriter(told.append) as writer:
        writer.write(write, {"epoch": 1})
        writer.write(None, {"epoch": 2})
    assert told == [{"epoch": 1}]


def test_what_could_not_be_written_is_said_after_an_interrupt_too() -> None:
    with pytest.raises(OSError, match="no space left"), EpochWriter() as writer:
        writer.write(fail, {"epoch": 1})
        raise KeyboardInterrupt
