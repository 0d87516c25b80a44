"""Refusal of options of cgan-export that would have no effect together."""

from typing import Any

from cgan.errors import UserError
from export.choices import ENGINE_FORMATS, ONNX_SUFFIX, PLAN_SUFFIX, TRITON

_ENGINE_ONLY = (
    "sizes",
    "workspace",
    "optimization_level",
    "version_compatible",
    "hardware_compatible",
    "compute_capability",
    "strip_weights",
    "detailed_profiling",
    "timing_cache",
)
LIMITS = ("atol", "rtol", "min_psnr", "max_off")
_OF_A_COMPARISON = frozenset({*LIMITS, "batch", "calibration", "checkpoint"})


def check_options(given: dict[str, Any], compares: bool, looks: bool, suffix: str) -> None:
    """Check that every option has an effect in this combination.

    Args:
        given: all options of the command by parameter name.
        compares: True with --verify.
        looks: True with --inspect.
        suffix: of SOURCE, in small letters.

    Raises:
        UserError: an option has none.
    """
    # By identity: a limit of 0 is not the same as no limit.
    used = {name for name, value in given.items() if value is not None and value is not False and value != ()}
    used -= {"quiet"}
    if compares and (idle := used - _OF_A_COMPARISON):
        _refuse(idle, "--verify, which writes nothing")
    if looks and (idle := used | ({"quiet"} if given["quiet"] else set())):
        _refuse(idle, "--inspect, which only prints facts")
    engine = is_engine(given)
    if not engine:
        _needs(used, _ENGINE_ONLY, "--format tensorrt or tensorrt-rtx")
    elif "int8_target" in used:
        _refuse({"int8_target"}, f"--format {given['format_']}, whose int8 is always for TensorRT")
    triton, from_onnx = given["format_"] == TRITON, suffix == ONNX_SUFFIX
    if from_onnx and (idle := used & {"precision", "dynamic_size", "checkpoint"}):
        _refuse(idle, "an ONNX file as SOURCE, which fixes them")
    if triton:
        _check_triton(used, suffix)
    if "push" in used and (idle := used & {"no_verify", "strip_weights"}):
        _refuse(idle, "--push, which uploads one verified file")
    if not (given["dynamic_size"] or from_onnx):
        _needs(used, ("sizes",), "--dynamic-size")
    if given["precision"] == "auto" and given["calibration"] is None:
        _needs(used, ("int8_target",), "--calibration, without which auto does not try int8")
    elif given["precision"] not in ("int8", "auto"):
        _needs(used, ("int8_target",), "--precision int8")
    if given["precision"] != "auto":
        _needs(used, ("prefer",), "--precision auto")
    elif given["min_psnr"] is None:
        raise UserError("--precision auto: found no --min-psnr, expected the lowest allowed PSNR in dB; give one")
    if given["no_verify"]:
        _needs(
            used,
            (*LIMITS, "keep_failed", *(() if engine or triton else ("batch",))),
            "a comparison, which --no-verify leaves out",
        )
        if given["precision"] == "auto":
            raise UserError("--precision auto chooses by comparison, which --no-verify leaves out; drop one")
    if "atol" not in used:
        _needs(used, ("rtol",), "--atol")


def _check_triton(used: set[str], suffix: str) -> None:
    if idle := used & {"keep_failed", "push"}:
        _refuse(idle, "--format triton")
    if suffix == PLAN_SUFFIX and (idle := used & {"precision", "dynamic_size", "checkpoint", "batch"}):
        _refuse(idle, "an engine as SOURCE, which fixes them")
    if suffix in (ONNX_SUFFIX, PLAN_SUFFIX) and (idle := used & {*LIMITS, "calibration", "int8_target"}):
        _refuse(idle, "a file as SOURCE, which was compared when it was made")


def is_engine(given: dict[str, Any]) -> bool:
    """Return True if the options ask for an engine of TensorRT."""
    return given["format_"] in ENGINE_FORMATS


def _needs(used: set[str], names: tuple[str, ...], needed: str) -> None:
    if idle := used & set(names):
        raise UserError(f"{_flags(idle)}: no effect without {needed}; leave it out")


def _refuse(idle: set[str], beside: str) -> None:
    raise UserError(f"{_flags(idle)}: no effect beside {beside}; leave it out")


def _flags(names: set[str]) -> str:
    return ", ".join(
        sorted({"sizes": "--size", "format_": "--format"}.get(name, f"--{name.replace('_', '-')}") for name in names)
    )
