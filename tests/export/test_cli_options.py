"""Every option of cgan-export changes something or is refused with its flag and what to do."""

import ast
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest

from cgan.errors import GateError
from export import artefact as pipeline
from export.artefact import ExportOptions
from export.cli import command, main
from export.engine_options import EngineOptions
from export.tolerance import Tolerance

FOLDER = Path(__file__).parent

RTX = ("--format", "tensorrt-rtx")
TRT = ("--format", "tensorrt")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path, ExportOptions, EngineOptions | None]]:
    """Source, folder and options that the command asked for; nothing is made."""
    calls: list[Any] = []

    def make(source: Path, out: Path, options: ExportOptions, engine: Any = None, progress: Any = None) -> None:
        calls.append((source, out, options, engine))
        raise GateError("made nothing")

    monkeypatch.setattr(pipeline, "make_onnx", make)
    monkeypatch.setattr(pipeline, "make_engine", make)
    return calls


ONNX_DEFAULTS = ExportOptions()
ENGINE_EXPORT_DEFAULTS = ExportOptions(precision="fp16", int8_target="tensorrt", batch_sizes=(1, 16, 64))


def changes(found: Any, default: Any) -> dict[str, Any]:
    """Fields that differ from the default, without the one that prints."""
    found, default = vars(found), vars(default)
    return {name: value for name, value in found.items() if value != default[name] and name != "on_step"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("--format", "onnx"), {}),
        (("--precision", "fp32"), {}),
        (("--precision", "fp16"), {"precision": "fp16"}),
        (("--precision", "int8"), {"precision": "int8"}),
        (("--overwrite",), {"overwrite": True}),
        (("--precision", "int8", "--int8-target", "tensorrt"), {"precision": "int8", "int8_target": "tensorrt"}),
        (("--dynamic-size",), {"dynamic_size": True}),
        (("--calibration", "photos"), {"calibration": Path("photos")}),
        (("--batch", "2,3,4"), {"batch_sizes": (2, 3, 4)}),
        (("--atol", "0.5"), {"tolerance": Tolerance(atol=0.5)}),
        (("--atol", "0.5", "--rtol", "0.25"), {"tolerance": Tolerance(atol=0.5, rtol=0.25)}),
        (("--min-psnr", "33"), {"tolerance": Tolerance(min_psnr=33)}),
        (("--max-off", "0.5"), {"tolerance": Tolerance(max_off=0.5)}),
        (("--atol", "0"), {"tolerance": Tolerance(atol=0)}),
        (("--no-verify",), {"verify": False}),
        (("--keep-failed",), {"keep_failed": True}),
    ],
)
def test_options_of_an_onnx_file(
    invoke: Callable[..., Any], made: list[Any], options: tuple[str, ...], expected: dict[str, Any]
) -> None:
    invoke(main, "run", "--out", "out", *options).error(1)
    ((source, out, found, engine),) = made
    assert (source, out, engine) == (Path("run"), Path("out"), None)
    assert changes(found, ONNX_DEFAULTS) == expected


@pytest.mark.parametrize(
    ("options", "of_export", "of_engine"),
    [
        (RTX, {}, {}),
        (TRT, {}, {"flavour": "tensorrt"}),
        ((*RTX, "--batch", "1,2,3"), {"batch_sizes": (1, 2, 3)}, {"batch": (1, 2, 3)}),
        ((*RTX, "--precision", "fp32"), {"precision": "fp32"}, {}),
        ((*RTX, "--dynamic-size", "--size", "32,48,64"), {"dynamic_size": True}, {"sizes": (32, 48, 64)}),
        ((*RTX, "--workspace", "64"), {}, {"workspace_mib": 64}),
        ((*RTX, "--strip-weights"), {}, {"strip_weights": True}),
        ((*RTX, "--detailed-profiling"), {}, {"detailed_profiling": True}),
        (
            (*RTX, "--compute-capability", "8.6", "--compute-capability", "9.0"),
            {},
            {"compute_capabilities": ("8.6", "9.0")},
        ),
        ((*TRT, "--optimization-level", "0"), {}, {"flavour": "tensorrt", "optimization_level": 0}),
        ((*TRT, "--version-compatible"), {}, {"flavour": "tensorrt", "version_compatible": True}),
        ((*TRT, "--hardware-compatible"), {}, {"flavour": "tensorrt", "hardware_compatible": True}),
        ((*TRT, "--timing-cache", "cache"), {}, {"flavour": "tensorrt", "timing_cache": Path("cache")}),
    ],
)
def test_options_of_an_engine(
    invoke: Callable[..., Any],
    made: list[Any],
    options: tuple[str, ...],
    of_export: dict[str, Any],
    of_engine: dict[str, Any],
) -> None:
    invoke(main, "run", "--out", "out", *options).error(1)
    ((_, _, found, engine),) = made
    assert changes(found, ENGINE_EXPORT_DEFAULTS) == of_export
    assert changes(engine, EngineOptions(flavour="tensorrt-rtx")) == of_engine


def test_verify_takes_the_options_of_a_comparison(
    invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []

    def compare(*arguments: Any) -> None:
        calls.append(arguments)
        raise GateError("compared nothing")

    monkeypatch.setattr(pipeline, "compare", compare)
    options = ("--batch", "2,3,4", "--calibration", "photos", "--min-psnr", "30", "--max-off", "1")
    invoke(main, "run", "--verify", "model.onnx", *options).error(1)
    ((artefact, source, found),) = calls
    assert (artefact, source) == (Path("model.onnx"), Path("run"))
    expected = {
        "batch_sizes": (2, 3, 4),
        "calibration": Path("photos"),
        "tolerance": Tolerance(min_psnr=30, max_off=1),
    }
    assert changes(found, ONNX_DEFAULTS) == expected


OUT = ("run", "--out", "out")
VERIFY = ("run", "--verify", "model.onnx")
INSPECT = ("--inspect", "model.onnx")
ENGINE = "no effect without --format tensorrt or tensorrt-rtx; leave it out"
AUTO = ("--precision", "auto", "--min-psnr", "30")
COMPARISON = "no effect without a comparison, which --no-verify leaves out; leave it out"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "give --out DIR to export, --verify FILE to compare or --inspect FILE to print facts"),
        (("run",), "give --out DIR"),
        (
            (*OUT, "--verify", "model.onnx"),
            "one of the three",
        ),
        (
            (*OUT, "--inspect", "model.onnx"),
            "one of the three",
        ),
        (
            (*VERIFY, "--inspect", "model.onnx"),
            "one of the three",
        ),
        (("--out", "out"), "expected SOURCE"),
        (("--verify", "model.onnx"), "expected SOURCE"),
        (("run", *INSPECT), "no SOURCE with --inspect"),
        ((*VERIFY, "--no-verify"), "--no-verify: no effect beside --verify"),
        ((*VERIFY, "--keep-failed"), "--keep-failed: no effect beside --verify"),
        ((*VERIFY, "--precision", "fp16"), "--precision: no effect beside --verify"),
        ((*VERIFY, "--dynamic-size"), "--dynamic-size: no effect beside --verify"),
        ((*VERIFY, "--workspace", "1", "--strip-weights"), "--strip-weights, --workspace: no effect beside --verify"),
        ((*INSPECT, "--atol", "0.1"), "--atol: no effect beside --inspect, which only prints facts; leave it out"),
        ((*INSPECT, "--batch", "1,2,3"), "--batch: no effect beside --inspect"),
        ((*INSPECT, "--calibration", "photos"), "--calibration: no effect beside --inspect"),
        *(
            ((*OUT, "--dynamic-size", *option), f"{option[0]}: {ENGINE}")
            for option in (
                ("--size", "16,32,48"),
                ("--workspace", "1"),
                ("--optimization-level", "1"),
                ("--version-compatible",),
                ("--hardware-compatible",),
                ("--compute-capability", "8.6"),
                ("--strip-weights",),
                ("--detailed-profiling",),
                ("--timing-cache", "cache"),
            )
        ),
        ((*OUT, *RTX, "--size", "16,32,48"), "--size: no effect without --dynamic-size"),
        ((*OUT, *RTX, "--precision", "int8", "--int8-target", "cpu"), "--int8-target: no effect beside --format"),
        ((*OUT, "--int8-target", "cpu"), "--int8-target: no effect without --precision int8"),
        ((*OUT, "--prefer", "size"), "--prefer: no effect without --precision auto"),
        ((*OUT, "--precision", "auto"), "found no --min-psnr"),
        ((*OUT, *AUTO, "--no-verify"), "--min-psnr: no effect without a comparison"),
        *(
            ((*OUT, "--no-verify", *option), f"{option[0]}: {COMPARISON}")
            for option in (("--atol", "0.1"), ("--min-psnr", "3"), ("--max-off", "0.1"), ("--keep-failed",))
        ),
        ((*OUT, "--rtol", "0.1"), "--rtol: no effect without --atol; leave it out"),
        ((*OUT, "--min-psnr", "30", "--rtol", "0.1"), "--rtol: no effect without --atol; leave it out"),
        ((*OUT, "--atol", "2"), "--atol: found 2.0, expected a number from 0 to 1"),
        ((*OUT, "--atol", "0.1", "--rtol", "nan"), "--rtol: found nan, expected a number from 0 to 1"),
        ((*OUT, "--max-off", "-0.1"), "--max-off: found -0.1, expected a number from 0 to 1"),
        ((*OUT, "--min-psnr", "inf"), "--min-psnr: found inf, expected a finite number"),
        *(
            ((*OUT, "--batch", value), f"--batch: found {value}, expected three non-decreasing numbers")
            for value in ("1", "1,2", "1,2,3,4", "0,1,2", "3,2,1", "1,2,x", "1,,2", "-1,1,2", "1.0,2,3")
        ),
        (
            (*OUT, *RTX, "--dynamic-size", "--size", "48,32,64"),
            "--size: found 48,32,64, expected three",
        ),
        pytest.param(
            (*OUT, "--batch", "1,2,\u00b3"),
            "--batch: found 1,2,\u00b3",
        ),
        pytest.param((*OUT, "--optimization-level", "0"), f"--optimization-level: {ENGINE}"),
        pytest.param((*OUT, "--no-verify", "--max-off", "0"), f"--max-off: {COMPARISON}"),
        pytest.param((*OUT, "--no-verify", "--atol", "0"), f"--atol: {COMPARISON}"),
        pytest.param((*INSPECT, "--atol", "0"), "--atol: no effect beside --inspect"),
        pytest.param((*OUT, "--rtol", "0"), "--rtol: no effect without --atol"),
        pytest.param((*OUT, "--no-verify", "--batch", "1,2,3"), f"--batch: {COMPARISON}"),
        pytest.param((*VERIFY, *TRT), "--format: no effect beside --verify"),
        pytest.param((*INSPECT, *RTX), "--format: no effect beside --inspect"),
        pytest.param((*INSPECT, "--quiet"), "--quiet: no effect beside --inspect"),
        pytest.param(("m.onnx", *OUT[1:], *RTX, "--precision", "fp32"), "--precision: no effect"),
        pytest.param(("m.onnx", *OUT[1:], *RTX, "--precision", "int8"), "--precision: no effect"),
        pytest.param((*OUT, *AUTO, "--int8-target", "tensorrt"), "--int8-target: no effect without --calibration"),
    ],
)
def test_options_without_effect_are_refused(
    invoke: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: list[Any],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    error = invoke(main, *arguments).error(2)
    assert expected in error
    assert made == [] and list(tmp_path.iterdir()) == []


# the guard


def strings(path: Path) -> set[str]:
    """String constants of a test module."""
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_option_is_used_by_some_test() -> None:
    """So that an option added to the command without a test is noticed."""
    tests = FOLDER.parent
    files = (*FOLDER.glob("test_*.py"), *(tests / "integration").glob("test_*.py"), tests / "cgan/test_options_file.py")
    used = set().union(*map(strings, files))
    flags = {max(p.opts, key=len) for p in command.params if isinstance(p, click.Option)}
    assert len(flags) > 25
    assert flags <= used


def test_every_option_has_a_choice_for_each_branch() -> None:
    choices = {p.opts[0]: p.type.choices for p in command.params if isinstance(p.type, click.Choice)}
    used = set().union(*(strings(path) for path in FOLDER.glob("test_*.py")))
    assert all(choice in used for values in choices.values() for choice in values)


def test_every_field_of_the_options_is_set_by_a_flag() -> None:
    """No field that the command cannot reach."""
    parameters = {parameter.name for parameter in command.params}
    names = {"tolerance": "min_psnr", "batch_sizes": "batch", "verify": "no_verify", "flavour": "format_"}
    names["on_step"] = "quiet"
    names |= {"workspace_mib": "workspace", "compute_capabilities": "compute_capability"}
    fields = {**asdict(ONNX_DEFAULTS), **asdict(EngineOptions(flavour="tensorrt"))}
    assert {names.get(field, field) for field in fields} <= parameters


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ("--batch", f"1,2,{2**16 + 1}"),
            "--batch: found 1,2,65537, expected three non-decreasing numbers up to 65536",
        ),
        ((*RTX, "--dynamic-size", "--size", "32,64,8192"), "--size: found 32,64,8192, expected .* numbers up to 4096"),
        (("--batch", "1,2," + "9" * 5000), "--batch: found 1,2,9"),
    ],
)
def test_numbers_have_a_limit_that_is_named(
    options: tuple[str, ...], line: str, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    assert re.search(line, invoke(main, tmp_path, "--out", tmp_path / "out", *options).error(2))


def test_a_workspace_has_a_limit_that_is_named(tmp_path: Path, invoke: Callable[..., Any]) -> None:
    result = invoke(main, tmp_path, "--out", tmp_path / "out", *TRT, "--workspace", 2**63)
    assert result.code == 2 and "1<=x<=1048576" in result.err
