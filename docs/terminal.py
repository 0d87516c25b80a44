"""Make docs/recordings/*.txt: what commands print on a terminal of 80 columns.

    python -m docs.terminal

Bars that move leave the state that was last to be seen.
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
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "recordings"
COLUMNS, ROWS = 80, 24
COMMANDS = {
    "dry-run": "cgan-infer folder examples out --dry-run",
    "folder": "cgan-infer folder examples out",
}
"""By the name of the file, run one after the other in a folder that holds examples/."""


def shown(command: str, folder: Path) -> str:
    """Run a command in a folder on a terminal of its own and return what stays on the screen.

    Raises:
        SystemExit: the command failed.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        name, *arguments = shlex.split(command)
        os.execve(Path(sys.executable).with_name(name), [name, *arguments], os.environ | {"COLUMNS": str(COLUMNS)})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    content = b""
    try:
        while part := os.read(terminal, 2**16):
            content += part
    except OSError:  # the end of a terminal
        pass
    if os.waitpid(process, 0)[1]:
        sys.exit(f"{command} failed: {content.decode()}")
    return f"$ {command}\n" + screen(content.decode())


def screen(output: str) -> str:
    """Return the lines of an output as they stay: a carriage return begins its line anew."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r\n", "\n").split("\n")
    states = ([state.rstrip() for state in line.split("\r") if state.strip()] for line in lines)
    return "\n".join(line[-1] for line in states if line) + "\n"


def main() -> None:
    """Write a file for each command."""
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "examples").symlink_to(ROOT / "examples")
        for file, command in COMMANDS.items():
            (TARGET / f"{file}.txt").write_text(shown(command, folder))


if __name__ == "__main__":
    main()
