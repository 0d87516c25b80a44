"""Commands run as programs: a user error is one line and an exit code."""

import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cgan.command import exit_on_user_error, run_command
from cgan.errors import ChangedFileError, GateError, UserError
from tests.hostile import HOSTILE, is_safe


@pytest.mark.parametrize(("kind", "code"), [(UserError, 2), (ChangedFileError, 2), (GateError, 1)])
def test_a_user_error_becomes_one_line_and_its_exit_code(
    kind: type[UserError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, exit_on_user_error():
        raise kind("--width: found 0, expected at least 1")
    assert caught.value.code == code
    assert capsys.readouterr() == ("", "error: --width: found 0, expected at least 1\n")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_user_error():
        raise ZeroDivisionError


COMMAND = "import click; from cgan.command import run_command; run_command(click.Command('c', callback={}), [], 'c')"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("printed", ["print", "lambda: print('x' * 100_000)"])
def test_output_that_finds_no_room_is_one_line(printed: str) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-c", COMMAND.format(printed)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: the output cannot be written ([Errno 28] No space left on device); make room where it goes\n"
    )


def test_a_group_without_a_command_prints_its_help_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(click.Group("c", commands=[click.Command("one", help="Do one thing.")]), [], "c")
    assert caught.value.code == 2
    assert "  one  Do one thing." in capsys.readouterr().err.splitlines()


FAILING = """
import sys
from cgan import command
class Command:
    def main(self, *args, **options):
        {statement}
command.run_command(Command(), [], "c")
"""


@pytest.mark.parametrize(
    ("statement", "code", "message"),
    [
        ("raise PermissionError(13, 'Permission denied', 'secret')", 2, "error: secret: Permission denied; give "),
        ("open('a' * 300)", 2, f"error: {'a' * 300}: File name too long; "),
        (
            "raise FileNotFoundError(2, 'No usable temporary directory found in [/tmp]')",
            1,
            "error: No usable temporary",
        ),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line(statement: str, code: int, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(statement=statement)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert done.stderr.startswith(message)


def test_a_missing_file_that_nobody_named_is_a_bug() -> None:
    script = FAILING.format(statement="open('no such file')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("Traceback")


def test_a_closed_stderr_is_not_the_next_file(tmp_path: Path) -> None:
    statement = f"file = open({str(tmp_path / 'file')!r}, 'w'); print('said', file=sys.stderr); print(file.fileno())"
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, FAILING.format(statement=statement)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert int(done.stdout) > 2


def test_output_that_nobody_takes_is_no_error() -> None:
    command = f'{sys.executable} -c "{COMMAND.format("print")}" >&-'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[""], ["photos", "--out", ""], ["--out="]])
def test_an_empty_argument_is_refused_by_all_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cgan.cli", "export.cli", "infer.cli"):
        with pytest.raises(SystemExit) as caught:
            importlib.import_module(name).main(arguments)
        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("error: found an empty argument")


def test_a_full_disk_under_any_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x/journal.sqlite")

    with pytest.raises(SystemExit) as caught:
        run_command(command, [], "c")
    assert caught.value.code == 1
    assert capsys.readouterr().err == (
        "error: /tmp/x/journal.sqlite: cannot be written (No space left on device); make room there\n"
    )


def test_a_reader_that_is_gone_is_no_error() -> None:
    printed = "lambda: print_json(['x' * 10**5]) or print_result('y')"
    program = f"from cgan.text import print_json, print_result; {COMMAND.format(printed)}"
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_click_s_own_messages_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(click.Command("c"), [HOSTILE], "c")
    out, err = capfd.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.splitlines()[-1].startswith(r"Error: Got unexpected extra argument (a\x1b]0;x\x07\r\nerror: \u202e")
    assert is_safe(err)
