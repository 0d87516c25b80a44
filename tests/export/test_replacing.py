"""What an export may replace: an earlier export of the same weights, and no other model unasked."""

from pathlib import Path

import pytest

from cgan.checkpoint import save_generator
from cgan.config import TrainConfig
from cgan.networks import build_generator
from cgan.spec import UserError, sidecar_path
from export.produce import ExportOptions, make_onnx


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
