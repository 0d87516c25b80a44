"""--inspect: what an artefact is, and where it can run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from cgan.errors import ChangedFileError, UserError
from cgan.files import file_sha256
from cgan.spec import ModelSpec, Sidecar, read_sidecar, sidecar_path
from export.cli import main
from export.inspection import inspect_artefact
from infer.backends.ort import gpu_present
from infer.backends.trt import sealed

NO_GPU = "found no NVIDIA GPU or no driver for it here"
without_gpu = pytest.mark.skipif(gpu_present(), reason="a GPU runs it")


@pytest.fixture
def copied(exported_onnx: Path, tmp_path: Path) -> Path:
    shutil.copy(sidecar_path(exported_onnx), tmp_path)
    return Path(shutil.copy(exported_onnx, tmp_path))


@pytest.fixture
def plan(exported_onnx: Path, tmp_path: Path) -> Path:
    """A file that passes for a plan as long as nothing runs it, with a sealed sidecar."""
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "model.plan"
    path.write_bytes(b"a plan" * 100)
    sidecar = read_sidecar(exported_onnx)
    assert sidecar is not None
    record = {
        "flavour": "tensorrt-rtx",
        "tensorrt_version": tensorrt_rtx.__version__,
        "compute_capabilities": ["8.6"],
        "gpu": None,
        "onnx_sha256": "0" * 64,
        "platform": "linux-x86_64",
        "flags": {"version_compatible": False, "strip_weights": False},
        "profiles": [{"min": [1, 1, 32, 32], "opt": [1, 1, 32, 32], "max": [1, 1, 32, 32]}],
    }
    numbers = {"verified": False, "reason": "not verified: no GPU here", "onnx": sidecar.verification}
    voucher = Sidecar(spec=sidecar.spec, file_sha256=file_sha256(path), verification=numbers, build=record)
    sidecar_path(path).write_text(json.dumps(sealed(voucher).to_json()))
    return path


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_onnx_file_as_json(invoke: Callable[..., Any], copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.parent.iterdir()}
    result = invoke(main, "--inspect", copied)
    assert (result.code, result.err) == (0, "")
    facts = json.loads(result.out)
    sidecar = json.loads(sidecar_path(copied).read_text())
    assert (facts["file"], facts["bytes"]) == (str(copied), copied.stat().st_size)
    assert facts["spec"] == sidecar["spec"]
    assert facts["verification"] == sidecar["verification"]
    assert facts["build"] == sidecar["build"]
    assert ModelSpec.from_json(facts["spec"], "facts").precision == "fp32"
    model = onnx.load(copied)
    assert sum(facts["onnx"]["nodes"].values()) == len(model.graph.node)
    assert facts["onnx"]["nodes"]["ConvTranspose"] == 4
    assert facts["onnx"]["precision"]["Conv"] == {"float32": facts["onnx"]["nodes"]["Conv"]}
    assert (facts["onnx"]["opset"], facts["onnx"]["dynamic_batch"], facts["onnx"]["dynamic_size"]) == (20, True, False)
    assert facts["onnx"]["inputs"] == [{"name": "gray", "dtype": "float32", "shape": ["N", 1, 32, 32]}]
    assert "CPUExecutionProvider" in facts["runs_here"]["cpu"]
    assert {path: path.read_bytes() for path in copied.parent.iterdir()} == before


@without_gpu
def test_an_onnx_file_says_why_it_does_not_run_on_a_gpu(copied: Path) -> None:
    assert inspect_artefact(copied)["runs_here"]["cuda"].startswith("no: ")
    assert NO_GPU in inspect_artefact(copied)["runs_here"]["cuda"]


def test_without_a_sidecar_nothing_vouches(copied: Path) -> None:
    expected = inspect_artefact(copied)["spec"]
    sidecar_path(copied).unlink()
    facts = inspect_artefact(copied)
    assert facts["spec"] == expected
    assert "no sidecar beside it" in facts["verification"]
    assert facts["build"] is None


@without_gpu
def test_a_plan_as_json(invoke: Callable[..., Any], plan: Path) -> None:
    result = invoke(main, "--inspect", plan)
    assert (result.code, result.err) == (0, "")
    facts = json.loads(result.out)
    sidecar = json.loads(sidecar_path(plan).read_text())
    assert "onnx" not in facts
    for part in ("spec", "verification", "build"):
        assert facts[part] == sidecar[part]
    assert "found --device cpu, expected cuda or auto" in facts["runs_here"]["cpu"]
    assert NO_GPU in facts["runs_here"]["cuda"] and "compute capability 8.6" in facts["runs_here"]["cuda"]
    assert all(reason.startswith("no: ") for reason in facts["runs_here"].values())


@pytest.mark.parametrize("kind", ["copied", "plan"])
def test_a_changed_byte_is_refused(
    invoke: Callable[..., Any], request: pytest.FixtureRequest, trained_run: Path, kind: str
) -> None:
    path = request.getfixturevalue(kind)
    change_a_byte(path)
    with pytest.raises(ChangedFileError, match="changed since its export"):
        inspect_artefact(path)
    result = invoke(main, "--inspect", path)
    assert "changed since its export: found sha256" in result.error(2)
    assert result.out == ""
    assert "changed since its export" in invoke(main, trained_run, "--verify", path).error(1)


def test_a_changed_sidecar_of_a_plan_is_refused(invoke: Callable[..., Any], plan: Path) -> None:
    text = sidecar_path(plan).read_text()
    sidecar_path(plan).write_text(text.replace('"verified": false', '"verified": true '))
    assert "its sidecar was changed since its export" in invoke(main, "--inspect", plan).error(2)


def test_a_plan_without_a_sidecar_is_refused(invoke: Callable[..., Any], plan: Path) -> None:
    sidecar_path(plan).unlink()
    assert "found no model.plan.json beside it" in invoke(main, "--inspect", plan).error(2)


def test_other_files_are_refused(invoke: Callable[..., Any], copied: Path, trained_run: Path) -> None:
    folder = copied.parent
    assert "found no such file" in invoke(main, "--inspect", folder / "none.onnx").error(2)
    assert "found a folder, expected a file" in invoke(main, "--inspect", folder).error(2)
    checkpoint = trained_run / "checkpoints" / "last.safetensors"
    assert "found a .safetensors file, expected one of .onnx, .plan" in invoke(main, "--inspect", checkpoint).error(2)
    (folder / "nameless").write_bytes(b"")
    assert "found a nameless file" in invoke(main, "--inspect", folder / "nameless").error(2)
    (folder / "text.onnx").write_text("a text")
    assert "not an ONNX file, or a damaged one" in invoke(main, "--inspect", folder / "text.onnx").error(2)


def test_an_onnx_file_of_another_make_is_refused(invoke: Callable[..., Any], copied: Path) -> None:
    sidecar_path(copied).unlink()
    model = onnx.load(copied)
    del model.metadata_props[:]
    onnx.save(model, copied)
    assert "this project did not write it" in invoke(main, "--inspect", copied).error(2)


def test_a_sidecar_that_cannot_be_read_is_named(copied: Path) -> None:
    sidecar_path(copied).write_text("{")
    with pytest.raises(UserError, match="not a readable sidecar"):
        inspect_artefact(copied)
