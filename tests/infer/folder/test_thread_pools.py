"""Threads of a run."""

import functools
import threading
import weakref

from infer.folder.thread_pools import Pool


class Photo:
    """What a call holds."""


def test_a_thread_without_a_call_holds_no_photo() -> None:
    photo, freed = Photo(), threading.Event()
    weakref.finalize(photo, freed.set)
    pool = Pool(1)
    pool.put(functools.partial(isinstance, photo, Photo))
    del photo
    assert freed.wait(60)
    pool.close()
