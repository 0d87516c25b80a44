"""The report's experiments: every row is there, is a valid command, and lands in the table."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import ablation
from cgan.data.scan import scan

pytestmark = pytest.mark.benchmarks

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def quick_options(tiny_options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(option for option in tiny_options if option not in ("--quiet", "--no-fid"))


def test_all_experiments_of_the_report_are_rows() -> None:
    rows = ablation.report_rows()
    assert Counter(row.group for row in rows) == {
        "comparison": 9,
        "wasserstein": 4,
        "no-gan": 1,
        "weights": 11,
        "variants": 5,
        "rgb-loss": 2,
        "projected": 1,
        "final": 1,
    }
    assert len({row.name for row in rows}) == len(rows)
    assert {row.title: row.report_fid for row in rows if row.report_fid}["unet, ycbcr, Wasserstein"] == 52.77
    assert [row.epochs for row in rows if row.group in ("no-gan", "final")] == [30, 100]


def test_every_row_is_a_command_that_cgan_train_takes(
    invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path
) -> None:
    from cgan.cli import main

    for row in ablation.report_rows():
        result = invoke(
            main, photo_folder, "--out", tmp_path / "run", "--epochs", row.epochs, *row.options, "--no-fid", "--dry-run"
        )
        assert result.code == 0, result.err
        resolved = json.loads(result.out)
        assert resolved["epochs"] == row.epochs
        assert resolved["color_space"] in row.title
        assert (resolved["gan_loss"] == "wasserstein") == ("Wasserstein" in row.title)
        assert (resolved["loss_space"] == "rgb") == ("losses in RGB" in row.title)


def run_quickly(photos: Path, out: Path, options: tuple[str, ...], *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [
        "-m",
        "benchmarks",
        "ablation",
        str(photos),
        "--out",
        str(out),
        "--rows",
        "no-gan",
        "--quick",
        "--no-fid",
        *more,
        "--",
        *options,
    ]
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)


def test_a_row_is_trained_once_and_lands_in_table_and_chart(
    photo_folder: Path, tmp_path: Path, quick_options: tuple[str, ...]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.new("RGB", (40, 30), (40 * i, 90, 120)).save(pictures / f"{i}.png")
    first = run_quickly(photo_folder, tmp_path / "out", quick_options, "--pictures", str(pictures))
    assert first.returncode == 0, first.stderr
    assert Image.open(tmp_path / "out" / "pictures" / "l1-only.jpg").size == (3 * 128, 128)
    assert "| no GAN, rgb, L1 only | 3 |  | 87.99 |" in first.stdout
    assert "FID and KID were not measured." in (tmp_path / "out" / "ablation.md").read_text()
    assert (tmp_path / "out" / "ablation.png").stat().st_size > 1000
    assert {path.name for path in (tmp_path / "out" / "grids").iterdir()} <= {"l1-only.png", "l1-only-next.png"}
    assert (tmp_path / "out" / "grids" / "l1-only.png").is_file()
    refused = run_quickly(photo_folder, tmp_path / "out", (*quick_options, "--seed", "7"))
    assert refused.returncode == 2
    assert "found runs of a request" in refused.stderr
    moved = shutil.copytree(photo_folder, tmp_path / "moved")
    assert run_quickly(moved, tmp_path / "out", quick_options).returncode == 0
    scan(moved)[0].unlink()
    assert run_quickly(moved, tmp_path / "out", quick_options).returncode == 2
    request = tmp_path / "out" / "request.json"
    kept = request.read_text()
    request.write_text("{")
    assert "that nobody knows" in run_quickly(photo_folder, tmp_path / "out", quick_options).stderr
    request.write_text(kept)
    checkpoint = tmp_path / "out" / "runs" / "l1-only" / "checkpoints" / "last.safetensors"
    written = checkpoint.stat().st_mtime_ns
    second = run_quickly(photo_folder, tmp_path / "out", quick_options)
    assert second.returncode == 0, second.stderr
    assert checkpoint.stat().st_mtime_ns == written


def test_a_row_that_fails_is_named_and_the_exit_code_is_1(
    photo_folder: Path, tmp_path: Path, quick_options: tuple[str, ...]
) -> None:
    (tmp_path / "out" / "runs" / "l1-only").mkdir(parents=True)
    (tmp_path / "out" / "runs" / "l1-only" / "foreign.txt").touch()
    result = run_quickly(photo_folder, tmp_path / "out", quick_options)
    assert result.returncode == 1
    assert "failed: " in result.stdout
    assert "expected a new or empty folder" in (tmp_path / "out" / "ablation.md").read_text()


def test_an_unknown_group_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    arguments = [str(photo_folder), "--out", str(tmp_path), "--rows", "everything"]
    result = CliRunner().invoke(ablation.main, arguments)
    assert result.exit_code == 2
    assert "found everything, expected some of comparison" in result.output


def test_rows_are_chosen_by_group_and_by_name_in_the_order_of_the_report() -> None:
    names = [row.name for row in ablation.chosen_rows(["weight-8", "no-gan", "patch-rgb-bce"])]
    assert names == ["patch-rgb-bce", "l1-only", "weight-8"]


def test_without_inception_no_row_is_begun(photo_folder: Path, tmp_path: Path) -> None:
    arguments = ["ablation", str(photo_folder), "--out", str(tmp_path / "out"), "--", "--inception-weights", "none.pth"]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "none.pth" in done.stderr
    assert not (tmp_path / "out").exists()
