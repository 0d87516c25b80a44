"""Python processes that have loaded the heavy packages already: forks of a server that each test worker keeps.

For tests of whole commands and of what a killed process leaves. A new interpreter spends some six seconds of each on
importing torch. Tests about imports, the environment or standard streams start a new interpreter all the same.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Warm:
    """A process of the server's, with its number `pid`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @cached_property
    def exit_code(self) -> int:
        """Wait for its end; negative where a signal ended it."""
        return _ask(self.pid)


def start(
    code: str, *arguments: object, output: Path, environment: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Warm:
    """Execute `code` with these arguments.

    Args:
        output: a folder to be made, for the files `out` and `err`.
    """
    output.mkdir()
    request: dict[str, object] = {
        "code": code,
        "arguments": [str(argument) for argument in arguments],
        "environment": dict(environment or os.environ),
        "cwd": str(cwd),
        "out": str(output / "out"),
        "err": str(output / "err"),
    }
    return Warm(_ask(request))


def run(
    code: str, *arguments: object, environment: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Execute `code` with these arguments and return how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        ended = start(code, *arguments, output=output, environment=environment, cwd=cwd).exit_code
        out, err = ((output / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess([code, *map(str, arguments)], ended, out, err)


def _ask(request: int | dict[str, object]) -> int:
    server = _server()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("warm_server.py")), str(ROOT)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
