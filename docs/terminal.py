"""Make docs/recordings/: what commands print on a terminal of 80 columns, as text.

    python -m docs.terminal

Trains on small random photos, which say nothing about results. Of a bar that moves, the file keeps the last state
before each line that stays, and that while an epoch is evaluated.
"""

import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import tempfile
import termios
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "recordings"
COLUMNS, ROWS = 80, 24
COMMANDS = {
    "dry-run": "cgan-infer folder examples out --dry-run",
    "folder": "cgan-infer folder examples out",
    "training": "cgan-train PHOTOS --out run --no-fid --width 4 --size 32 --batch-size 16 --epochs 3 "
    "--test-fraction 0.2",
    "export": "cgan-export run --out models",
}
"""By the name of the file, run one after the other in a folder that holds examples/ and PHOTOS/."""


def record(command: str, folder: Path) -> str:
    """Run a command in a folder, on a terminal of its own, and return what was to be seen.

    Raises:
        SystemExit: the command failed.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        name, *arguments = shlex.split(command)
        own = {"CGAN_CACHE": str(folder / "cache"), "COLUMNS": str(COLUMNS), "PYTHONWARNINGS": "ignore"}
        os.execve(Path(sys.executable).with_name(name), [name, *arguments], os.environ | own)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    content = b""
    try:
        while part := os.read(terminal, 2**16):
            content += part
    except OSError:  # the end of a terminal
        pass
    if os.waitpid(process, 0)[1]:
        sys.exit(f"{command} failed: {content.decode()}")
    shown = " \\\n    ".join(textwrap.wrap(f"$ {command}", COLUMNS - 6, break_on_hyphens=False))
    return f"{shown}\n{readable(content.decode())}"


def readable(output: str) -> str:
    """Return the output of a terminal without what was written over, but with the last states of its bars."""
    lines: list[str] = []
    for line in output.replace("\r\n", "\n").split("\n"):
        states = [state.rstrip() for state in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).split("\r")]
        kept = {_kind(state): state for state in states[:-1] if state}
        lines += [*kept.values(), states[-1]] if states[-1] or not kept else kept.values()
    return "\n".join(lines)


def _kind(state: str) -> str:
    """Return the words of a state without its numbers: states of equal words replace each other."""
    return " ".join(re.findall("[a-zA-Z]{3,}", state))


def main() -> None:
    """Write a file for each command."""
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder, random = Path(name), np.random.default_rng(0)
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "PHOTOS").mkdir()
        for number in range(60):
            blotches = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8))
            blotches.resize((96, 80), Image.Resampling.BICUBIC).save(folder / "PHOTOS" / f"{number:02d}.png")
        for file, command in COMMANDS.items():
            (TARGET / f"{file}.txt").write_text(record(command, folder))


if __name__ == "__main__":
    main()
