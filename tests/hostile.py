"""Foreign text that would control a terminal, and a check that none of it came through."""

import os

RAW = ("\x1b", "\x07", "\r", "\u202e", "\u2066", "\u200f", "\x9b", "\x7f", "\u2028", os.fsdecode(b"\xff"))
"""Characters that must not reach a terminal: escape, bell, return, marks of direction, CSI, DEL, and no UTF-8."""

HOSTILE = "a\x1b]0;x\x07\r\nerror: \u202e\u2066\u200f\x9b\x7f\u2028" + os.fsdecode(b"\xff") + "z"
"""A name that sets the title of a terminal, overwrites its line, begins another and turns the direction of writing."""


def is_safe(output: str) -> bool:
    """True if an output holds nothing but printable characters, line ends and tabs."""
    return all(c.isprintable() or c in "\n\t" for c in output)
