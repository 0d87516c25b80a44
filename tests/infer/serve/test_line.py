"""The line of waiting photos: bounded, and fair to clients."""

import threading

import pytest

from infer.serve.line import FullError, Line


def test_clients_take_turns() -> None:
    line = Line[int](9)
    for client, item in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)]:
        assert line.put(client, item) is None
    assert len(line) == 6
    assert [line.take() for _ in range(7)] == [1, 4, 5, 2, 6, 3, None]
    assert len(line) == 0


def test_a_full_line_takes_from_whoever_has_most() -> None:
    line = Line[int](3)
    for item in range(3):
        line.put("a", item)
    with pytest.raises(FullError):
        line.put("a", 9)
    assert line.put("b", 3) == 2
    with pytest.raises(FullError):
        line.put("b", 4)  # both would have two
    with pytest.raises(FullError):
        line.check("b")
    assert line.put("c", 5) == 1
    with pytest.raises(FullError):
        line.check("d")
    assert [line.take() for _ in range(4)] == [0, 3, 5, None]


def test_items_can_be_removed() -> None:
    line = Line[int](3)
    line.put("a", 1)
    line.put("a", 2)
    line.remove("a", 1)
    line.remove("a", 1)
    line.remove("b", 2)
    assert (len(line), line.take(), line.take()) == (1, 2, None)
    line.put("a", 3)
    line.remove("a", 3)
    assert line.take() is None


def test_waiting_ends_with_an_item_or_when_the_line_is_closed() -> None:
    line = Line[int](1)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(line.wait()))
    thread.start()
    line.put("a", 1)
    thread.join()
    line.close()
    assert (found, line.wait(), line.take(), line.wait()) == ([True], True, 1, False)
    assert not Line[int](1).wait(0.0)
