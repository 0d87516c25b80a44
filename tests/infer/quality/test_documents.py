"""Where --json and --html of parity and evaluate go: files of their own, links and streams, and over nothing else."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infer.cli import main

Invoke = Callable[..., Any]
PROGRAM = [sys.executable, "-c", "import sys; from infer.cli import main; main(sys.argv[1:])"]


@pytest.fixture
def parity(trained_run: Path, exported_onnx: Path, photo_folder: Path) -> list[str]:
    given = ["parity", exported_onnx, "--reference", trained_run, "--data", photo_folder]
    return [*map(str, given), "--no-fid", "--device", "cpu", "--quiet"]


def is_document(option: str, content: bytes) -> bool:
    return b"<title>Parity</title>" in content if option == "--html" else json.loads(content)["passed"]


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_link_keeps_pointing_to_what_is_written(
    invoke: Invoke, parity: list[str], tmp_path: Path, option: str
) -> None:
    link, real = tmp_path / "link", tmp_path / "real"
    link.symlink_to(real)
    for _ in range(2):
        assert invoke(main, *parity, option, link).code == 0
        assert link.is_symlink() and is_document(option, real.read_bytes())
    real.write_text("somebody else's")
    assert f"{option} {link}: found something that this command did not write" in invoke(
        main, *parity, option, link
    ).error(2)
    assert real.read_text() == "somebody else's"


@pytest.mark.slow
def test_standard_output_redirected_to_a_file_or_a_pipe_is_a_stream(parity: list[str], tmp_path: Path) -> None:
    command = [*PROGRAM, *parity, "--json", "/dev/stdout"]
    with (tmp_path / "out").open("wb") as file:
        file.write(b"before\n")
        file.flush()
        subprocess.run(command, stdout=file, check=True)
    before, _, text = (tmp_path / "out").read_bytes().partition(b"\n")
    assert before == b"before" and json.loads(text)["passed"]
    assert json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["passed"]


def test_a_full_device_is_one_line(invoke: Invoke, parity: list[str]) -> None:
    assert "/dev/full: cannot be written" in invoke(main, *parity, "--json", "/dev/full").error(1)


def test_a_fifo_gets_the_document(invoke: Invoke, parity: list[str], tmp_path: Path) -> None:
    fifo, found = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    assert invoke(main, *parity, "--json", fifo).code == 0
    reader.join()
    assert json.loads(found[0])["passed"] and fifo.is_fifo()


def test_one_document_does_not_take_the_place_of_another_or_of_the_model(
    invoke: Invoke, parity: list[str], exported_onnx: Path, tmp_path: Path
) -> None:
    same = tmp_path / "same"
    refused = "found the name of a file that this command reads or writes"
    assert refused in invoke(main, *parity, "--json", same, "--html", same).error(2)
    assert list(tmp_path.iterdir()) == []
    model = Path(shutil.copy(exported_onnx, tmp_path))
    content = model.read_bytes()
    assert refused in invoke(main, parity[0], model, *parity[2:], "--json", model).error(2)
    assert model.read_bytes() == content


def test_a_missing_jinja2_is_named(
    invoke: Invoke, parity: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "infer.quality.page", raising=False)
    error = invoke(main, *parity, "--html", tmp_path / "a.html").error(2)
    assert "--html needs the package jinja2; install it with pip install 'cgan[train]'" in error
