"""cgan-export --format tensorrt and tensorrt-rtx from the outside; TensorRT for RTX really builds, without a GPU."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cgan.errors import GateError, UserError
from cgan.files import file_sha256
from cgan.progress import Progress
from cgan.spec import read_sidecar, sidecar_path
from cgan.training.checkpoint import load_generator
from export import artefact as pipeline
from export import engine
from export.artefact import ExportOptions, make_engine
from export.cli import main
from export.engine_options import EngineOptions
from export.verify import Verification
from infer.backends.flavours import Gpu
from infer.backends.ort import gpu_present
from infer.backends.trt import check_sidecar, sealed

RTX = ("--format", "tensorrt-rtx")
without_gpu = pytest.mark.skipif(gpu_present(), reason="with a GPU the engine is verified")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, half_onnx: Path) -> Path:
    """An engine for one GPU, from the fp16 file."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("engine")
    arguments = (half_onnx, "--out", folder, *RTX, "--compute-capability", "8.6", "--batch", "1,2,4", "--quiet")
    with pytest.MonkeyPatch.context() as patch, suppress(SystemExit):
        patch.setattr(pipeline, "find_gpu", lambda: None)
        main([str(argument) for argument in arguments])
    (plan,) = folder.glob("*.plan")
    return plan


# TensorRT for RTX


def test_an_engine_from_an_onnx_file(built: Path, half_onnx: Path, trained_run: Path) -> None:
    assert built.name == "unet-w4-rgb-32-fp16-tensorrt-rtx.plan"
    assert files(built.parent) == [built.name, f"{built.name}.json"]
    sidecar, source = read_sidecar(built), read_sidecar(half_onnx)
    assert sidecar is not None and source is not None
    assert sidecar.spec == source.spec
    assert sidecar.spec.weights_sha256 == load_generator(trained_run)[1].weights_sha256
    assert sidecar.file_sha256 == file_sha256(built)
    assert sidecar.verification == {
        "verified": False,
        "reason": "not verified: no GPU here",
        "onnx": source.verification,
    }
    assert source.verification["verified"] is True and len(source.verification["comparisons"]) == 3


def test_the_build_record_is_complete_and_sealed(built: Path, half_onnx: Path) -> None:
    record = check_sidecar(read_sidecar(built), built)
    assert record["flavour"] == "tensorrt-rtx"
    assert record["tensorrt_version"] == sys.modules["tensorrt_rtx"].__version__
    assert record["compute_capabilities"] == ["8.6"]
    assert record["gpu"] is None
    assert record["onnx_sha256"] == file_sha256(half_onnx)
    assert record["profiles"] == [{"min": [1, 1, 32, 32], "opt": [2, 1, 32, 32], "max": [4, 1, 32, 32]}]
    assert record["precision"]["fp16_share"] >= 0.9
    assert record["plan_bytes"] == built.stat().st_size > 100_000
    assert record["flags"]["strongly_typed"] is True


def test_every_part_of_the_sidecar_is_sealed(built: Path, tmp_path: Path) -> None:
    plan = Path(shutil.copy(built, tmp_path))
    text = sidecar_path(built).read_text()
    for found, forged in (
        ('"verified": false', '"verified": true'),
        ('"8.6"', '"8.9"'),
        ('"precision": "fp16"', '"precision": "fp32"'),
        ('"render_size": 32', '"render_size": 48'),
    ):
        assert found in text
        sidecar_path(plan).write_text(text.replace(found, forged, 1))
        with pytest.raises(UserError, match="its sidecar was changed since its export"):
            check_sidecar(read_sidecar(plan), plan)


@without_gpu
def test_an_engine_from_a_run_shows_the_numbers_of_its_onnx_file(
    invoke: Callable[..., Any], trained_run: Path, tmp_path: Path, photo_folder: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path / "out"
    result = invoke(main, trained_run, "--out", out, *RTX, "--calibration", photo_folder)
    assert result.code == 0
    name = "unet-w4-rgb-32-fp16-tensorrt-rtx.plan"
    assert files(out) == [name, f"{name}.json"]
    assert f"{out / name}: written, NOT verified: no GPU here" in result.err
    assert "the ONNX file that it was built from agrees with the trained model:" in result.err
    assert [line.split()[1] for line in result.err.splitlines() if line.startswith("  photos")] == ["1", "16", "64"]
    sidecar = read_sidecar(out / name)
    assert sidecar is not None
    assert sidecar.verification["onnx"]["photos"] == 12
    assert sidecar.build["profiles"][0]["max"] == [64, 1, 32, 32]


@without_gpu
def test_what_runs_where(invoke: Callable[..., Any], built: Path, trained_run: Path) -> None:
    facts = json.loads(invoke(main, "--inspect", built).out)
    assert facts["bytes"] == built.stat().st_size
    assert facts["build"]["precision"]["network"]["layers"]["HALF"] > 10
    assert all(reason.startswith("no: ") for reason in facts["runs_here"].values())
    error = invoke(main, trained_run, "--verify", built).error(2)
    assert "found no NVIDIA GPU or no driver for it here, needed one of compute capability 8.6" in error


def test_one_changed_byte_of_a_plan_is_refused(
    invoke: Callable[..., Any], built: Path, trained_run: Path, tmp_path: Path
) -> None:
    shutil.copy(sidecar_path(built), tmp_path)
    plan = Path(shutil.copy(built, tmp_path))
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    assert "changed since its export" in invoke(main, trained_run, "--verify", plan).error(1)
    assert "changed since its export" in invoke(main, "--inspect", plan).error(2)


# refusals


def test_an_onnx_file_needs_its_sidecar(
    invoke: Callable[..., Any], half_onnx: Path, tmp_path: Path, stub_build: Callable[..., None]
) -> None:
    stub_build()
    onnx = Path(shutil.copy(half_onnx, tmp_path))
    error = invoke(main, onnx, "--out", tmp_path / "out", *RTX).error(2)
    assert f"found no sidecar beside it, expected {onnx.name}.json; export it again" in error
    shutil.copy(sidecar_path(half_onnx), tmp_path)
    onnx.write_bytes(onnx.read_bytes()[:-1] + b"?")
    assert "changed since its export" in invoke(main, onnx, "--out", tmp_path / "out", *RTX).error(2)
    assert not (tmp_path / "out").exists()


def test_an_onnx_file_is_no_source_of_an_onnx_file(invoke: Callable[..., Any], half_onnx: Path, tmp_path: Path) -> None:
    error = invoke(main, half_onnx, "--out", tmp_path / "out").error(2)
    assert "found an exported model, expected a run folder" in error


def test_tensorrt_that_is_not_installed_is_one_line(
    invoke: Callable[..., Any], half_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for format_, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")):
        monkeypatch.setitem(sys.modules, module, None)
        error = invoke(main, half_onnx, "--out", tmp_path, "--format", format_).error(2)
        assert f"needs the package {module}; install it with pip install 'cgan[{format_}]'" in error
        assert files(tmp_path) == []


def test_tensorrt_without_a_gpu_is_one_line(
    invoke: Callable[..., Any], half_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("tensorrt")
    module.__version__ = "10.13.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(engine, "find_gpu", lambda: None)
    error = invoke(main, half_onnx, "--out", tmp_path, "--format", "tensorrt").error(2)
    assert "found no NVIDIA GPU or no driver for it here" in error and "use --format tensorrt-rtx" in error
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--optimization-level", "3"),
        ("--version-compatible",),
        ("--hardware-compatible",),
        ("--timing-cache", "cache"),
        ("--size", "32,48,64"),  # the file is of a fixed size
        ("--compute-capability", "1.0"),
        ("--batch", "0,1,2"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    invoke: Callable[..., Any], half_onnx: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    flag = options[-2] if len(options) > 1 else options[0]
    assert f"error: {flag}: " in invoke(main, half_onnx, "--out", tmp_path, *RTX, *options).error(2)
    assert files(tmp_path) == []


# failures


@pytest.mark.parametrize("keep", [False, True])
def test_a_failed_build_leaves_nothing_or_the_failed_file(
    invoke: Callable[..., Any], half_onnx: Path, tmp_path: Path, stub_build: Callable[..., None], keep: bool
) -> None:
    stub_build(GateError("the engine is not fp16"))
    options = ("--keep-failed",) if keep else ()
    assert "the engine is not fp16" in invoke(main, half_onnx, "--out", tmp_path, *RTX, *options).error(1)
    assert files(tmp_path) == (["unet-w4-rgb-32-fp16-tensorrt-rtx.plan.failed"] if keep else [])


def test_an_onnx_file_that_differs_is_not_built_from(
    invoke: Callable[..., Any],
    trained_run: Path,
    half_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(*_: object) -> None:
        raise AssertionError("the builder was called")

    monkeypatch.setattr(pipeline, "export_onnx", lambda generator, spec, path, *_: shutil.copy(half_onnx, path))
    monkeypatch.setattr(pipeline, "build_engine", build)
    error = invoke(main, trained_run, "--out", tmp_path, *RTX, "--min-psnr", "200").error(1)
    assert "is not the trained model" in error
    assert files(tmp_path) == []


def test_no_verify_is_said_with_its_reason(
    invoke: Callable[..., Any], half_onnx: Path, tmp_path: Path, stub_build: Callable[..., None]
) -> None:
    stub_build()
    assert "NOT verified: --no-verify" in invoke(main, half_onnx, "--out", tmp_path, *RTX, "--no-verify").err
    sidecar = read_sidecar(tmp_path / "unet-w4-rgb-32-fp16-tensorrt-rtx.plan")
    assert sidecar is not None
    assert (sidecar.verification["verified"], sidecar.verification["reason"]) == (False, "not verified: --no-verify")


# with a GPU, as far as that goes without one


@pytest.fixture
def on_gpu(
    monkeypatch: pytest.MonkeyPatch, stub_build: Callable[..., None], passed: Verification
) -> list[dict[str, Any]]:
    """Arguments of an engine's comparison, which finds a sealed sidecar beside the plan."""
    calls: list[dict[str, Any]] = []

    def verify(plan: Path, reference: Any, photos: Any, *_: Any, device: str, name: str, **__: Any) -> Verification:
        sidecar = read_sidecar(plan)
        assert sidecar is not None and sealed(sidecar) == sidecar
        calls.append({"reference": reference, "device": device, "name": name, "plan": plan})
        if len(calls) > 1:
            raise GateError(f"{name} is not the trained model")
        return passed

    stub_build()
    monkeypatch.setattr(pipeline, "find_gpu", lambda: Gpu("NVIDIA A10", "8.6"))
    monkeypatch.setattr(pipeline, "verify", verify)
    return calls


def test_an_engine_is_compared_where_a_gpu_can_run_it(
    on_gpu: list[dict[str, Any]], half_onnx: Path, tmp_path: Path
) -> None:
    options = EngineOptions(flavour="tensorrt-rtx")
    artefact = make_engine(half_onnx, tmp_path, ExportOptions(), options)
    assert (on_gpu[0]["device"], on_gpu[0]["name"]) == ("cuda", artefact.path.name)
    assert on_gpu[0]["plan"].parent == tmp_path and on_gpu[0]["plan"] != artefact.path
    assert "ONNX Runtime" in on_gpu[0]["reference"].name
    sidecar = read_sidecar(artefact.path)
    assert sidecar is not None and sidecar == artefact.sidecar == sealed(sidecar)
    assert sidecar.verification["verified"] is True and sidecar.verification["onnx"]["verified"] is True
    before = files(tmp_path)
    assert before == [artefact.path.name, f"{artefact.path.name}.json"]
    with pytest.raises(GateError, match="is not the trained model"):
        make_engine(half_onnx, tmp_path, ExportOptions(), options)
    assert files(tmp_path) == before
    assert read_sidecar(artefact.path) == sidecar


def test_an_engine_that_the_gpu_here_cannot_run_says_so(
    on_gpu: list[dict[str, Any]], half_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpu, why in (
        (Gpu("NVIDIA H200", "9.0"), "TensorRT for RTX does not run on NVIDIA H200"),
        (Gpu("NVIDIA T4", "7.5"), "built for other GPUs than the NVIDIA T4 here"),
    ):
        monkeypatch.setattr(pipeline, "find_gpu", lambda gpu=gpu: gpu)
        made = make_engine(half_onnx, tmp_path, ExportOptions(), EngineOptions(flavour="tensorrt-rtx"))
        assert made.sidecar.verification["reason"] == f"not verified: {why}"
    assert on_gpu == []


def test_a_verified_engine_does_not_say_that_it_is_not(
    on_gpu: list[dict[str, Any]], half_onnx: Path, tmp_path: Path
) -> None:
    options = EngineOptions(flavour="tensorrt-rtx")
    assert "reason" not in make_engine(half_onnx, tmp_path, ExportOptions(), options).sidecar.verification


# progress


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("quiet", "stream", "shown"), [(False, Terminal, 1), (True, Terminal, 0), (False, io.StringIO, 0)]
)
def test_progress_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, quiet: bool, stream: type[io.StringIO], shown: bool
) -> None:
    errors = stream()
    monkeypatch.setattr(sys, "stderr", errors)
    with Progress(quiet, say=None, unit="it") as progress:  # as for the phases of the builder
        for phase in ("Parsing", "Building"):
            for done in range(3):
                progress.update(done, 2, label=phase)
        text = errors.getvalue()
    assert all((phase in text) == bool(shown) for phase in ("Parsing", "Building"))
