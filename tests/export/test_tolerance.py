"""The limits of a comparison, and what stands in for those that nobody gave."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgan.errors import UserError
from cgan.spec import Precision, read_sidecar
from export.cli import main
from export.tolerance import TOLERANCES, Tolerance


@pytest.mark.parametrize("field", ["atol", "rtol", "max_off", "min_psnr"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.01, 1.01])
def test_a_limit_out_of_its_range_is_refused_with_its_flag(field: str, value: float) -> None:
    if field == "min_psnr" and math.isfinite(value):
        assert Tolerance(min_psnr=value).min_psnr == value
        return
    with pytest.raises(UserError, match=f"^--{field.replace('_', '-')}: found {value}, expected") as caught:
        Tolerance(**{field: value})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(
    "given",
    [{}, {"atol": 0.5}, {"atol": 0.0}, {"atol": 0.5, "rtol": 0.25}, {"min_psnr": 0.0}, {"max_off": 0.0}],
    ids=str,
)
def test_limits_left_open_are_those_of_another_tolerance(precision: Precision, given: dict[str, float]) -> None:
    own = TOLERANCES[precision]
    assert Tolerance(**given).or_else(own) == replace(own, **given)


def test_limits_of_its_own_stand() -> None:
    own = Tolerance(atol=0.5, rtol=0.25, min_psnr=20, max_off=0.75)
    assert own.or_else(Tolerance(atol=0.1, rtol=0.1, min_psnr=90, max_off=0.1)) == own


def test_a_least_psnr_leaves_the_default_share_of_int8_standing(
    invoke: Callable[..., Any], trained_run: Path, photo_folder: Path, tmp_path: Path
) -> None:
    options = ("--precision", "int8", "--calibration", photo_folder, "--min-psnr", 25)
    assert invoke(main, trained_run, "--out", tmp_path, *options).code == 0
    sidecar = read_sidecar(tmp_path / "unet-w4-rgb-32-int8-cpu.onnx")
    assert sidecar is not None
    assert Tolerance(**sidecar.verification["tolerance"]) == Tolerance(min_psnr=25, max_off=0.6)
