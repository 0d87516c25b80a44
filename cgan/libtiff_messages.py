"""Errors that libtiff prints to standard error while Pillow decodes a TIFF, collected for the thread that decodes."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import _imaging

from cgan.text import say

LONGEST = 200
"""Largest number of bytes that are kept of a message."""

MOST = 3
"""Largest number of messages that are kept of a photo; a damaged one can have one for each row."""

_collecting = threading.local()
"""Of each thread: `messages`, the list that receives them, None outside of `collected`."""


@contextmanager
def collected() -> Iterator[list[str]]:
    """Yield a list that receives the messages of this thread during the block.

    Where Pillow holds libtiff in a way that hides its functions, the list stays empty and libtiff prints.
    """
    _install()
    outer, _collecting.messages = getattr(_collecting, "messages", None), []
    try:
        yield _collecting.messages
    finally:
        _collecting.messages = outer


@cache
def _install() -> Any:
    """Replace libtiff's handler of errors in this process; returns the new one, which must not be freed."""
    try:
        # A symbol is looked up in a library and in those that it was linked with.
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        format_ = ctypes.CDLL(None).vsnprintf
    except (AttributeError, OSError, TypeError):
        return None
    # On all systems with a C ABI of 64 bits a va_list is passed as a pointer, or in a register of that size.
    format_.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]
    set_handler.restype = ctypes.c_void_p

    def collect(module: bytes | None, text: bytes, values: int) -> None:
        buffer = ctypes.create_string_buffer(LONGEST)
        format_(buffer, LONGEST, text, values)
        message = f"libtiff: {buffer.value.decode(errors='replace')}"
        messages = getattr(_collecting, "messages", None)
        if messages is None:
            say(message)
        elif message not in messages and len(messages) < MOST:
            messages.append(message)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(collect)
    set_handler(handler)
    return handler
