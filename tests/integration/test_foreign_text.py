"""Whole commands on names and fields that would control a terminal or a page."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgan.cli import main as train
from cgan.spec import sidecar_path
from export.cli import main as export
from infer.cli import main as infer
from tests.hostile import HOSTILE, is_safe

Invoke = Callable[..., Any]

BAD = [
    (train, HOSTILE, "--out", "run", "--no-fid"),
    (train, "photos", "--out", HOSTILE, "--no-fid", "--resume"),
    (train, "photos", "--out", "run", "--no-fid", "--init", HOSTILE),
    (train, "photos", "--out", "run", "--inception-weights", HOSTILE),
    (train, "photos", "--out", "run", HOSTILE),
    (train, "photos", "--out", "run", f"--{HOSTILE}"),
    (train, "photos", "--out", "run", "--color-space", HOSTILE),
    (export, HOSTILE, "--out", "models"),
    (export, "photos", "--out", "models", "--checkpoint", HOSTILE),
    (export, "--inspect", HOSTILE),
    (export, "photos", HOSTILE),
    (export, HOSTILE, "--verify", HOSTILE),
    (infer, HOSTILE),
    (infer, "info", HOSTILE),
    (infer, "folder", HOSTILE, "out"),
    (infer, "folder", "photos", "out", "--model", HOSTILE),
    (infer, "folder", "photos", "out", "--report", f"{HOSTILE}/x.json"),
    (infer, "folder", "photos", f"nothing://{HOSTILE}"),
    (infer, "folder", "photos", "out", "--check-parity", HOSTILE),
    (infer, "parity", "flowers", "--reference", HOSTILE, "--data", "photos", "--no-fid"),
    (infer, "parity", "flowers", "--reference", "run", "--data", HOSTILE, "--no-fid"),
    (infer, "evaluate", "flowers", HOSTILE, "--no-fid"),
    (infer, "evaluate", "flowers", "photos", "--features", HOSTILE),
    (infer, "evaluate", "flowers", "photos", "--no-fid", "--against", HOSTILE),
    (infer, "evaluate", "flowers", "photos", "--no-fid", "--json", f"{HOSTILE}/x.json"),
]


@pytest.mark.parametrize(("main", "arguments"), [(main, arguments) for main, *arguments in BAD])
def test_a_bad_request_is_said_in_lines_without_controls(
    invoke: Invoke, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, main: Any, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photo_folder)
    result = invoke(main, *arguments)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert is_safe(result.out + result.err)
    # A line of the name's own would begin with what it says after its line end.
    assert not re.search(r"^error: (\\u202e|.u202e)", result.err, re.M)
    assert len(re.findall("^error: ", result.err, re.M | re.I)) == 1


@pytest.fixture
def named(photo_folder: Path, tmp_path: Path) -> Path:
    """Photos in a folder of a hostile name, all but one readable."""
    folder = tmp_path / HOSTILE
    shutil.copytree(photo_folder / "a", folder)
    (folder / f"{HOSTILE}.png").write_bytes(next((photo_folder / "b").iterdir()).read_bytes())
    (folder / f"{HOSTILE}.jpg").write_bytes(b"no photo")
    return folder


@pytest.mark.slow
def test_training_says_hostile_names_safely(invoke: Invoke, named: Path, tmp_path: Path, tiny_options: Any) -> None:
    for number in range(30):  # so that one unreadable photo is no more than 5%
        shutil.copy(named / f"{HOSTILE}.png", named / f"{number}.png")
    options = [option for option in tiny_options if option != "--quiet"]
    result = invoke(train, named, "--out", tmp_path / f"run{HOSTILE}", *options, "--epochs", 1)
    assert result.code == 0, result.err
    assert "passed over" in result.err and r"\x1b]0;x\x07" in result.err
    assert is_safe(result.out + result.err)


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--log-json",), ("--dry-run", "--log-json"), ("--quiet",)])
def test_a_folder_run_says_hostile_names_safely(
    invoke: Invoke, named: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (named / f"{HOSTILE}.heic").touch()
    result = invoke(infer, "folder", named, tmp_path / f"out{HOSTILE}", *options)
    assert result.code == 1, result.err
    assert is_safe(result.out + result.err)
    if "--log-json" in options:
        events = [json.loads(line) for line in result.out.splitlines()]
        assert f"{HOSTILE}.jpg" in {event.get("name") for event in events}
    else:
        assert r"\x1b]0;x\x07" in result.err


def test_comparisons_say_hostile_names_safely(
    invoke: Invoke, named: Path, tmp_path: Path, trained_run: Path, exported_onnx: Path
) -> None:
    model = tmp_path / f"{HOSTILE}.onnx"
    shutil.copy(exported_onnx, model)
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    (named / f"{HOSTILE}.jpg").unlink()
    common = ("--no-fid", "--device", "cpu")
    result = invoke(infer, "parity", model, "--reference", trained_run, "--data", named, "--html", page, *common)
    assert result.code == 0, result.err
    assert is_safe(result.out + result.err) and r"\x1b]0;x\x07" in result.out
    assert is_safe(page.read_text()) and r"\u202e" in page.read_text()
    result = invoke(infer, "evaluate", model, named, "--json", "/dev/stdout", *common)
    assert result.code == 0, result.err
    assert is_safe(result.out + result.err)
    invoke(infer, "evaluate", model, named, "--json", figures, *common)
    assert json.loads(figures.read_text())["model"]["path"] == str(model)


def test_a_model_with_hostile_fields_is_told_safely(invoke: Invoke, exported_onnx: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(exported_onnx)
    model.producer_name = model.graph.node[0].name = HOSTILE.encode(errors="replace").decode()
    onnx.save(model, tmp_path / "model.onnx")
    for arguments in ((infer, "info", tmp_path / "model.onnx"), (export, "--inspect", tmp_path / "model.onnx")):
        result = invoke(*arguments)
        assert result.code == 0, result.err
        assert is_safe(result.out + result.err)
    shutil.copy(exported_onnx, tmp_path / "other.onnx")
    values = json.loads(sidecar_path(exported_onnx).read_text())
    values["build"]["checkpoint"]["file"] = values["verification"]["reference"] = HOSTILE
    sidecar_path(tmp_path / "other.onnx").write_text(json.dumps(values))
    result = invoke(infer, "info", tmp_path / "other.onnx")
    assert result.code == 0, result.err
    assert is_safe(result.out + result.err)
    result = invoke(infer, "info", tmp_path / "other.onnx", "--json")
    assert is_safe(result.out + result.err)
    assert json.loads(result.out)["checkpoint"]["file"] == HOSTILE
    assert is_safe(invoke(export, "--inspect", tmp_path / "other.onnx").out)
    values["spec"][HOSTILE] = values["spec"].pop("model")
    sidecar_path(tmp_path / "other.onnx").write_text(json.dumps(values))
    result = invoke(infer, "info", tmp_path / "other.onnx")
    assert result.code == 2 and is_safe(result.err)
