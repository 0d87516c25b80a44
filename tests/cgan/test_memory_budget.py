"""A budget of memory that threads share."""

import threading

from cgan.memory_budget import MemoryBudget


def test_a_thread_waits_until_there_is_room() -> None:
    budget, entered = MemoryBudget(10), threading.Event()

    def other() -> None:
        with budget.taken(5):
            entered.set()

    with budget.taken(6):
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.1)
        with budget.taken(4):
            pass
    assert entered.wait(20)
    thread.join()


def test_more_than_the_limit_goes_alone() -> None:
    with MemoryBudget(10).taken(100):
        pass
