"""cgan-infer as a command: options, report, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infer.backends import ort
from infer.backends.ort import gpu_present
from infer.cli import CPU_BATCH, main

ROOT = Path(__file__).parent.parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (30 + i, 40, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def cgan_infer(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())


def test_folder_with_the_model_in_the_package(photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    code, _, err = cgan_infer("folder", photos, tmp_path / "out")
    assert code == 0
    assert "done 3, skipped 0, failed 0" in err
    assert "flowers.onnx on ONNX Runtime" in err
    report = read(tmp_path / "out" / "report.json")
    assert (report["photos"], report["done"], report["failed"], report["not_begun"]) == (3, 3, 0, 0)
    assert report["model"]["spec"]["model"] == "unet"


def test_failures_are_named_and_exit_code_is_1(photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    (photos / "bad.jpg").write_bytes(b"no photo")
    code, _, err = cgan_infer("folder", photos, tmp_path / "out", "--report", tmp_path / "r.json", "--quiet")
    assert code == 1
    assert err.splitlines() == ["failed: bad.jpg: not an image, or a kind of JPEG that Pillow cannot read"]
    report = read(tmp_path / "r.json")
    assert report["failures"] == {"bad.jpg": "not an image, or a kind of JPEG that Pillow cannot read"}
    assert report["done"] == 3
    assert not (tmp_path / "out" / "report.json").exists()


def test_options_reach_the_run(photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    options = ["--format", "jpg", "--quality", 50, "--resolution", "model", "--batch-size", 2, "--workers", 3]
    options += ["--max-failures", 7, "--max-pixels", 10_000, "--device", "cpu"]
    code, _, err = cgan_infer("folder", photos, tmp_path / "out", *options)
    assert code == 0
    assert "batch 2, 3 workers" in err
    assert read(tmp_path / "out" / "report.json")["options"] == {
        "batch_size": 2,
        "workers": 3,
        "streams": 4,
        "quality": 50,
        "resolution": "model",
        "overwrite": False,
        "max_failures": 7,
        "max_pixels": 10_000,
        "format": "jpg",
    }
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".jpg", ".json"}


def test_second_run_skips_and_overwrite_does_not(photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    cgan_infer("folder", photos, tmp_path / "out")
    assert "done 0, skipped 3" in cgan_infer("folder", photos, tmp_path / "out")[2]
    assert "done 3, skipped 0" in cgan_infer("folder", photos, tmp_path / "out", "--overwrite")[2]


def test_defaults_are_printed(photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    _, _, err = cgan_infer("folder", photos, tmp_path / "out", "--device", "cpu")
    cores = len(os.sched_getaffinity(0))
    assert f"batch {min(CPU_BATCH, -(-3 // cores))}, {cores} workers" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["folder", "{photos}", "{photos}"], "could overwrite the inputs"),
        (["folder", "{photos}/none", "out"], "found no such folder"),
        (["folder", "{photos}", "out", "--model", "none.onnx"], "found no such file"),
        (["folder", "{photos}", "out", "--model", "{photos}/0.png"], "expected one of .onnx"),
        (["folder", "{photos}", "{photos}/0.png"], "found a file, expected a folder"),
        (["info", "none.onnx"], "found no such file"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(
    photos: Path, tmp_path: Path, cgan_infer: Run, arguments: list[str], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cgan_infer(*(argument.format(photos=photos) for argument in arguments))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(gpu_present(), reason="a GPU is here")
def test_cuda_without_a_gpu_is_refused(photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    code, _, err = cgan_infer("folder", photos, tmp_path / "out", "--device", "cuda")
    assert code == 2
    assert err == "error: --device cuda: found no NVIDIA GPU or no driver for it here; use --device cpu or auto\n"
    assert not (tmp_path / "out").exists()


def test_a_report_that_cannot_be_written_is_an_error(photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    code, _, err = cgan_infer("folder", photos, tmp_path / "out", "--report", tmp_path / "none" / "r.json")
    assert code == 2
    assert "none: cannot be written" in err
    assert list((tmp_path / "out").iterdir()) == []  # said before the first photo


def test_a_folder_that_cannot_be_read_is_a_failure(
    photos: Path, tmp_path: Path, cgan_infer: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if isinstance(path, Path) and path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    code, _, err = cgan_infer("folder", photos, tmp_path / "out", "--quiet")
    assert code == 1
    assert err == "failed: closed: folder cannot be read: Permission denied\n"
    report = read(tmp_path / "out" / "report.json")
    assert (report["done"], report["not_begun"]) == (3, 0)


def test_names_cannot_forge_lines(photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    (photos / "x\nerror: gone.png").write_bytes(b"")
    code, _, err = cgan_infer("folder", photos, tmp_path / "out", "--quiet")
    assert code == 1
    assert err == "failed: x\\nerror: gone.png: the file is empty\n"


def test_info_prints_the_contract(cgan_infer: Run) -> None:
    code, out, _ = cgan_infer("info")
    values = json.loads(out)
    assert code == 0
    assert values["fixed_size"] == [128, 128]
    assert values["spec"]["input"]["name"] == "gray"
    assert values["sidecar"]["verification"]["verified"] is True
    assert "Provider" in values["engine"]


@pytest.mark.skipif(gpu_present(), reason="a GPU is here")
def test_a_gpu_that_cannot_be_used_is_noted_everywhere(
    photos: Path, tmp_path: Path, cgan_infer: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "gpu_present", lambda: True)
    assert "going on with the CPU" in json.loads(cgan_infer("info")[1])["note"]
    code, _, err = cgan_infer("folder", photos, tmp_path / "out", "--quiet")
    assert code == 0
    assert "going on with the CPU" in err
    assert "going on with the CPU" in read(tmp_path / "out" / "report.json")["model"]["note"]


def test_a_model_without_sidecar_is_said(exported_onnx: Path, photos: Path, tmp_path: Path, cgan_infer: Run) -> None:
    (tmp_path / "model.onnx").write_bytes(exported_onnx.read_bytes())
    _, _, err = cgan_infer("folder", photos, tmp_path / "out", "--model", tmp_path / "model.onnx")
    assert "nothing vouches for it" in err
    _, _, err = cgan_infer("folder", photos, tmp_path / "out2", "--model", exported_onnx)
    assert "nothing vouches for it" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt_finishes_what_is_under_way_and_exits_130(tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400), np.uint8))
    for i in range(200):
        image.save(source / f"{i:03d}.png", compress_level=0)
    arguments = [sys.executable, "-c", "from infer.cli import main; main()", "folder", str(source)]
    arguments += [str(tmp_path / "out"), "--device", "cpu"]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "out").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped: interrupted; run the same command again to go on" in err
    outputs = list((tmp_path / "out").glob("*.png"))
    assert 0 < len(outputs) < 200
    assert read(tmp_path / "out" / "report.json")["done"] == len(outputs)
    for path in outputs:
        Image.open(path).load()
