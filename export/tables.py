"""Tables of comparisons and of tried precisions, as lines for a terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.search import Trial


def trials_table(trials: list["Trial"]) -> list[str]:
    """Return the lines of a table of the precisions that --precision auto tried."""
    lines = ["precision       MB  images/s   PSNR"]
    for trial in trials:
        if trial.failure is None:
            psnr = "equal" if trial.psnr is None else f"{trial.psnr:.1f}"
            lines.append(f"{trial.precision:<9} {trial.megabytes:8.1f} {trial.images_per_second:9.1f} {psnr:>6}")
        else:
            lines.append(f"{trial.precision:<9} {'-':>8} {'-':>9} failed")
    return [*lines, *(f"{trial.precision} failed: {trial.failure}" for trial in trials if trial.failure is not None)]


def artefact_table(path: Path, numbers: dict[str, Any]) -> list[str]:
    """Return the lines of a table of the comparisons.

    Args:
        path: the artefact.
        numbers: the verification as JSON values; see `export.verify.Verification.to_json`.
    """
    if not numbers["verified"]:
        lines = [f"{path}: written, {numbers['reason'].upper()[:3]}{numbers['reason'][3:]}"]
        if "onnx" in numbers and numbers["onnx"]["verified"]:
            lines += ["the ONNX file that it was built from agrees with the trained model:", *_rows(numbers["onnx"])]
        return lines
    return [f"{path}: agrees with the trained model", *_rows(numbers)]


def _rows(numbers: dict[str, Any]) -> list[str]:
    return [
        "  images    batch  size         max       mean      PSNR   >1/255 off",
        *map(_row, numbers["comparisons"]),
    ]


def _row(c: dict[str, Any]) -> str:
    psnr = "equal" if c["psnr"] is None else f"{c['psnr']:.1f}"
    return (
        f"  {c['images']:<8} {c['batch_size']:>6}  {c['height']:>4} x {c['width']:<4} {c['max_difference']:9.2e} "
        f"{c['mean_difference']:9.2e}  {psnr:>6}  {c['off']:8.2%}"
    )
