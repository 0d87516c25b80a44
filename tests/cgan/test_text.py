"""Text for people: one way to the terminal, on which foreign text is escaped."""

import ast
import json
import logging
import sys
import warnings
from pathlib import Path

import pytest

from cgan import text
from cgan.text import counted, json_text, print_result, printable, safe_stderr, say, shown, told_apart
from tests.hostile import HOSTILE, RAW

ROOT = Path(__file__).parent.parent.parent
MODULES = sorted(path for name in ("cgan", "export", "infer") for path in (ROOT / name).rglob("*.py"))
PRINTS = frozenset({"print", "print_exc", "pprint", "echo", "secho", "warn", "writelines", "basicConfig"})


def prints(call: ast.Call) -> bool:
    """True for a call that prints, or writes to a standard stream."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in PRINTS
    if not isinstance(function, ast.Attribute):
        return False
    owner = ast.unparse(function.value)
    if function.attr == "warn":
        return owner in ("warnings", "logging", "logger")  # Console.warn says it
    return function.attr in PRINTS or (function.attr == "write" and owner in ("sys.stdout", "sys.stderr", "tqdm"))


def test_nothing_prints_but_this_module() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        if path != Path(text.__file__)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and prints(node)
    }
    assert not found


@pytest.mark.parametrize("raw", [*map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0)), *RAW])
def test_no_control_passes(raw: str) -> None:
    assert printable(f"a{raw}ü 花").isprintable()
    assert printable(f"a{raw}", keep=raw) == f"a{raw}"


def test_what_is_escaped_can_be_read() -> None:
    assert printable("\x1b]0;x\x07\r\n\u202e\x9b\udcff ü") == r"\x1b]0;x\x07\r\n\u202e\x9b\udcff ü"


def test_each_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo", HOSTILE)
    print_result("three\nfour")
    out, err = capsys.readouterr()
    assert (err.count("\n"), out) == (2, "three\\nfour\n")
    assert err.replace("\n", "").isprintable()


def test_warnings_and_logs_of_libraries_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with safe_stderr():
        sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, "x.py", 1))  # pytest collects those of warn()
        assert logging.lastResort
        logging.lastResort.emit(logging.LogRecord("x", logging.WARNING, "x", 1, HOSTILE, None, None))
        sys.stderr.writelines([HOSTILE])
        print("\rbar", file=sys.stderr)
        assert not sys.stderr.isatty()
    err = capsys.readouterr().err
    assert err.count("\\x1b]0;x\\x07") == 3
    assert err.replace("\n", "").replace("\rbar", "").isprintable()


def test_json_holds_every_value_and_no_control() -> None:
    values = {HOSTILE: [HOSTILE, "\x7f", 0.5, None]}
    assert json_text(values).isascii() and json_text(values).isprintable()
    assert json.loads(json_text(values, indent=2)) == values


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 photos"), (1, "1 photo"), (2, "2 photos"), (1000, "1000 photos")]
)
def test_counts(number: int, expected: str) -> None:
    assert counted(number, "photo") == expected
    assert counted(1, "child", "children") == "1 child" and counted(2, "child", "children") == "2 children"


@pytest.mark.parametrize(
    ("found", "expected", "texts"),
    [
        (59.99, 60.0, ("59.99", "60")),
        (59.9999, 60.0, ("59.9999", "60")),
        (0.1 + 0.2, 0.3, ("0.30000000000000004", "0.29999999999999999")),
        (60.0, 60.0, ("60", "60")),
        ("a" * 64, "b" * 64, ("a" * 16 + "...", "b" * 16 + "...")),
        ("a" * 64, "a" * 63 + "b", ("a" * 64, "a" * 63 + "b")),
        ("a" * 20, "a" * 64, ("a" * 20, "a" * 21 + "...")),
        ("", "b" * 64, ("", "b" * 16 + "...")),
        ("a" * 64, "a" * 64, ("a" * 16 + "...", "a" * 16 + "...")),
    ],
)
def test_values_that_differ_look_different(found: float | str, expected: float | str, texts: tuple[str, str]) -> None:
    assert told_apart(found, expected) == texts


def test_foreign_values_are_shown_in_short() -> None:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    for value in ("x" * 10**6, list(range(10**5)), {"a": "x" * 10**6}, nested):
        assert len(shown(value)) < 1000
    assert shown("a\x1b") == r"'a\x1b'"
