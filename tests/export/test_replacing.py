"""Publishing exports: what is replaced, what is not, and what a kill leaves."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cgan.config import TrainConfig
from cgan.errors import UserError
from cgan.networks import build_generator
from cgan.spec import read_sidecar, sidecar_path
from cgan.training.checkpoint import load_generator, save_generator
from export import artefact as pipeline
from export.artefact import ExportOptions, make_onnx
from export.onnx_model import export_onnx
from export.publish import Publication
from tests import warm


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_another_model_of_the_same_name_is_not_replaced_unasked(trained_run: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other.safetensors"
    config = TrainConfig(width=4, size=32, fid=False)
    save_generator(other, build_generator(config), config)
    made = make_onnx(trained_run, out, ExportOptions())
    before = files(out)
    with pytest.raises(UserError, match="found another model of that name"):
        make_onnx(other, out, ExportOptions())
    assert files(out) == before
    assert make_onnx(trained_run, out, ExportOptions()).path == made.path  # the same weights
    assert files(out) == before
    make_onnx(other, out, ExportOptions(overwrite=True))
    assert files(out).keys() == before.keys()
    assert files(out) != before
    sidecar_path(made.path).unlink()
    with pytest.raises(UserError, match="found another model of that name"):
        make_onnx(other, out, ExportOptions())


def test_of_two_exports_at_once_the_second_is_refused(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", tmp_path / "other.safetensors"
    config = TrainConfig(width=4, size=32, fid=False)
    save_generator(other, build_generator(config), config)
    export = export_onnx

    def export_while_another_finishes(*arguments: Any) -> None:
        monkeypatch.setattr(pipeline, "export_onnx", export)
        make_onnx(trained_run, out, ExportOptions())
        export(*arguments)

    monkeypatch.setattr(pipeline, "export_onnx", export_while_another_finishes)
    with pytest.raises(UserError, match="found another model of that name"):
        make_onnx(other, out, ExportOptions())
    (made,) = out.glob("*.onnx")
    assert {path.name for path in out.iterdir()} == {made.name, sidecar_path(made).name}
    sidecar = read_sidecar(made)
    assert sidecar is not None and sidecar.spec.weights_sha256 == load_generator(trained_run)[1].weights_sha256


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("ending", ["", ".json"])
@pytest.mark.slow
def test_what_appears_while_an_export_is_under_way_stays(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, overwrite: bool
) -> None:
    out, export = tmp_path / "out", export_onnx
    name = pipeline.artefact_name(load_generator(trained_run)[1], "onnx", "cpu")

    def export_while_another_file_appears(*arguments: Any) -> None:
        export(*arguments)
        (out / f"{name}{ending}").write_text("somebody else's")

    monkeypatch.setattr(pipeline, "export_onnx", export_while_another_file_appears)
    with pytest.raises(UserError, match="found another model of that name"):
        make_onnx(trained_run, out, ExportOptions(overwrite=overwrite))
    assert files(out) == {f"{name}{ending}": b"somebody else's"}


def test_what_appears_last_of_all_stays_and_the_sidecar_is_taken_back(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    made = make_onnx(trained_run, out, ExportOptions()).path
    before = sidecar_path(made).read_bytes()
    vouch = Publication.vouch_for

    def vouch_and_meet_another(self: Publication, sidecar: Any) -> None:
        vouch(self, sidecar)
        assert sidecar_path(made).read_bytes() != before
        made.write_text("somebody else's")

    monkeypatch.setattr(Publication, "vouch_for", vouch_and_meet_another)
    with pytest.raises(UserError, match="found another model of that name"):
        make_onnx(trained_run, out, ExportOptions(batch_sizes=(1,)))
    assert files(out) == {made.name: b"somebody else's", sidecar_path(made).name: before}


def test_an_export_that_was_changed_since_is_not_replaced_unasked(trained_run: Path, tmp_path: Path) -> None:
    made = make_onnx(trained_run, tmp_path, ExportOptions()).path
    made.write_text("somebody else's")
    with pytest.raises(UserError, match="found another model of that name"):
        make_onnx(trained_run, tmp_path, ExportOptions())
    assert made.read_text() == "somebody else's"
    make_onnx(trained_run, tmp_path, ExportOptions(overwrite=True))
    assert read_sidecar(made) is not None


@pytest.mark.slow
def test_a_kill_in_mid_export_leaves_no_file_of_the_final_name(trained_run: Path, tmp_path: Path) -> None:
    """Killed as soon as something lies in the output folder: the temporary file, or at the latest the sidecar."""
    (tmp_path / "out").mkdir()
    process = warm.start(
        "from export.cli import main; main()", trained_run, "--out", tmp_path / "out", output=tmp_path / "printed"
    )
    deadline = time.monotonic() + 120
    while not files(tmp_path / "out") and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.exit_code == -signal.SIGKILL, "it ended before it was killed"
    left = list(files(tmp_path / "out"))
    assert left, "it was killed before it wrote anything"
    assert not [name for name in left if name.endswith((".onnx", ".json"))]
