"""Folder runs in processes of their own, for the checks of `python -m benchmarks stress`."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infer.folder.report import REPORT_NAME
from infer.packaged import DEFAULT_MODEL

ROOT = Path(__file__).parent.parent
PROGRAM = "from infer.cli import main; main()"
"""The command `cgan-infer`, as code for `python -c`."""
LAUNCHER = """
import os, signal, sys, threading
process = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
timer = threading.Timer(float(sys.argv[1]), os.kill, (process, signal.SIGKILL))
timer.daemon = True
timer.start()
_, status, usage = os.wait4(process, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""
"""Runs a command for at most so many seconds, and prints its exit code and its peak memory in KiB as the last line. A
process of its own: Linux counts the memory of the process that starts a command, here with the test photos, as that of
the command."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings of a check."""

    folder: Path
    """An empty folder for everything that this check writes."""
    photos: Path | None = None
    model: Path = DEFAULT_MODEL
    files: int | None = None
    """Number of photos; None leaves it to the check."""
    kills: int = 30
    quick: bool = False

    def count(self, whole: int, quick: int) -> int:
        """Return the number of photos: `files`, else that of a quick or of a whole check."""
        return self.files or (quick if self.quick else whole)

    def command(self, source: Path, target: Path, *options: str) -> list[str]:
        """Return the command line of `cgan-infer folder`."""
        fixed = ["--model", str(self.model), "--device", "cpu", "--quiet"]
        return [sys.executable, "-c", PROGRAM, "folder", str(source), str(target), *fixed, *options]


@dataclass
class Findings:
    """Results of one check."""

    figures: dict[str, Any] = field(default_factory=dict)
    line: str = ""
    """The figures in words."""
    problems: list[str] = field(default_factory=list)
    """Reasons why the check fails; without any it passes."""

    def expect(self, kept: object, problem: str) -> None:
        """Add a problem if `kept` is false."""
        if not kept:
            self.problems.append(problem)


@dataclass(frozen=True)
class Run:
    """A folder run that ended by itself."""

    code: int
    peak_mib: float
    seconds: float
    """Wall-clock time of the whole process."""
    report: dict[str, Any]
    """Content of report.json; empty where it was not written."""
    said: str
    """Its standard error."""

    @property
    def error(self) -> str:
        """Last line of its standard error."""
        return (self.said.strip().splitlines() or [""])[-1]


def run(setup: Setup, source: Path, target: Path, *options: str, seconds: float = 10**6) -> Run:
    """Run the command to its end; kill it after `seconds`."""
    began = time.perf_counter()
    command = [sys.executable, "-c", LAUNCHER, str(seconds), *setup.command(source, target, *options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    code, kib = map(int, done.stdout.split()[-2:])
    report = target / REPORT_NAME
    values = json.loads(report.read_text()) if report.exists() else {}
    return Run(code, kib / 1024, time.perf_counter() - began, values, done.stderr)
