"""`python -m benchmarks int8` and `gates`: whole runs on a tiny model."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import gates, int8

pytestmark = pytest.mark.benchmarks


def test_every_version_has_a_row(exported_onnx: Path, photo_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "int8.json"
    options = ["--calibration", photo_folder, "--model", exported_onnx, "--photos", 4, "--rounds", 1, "--json", file]
    arguments = [photo_folder / "a", photo_folder / "b", *options]
    result = CliRunner().invoke(int8.main, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads(file.read_text())
    assert record["photos"] == {str(photo_folder / "a"): 4, str(photo_folder / "b"): 4}
    assert [row["float"] for row in record["rows"]] == [int8.UNSHARPENED, int8.OTHERWISE, *map(str, int8.ENDS)]
    for row in record["rows"]:
        assert row["speed"] > 0
        for found in row["folders"].values():
            assert 25 < found["worst"] <= found["psnr"] < 100
    # The ends and the copies do reach the export, and the folders are told apart.
    assert len({str(row["folders"]) for row in record["rows"]}) == len(record["rows"])
    assert all(len({str(found) for found in row["folders"].values()}) == 2 for row in record["rows"])
    assert len(result.output.splitlines()) == len(record["rows"])


def test_honest_exports_pass_and_spoiled_ones_are_caught(trained_run: Path, photo_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    shutil.copy(trained_run / "checkpoints" / "best.safetensors", other)
    file = tmp_path / "gates.json"
    options = ["--reference", trained_run, "--calibration", photo_folder, "--other", other, "--photos", 6]
    options += ["--json", file]
    result = CliRunner().invoke(gates.main, [str(photo_folder), *map(str, options)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads(file.read_text())
    verdicts = {row["candidate"]: row["passed"] for row in record["rows"]}
    assert list(verdicts) == [
        *("fp32", "fp16", "int8", "int8 calibrated on noise"),
        *("gamma 1.02", "red and blue swapped", "another checkpoint"),
    ]
    assert verdicts["fp32"]
    assert verdicts["fp16"]
    assert not verdicts["gamma 1.02"]
    assert not verdicts["red and blue swapped"]
    for row in record["rows"]:
        assert row["passed"] == (not row["failed_gates"])
        assert ("caught" in next(line for line in result.output.splitlines() if line.startswith(row["candidate"]))) == (
            not row["passed"]
        )
