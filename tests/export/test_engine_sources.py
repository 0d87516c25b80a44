"""Sources of an engine: refused early, vouched for, and beside the plan where that holds no weights."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cgan.errors import GateError, UserError
from cgan.files import file_sha256
from cgan.spec import read_sidecar, sidecar_path, write_sidecar
from export import artefact as pipeline
from export import engine, search
from export.artefact import ExportOptions, make_engine
from export.cli import main
from export.engine_options import EngineOptions
from export.verify import Verification
from infer.backends.flavours import Gpu

A10 = Gpu("NVIDIA A10", "8.6")
RTX = ("--format", "tensorrt-rtx")
PLAN = "unet-w4-rgb-32-fp16-tensorrt-rtx.plan"
ONNX = "unet-w4-rgb-32-fp16.onnx"
STRIPPED = EngineOptions(flavour="tensorrt-rtx", strip_weights=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def refuse(*_: object) -> None:
    raise AssertionError("it was called")


# what was not compared


@pytest.fixture
def unverified(half_onnx: Path, tmp_path: Path) -> Path:
    """`half_onnx` as --no-verify leaves it."""
    folder = tmp_path / "unverified"
    folder.mkdir()
    onnx, sidecar = Path(shutil.copy(half_onnx, folder)), read_sidecar(half_onnx)
    assert sidecar is not None
    numbers = {"verified": False, "reason": "not verified: --no-verify"}
    write_sidecar(onnx, replace(sidecar, verification=numbers))
    return onnx


def test_an_onnx_file_that_was_not_compared_is_no_source(
    invoke: Callable[..., Any], unverified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(pipeline, "build_engine", refuse)
    error = invoke(main, unverified, "--out", tmp_path / "out", *RTX).error(2)
    assert f"{unverified}: found it not verified: --no-verify, expected one that was compared" in error
    assert "export it again, or use it with --no-verify" in error
    assert not (tmp_path / "out").exists()


def test_it_is_one_with_no_verify(
    invoke: Callable[..., Any], unverified: Path, tmp_path: Path, stub_build: Callable[..., None]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    stub_build()
    assert invoke(main, unverified, "--out", tmp_path / "out", *RTX, "--no-verify").code == 0
    sidecar = read_sidecar(tmp_path / "out" / PLAN)
    assert sidecar is not None
    assert (sidecar.verification["verified"], sidecar.verification["onnx"]["verified"]) == (False, False)


# in which order


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be read, exported or searched."""
    for module, name in ((pipeline, "load_checkpoint"), (pipeline, "export_onnx"), (search, "make_onnx")):
        monkeypatch.setattr(module, name, refuse)


AUTO = ("--precision", "auto", "--min-psnr", "30")


@pytest.mark.parametrize("precision", [(), AUTO], ids=["given", "auto"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--format", "tensorrt"), "--format tensorrt: found no NVIDIA GPU or no driver for it here"),
        ((*RTX, "--strip-weights"), "--strip-weights: found no NVIDIA GPU or no driver for it here"),
    ],
    ids=["tensorrt", "stripped"],
)
@pytest.mark.usefixtures("no_export")
def test_a_missing_gpu_is_said_before_anything_is_exported(
    invoke: Callable[..., Any],
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: tuple[str, ...],
    options: tuple[str, ...],
    expected: str,
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        module = ModuleType(name)
        module.__version__ = "10.13.0"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(engine, "find_gpu", lambda: None)
    assert expected in invoke(main, trained_run, "--out", tmp_path / "out", *options, *precision).error(2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", [(), AUTO], ids=["given", "auto"])
@pytest.mark.usefixtures("no_export")
def test_options_that_the_flavour_has_not_are_refused_before_anything_is_exported(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, precision: tuple[str, ...]
) -> None:
    command = (trained_run, "--out", tmp_path / "out", *RTX, "--optimization-level", "3")
    assert "--optimization-level: TensorRT for RTX builds" in invoke(main, *command, *precision).error(2)
    assert not (tmp_path / "out").exists()


# engines without weights


@pytest.fixture
def can_strip(monkeypatch: pytest.MonkeyPatch, stub_build: Callable[..., None]) -> None:
    """A builder that strips, as far as the options are concerned: it takes a GPU."""
    pytest.importorskip("tensorrt_rtx")
    stub_build()
    monkeypatch.setattr(engine, "find_gpu", lambda: A10)
    monkeypatch.setattr(pipeline, "find_gpu", lambda: None)


@pytest.fixture
def export_half(monkeypatch: pytest.MonkeyPatch, half_onnx: Path) -> None:
    """The exporter writes the fp16 file of `trained_run`."""
    monkeypatch.setattr(pipeline, "export_onnx", lambda generator, spec, path, *_: shutil.copy(half_onnx, path))


@pytest.mark.usefixtures("can_strip", "export_half")
@pytest.mark.parametrize("from_run", [True, False], ids=["run", "onnx"])
def test_the_weights_of_a_stripped_engine_lie_beside_it(
    invoke: Callable[..., Any], trained_run: Path, half_onnx: Path, tmp_path: Path, from_run: bool
) -> None:
    out = tmp_path / "out"
    source = trained_run if from_run else half_onnx
    result = invoke(main, source, "--out", out, *RTX, "--strip-weights", "--quiet")
    assert (result.code, result.err) == (0, f"note: {out / ONNX} holds its weights: keep it beside the plan\n")
    assert sorted(contents(out)) == sorted([PLAN, f"{PLAN}.json", ONNX, f"{ONNX}.json"])
    plan, onnx = read_sidecar(out / PLAN), read_sidecar(out / ONNX)
    assert plan is not None and onnx is not None
    # By this digest the loader finds it.
    assert plan.build["onnx_sha256"] == file_sha256(out / ONNX)
    assert onnx.verification["verified"] is True
    assert plan.verification["onnx"] == onnx.verification


@pytest.mark.usefixtures("can_strip", "export_half")
def test_an_engine_that_holds_its_weights_comes_alone(trained_run: Path, half_onnx: Path, tmp_path: Path) -> None:
    for source in (trained_run, half_onnx):
        artefact = make_engine(
            source, tmp_path / "out", ExportOptions(precision="fp16"), replace(STRIPPED, strip_weights=False)
        )
        assert artefact.notes == ()
        assert sorted(contents(tmp_path / "out")) == [PLAN, f"{PLAN}.json"]


@pytest.mark.usefixtures("can_strip")
def test_a_file_that_lies_beside_the_plan_is_left_as_it_is(
    half_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = Path(shutil.copy(half_onnx, tmp_path))
    shutil.copy(sidecar_path(half_onnx), tmp_path)
    before, inode = contents(tmp_path), onnx.stat().st_ino
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path, Path(), tmp_path / "sub" / ".."):
        (tmp_path / "sub").mkdir(exist_ok=True)
        assert make_engine(onnx, out, ExportOptions(), STRIPPED).notes == ()
        (tmp_path / "sub").rmdir()
    assert onnx.stat().st_ino == inode
    after = contents(tmp_path)
    assert {PLAN, f"{PLAN}.json"} == after.keys() - before.keys()
    assert {name: after[name] for name in before} == before


@pytest.fixture
def verified_on_gpu(monkeypatch: pytest.MonkeyPatch, can_strip: None, passed: Verification) -> list[Path]:
    """Plans that were compared; as the loader does, the comparison takes the weights from a file beside the plan."""
    compared: list[Path] = []

    def verify(plan: Path, *_: Any, **__: Any) -> Verification:
        if plan.suffix == ".onnx" or not (sidecar := read_sidecar(plan)) or "onnx_sha256" not in sidecar.build:
            return passed
        beside = {file_sha256(path) for path in plan.parent.glob("*.onnx")}
        if sidecar.build["onnx_sha256"] not in beside:
            raise UserError(f"{plan}: its weights were stripped")
        compared.append(plan)
        if len(compared) > 1:
            raise GateError(f"{plan} is not the trained model")
        return passed

    monkeypatch.setattr(pipeline, "find_gpu", lambda: A10)
    monkeypatch.setattr(pipeline, "verify", verify)
    return compared


@pytest.mark.usefixtures("export_half")
@pytest.mark.parametrize("from_run", [True, False], ids=["run", "onnx"])
def test_a_stripped_engine_is_compared_with_its_weights_beside_it(
    verified_on_gpu: list[Path], trained_run: Path, half_onnx: Path, tmp_path: Path, from_run: bool
) -> None:
    source = trained_run if from_run else half_onnx
    options = ExportOptions(precision="fp16")
    assert make_engine(source, tmp_path / "first", options, STRIPPED).sidecar.verification["verified"] is True
    assert len(verified_on_gpu) == 1
    with pytest.raises(GateError, match="is not the trained model"):
        make_engine(source, tmp_path / "second", options, STRIPPED)
    assert contents(tmp_path / "second") == {}
