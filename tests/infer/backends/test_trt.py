"""Plans: what is refused before anything of them is loaded. How they run is in test_trt_run.py."""

import ctypes
import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from cgan.errors import ChangedFileError, UserError
from cgan.files import file_sha256
from cgan.spec import ModelSpec, Sidecar, sidecar_path, write_sidecar
from export.engine import build_engine
from export.engine_options import EngineOptions
from infer.backends import open_model, trt
from infer.backends.flavours import Gpu, find_gpu, messages, release, runs_on
from infer.backends.trt import Machine, TrtBackend, check_machine, sealed

A10 = Gpu("NVIDIA A10", "8.6")
NO_GPU = find_gpu() is None
on_a_gpu = pytest.mark.skipif(NO_GPU, reason="needs an NVIDIA GPU")


def write_plan(onnx_file: Path, folder: Path, **options: Any) -> Path:
    """An engine of TensorRT for RTX with its sidecar, as cgan-export leaves them."""
    metadata = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    spec, plan = ModelSpec.from_metadata(metadata, onnx_file), folder / "model.plan"
    wanted = EngineOptions(**{"flavour": "tensorrt-rtx", "batch": (1, 2, 4), **options})
    record = build_engine(onnx_file, spec, wanted, plan).to_json()
    sidecar = Sidecar(spec=spec, file_sha256=file_sha256(plan), verification={"verified": False}, build=record)
    write_sidecar(plan, sealed(sidecar))
    return plan


@pytest.fixture(scope="module")
def built(exported_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real plan with its sidecar; copy both before changing them."""
    return write_plan(exported_onnx, tmp_path_factory.mktemp("plan"))


@pytest.fixture
def plan(built: Path, tmp_path: Path) -> Path:
    """A copy of the plan with its sidecar, to be spoilt."""
    shutil.copy(sidecar_path(built), tmp_path)
    return Path(shutil.copy(built, tmp_path))


def rewrite(plan: Path, **changes: Any) -> None:
    """Change the build record as an exporter on another machine would have written it."""
    data = json.loads(sidecar_path(plan).read_text())
    build = {**data["build"], **changes}
    spec = ModelSpec.from_json(data["spec"], plan)
    sidecar = Sidecar(spec=spec, file_sha256=file_sha256(plan), verification=data["verification"], build=build)
    write_sidecar(plan, sealed(sidecar))


class LoadedError(Exception):
    """Something of the plan reached the library."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(gpu)`: this machine has that GPU; nothing may be loaded."""

    def put(gpu: Gpu | None = A10) -> None:
        def load(self: TrtBackend, module: ModuleType) -> None:
            raise LoadedError

        monkeypatch.setattr(trt, "find_gpu", lambda: gpu)
        monkeypatch.setattr(TrtBackend, "_load", load)

    return put


def refusal(plan: Path, device: str = "auto") -> str:
    """The one line with which a plan is refused."""
    with pytest.raises(UserError) as refused:
        open_model(plan, device).__enter__()
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert str(plan) in str(refused.value)
    return str(refused.value).removeprefix(f"{plan}: ")


@pytest.mark.slow
def test_a_plan_that_fits_is_loaded(plan: Path, machine: Callable[..., None]) -> None:
    machine()
    backend = open_model(plan)
    assert isinstance(backend, TrtBackend)
    with pytest.raises(LoadedError):
        backend.__enter__()


def test_a_plan_without_its_sidecar_is_refused(plan: Path, machine: Callable[..., None]) -> None:
    machine()
    sidecar_path(plan).unlink()
    assert refusal(plan).startswith("found no model.plan.json beside it, expected the sidecar that verifies it")


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_changed_byte_of_the_plan_is_refused(plan: Path, machine: Callable[..., None], place: float) -> None:
    machine()
    content = bytearray(plan.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    plan.write_bytes(content)
    with pytest.raises(ChangedFileError, match=r"found sha256 \w+\.\.\., its sidecar names \w+"):
        open_model(plan).__enter__()


def test_any_changed_word_of_the_sidecar_is_refused(plan: Path, machine: Callable[..., None]) -> None:
    """Each letter and digit in turn, in all of the file: digests, contract, numbers, profile, flags, seal, keys."""
    machine()
    path = sidecar_path(plan)
    text = path.read_text()
    places = [i for i, letter in enumerate(text) if letter.isalnum()]
    swaps = {"0": "1", "8": "9", "x": "y"}
    for i in (*places[::11], text.index('"verified": false') + 12, text.index('"8.0+"') + 1):
        letter = text[i]
        path.write_text(text[:i] + swaps.get(letter, "0" if letter.isdigit() else "x") + text[i + 1 :])
        with pytest.raises(UserError):
            open_model(plan).__enter__()
    path.write_text(text)
    with pytest.raises(LoadedError):
        open_model(plan).__enter__()


def test_an_unsealed_sidecar_is_refused(plan: Path, machine: Callable[..., None]) -> None:
    machine()
    data = json.loads(sidecar_path(plan).read_text())
    del data["build"]["seal"]
    sidecar_path(plan).write_text(json.dumps(data))
    assert refusal(plan).startswith("its sidecar was changed since its export: found seal None")


def test_the_sidecar_of_another_artefact_is_refused(plan: Path, machine: Callable[..., None]) -> None:
    machine()
    rewrite(plan, flavour="openvino")
    assert refusal(plan).startswith("its sidecar names flavour 'openvino', expected tensorrt or tensorrt-rtx")


def test_the_cpu_is_refused(plan: Path, machine: Callable[..., None]) -> None:
    machine()
    assert refusal(plan, "cpu").startswith("found --device cpu, expected cuda or auto")


def test_another_version_is_refused(plan: Path, machine: Callable[..., None]) -> None:
    machine()
    rewrite(plan, tensorrt_version="1.4.0.76")
    found = r"found TensorRT for RTX 1\.\d+\.[\d.]+ here, needed 1\.4 \(built with 1\.4\.0\.76\); build it again"
    with pytest.raises(UserError, match=found):
        open_model(plan).__enter__()


def test_another_compute_capability_is_refused(plan: Path, machine: Callable[..., None]) -> None:
    machine(Gpu("Tesla T4", "7.5"))
    assert refusal(plan).startswith("found Tesla T4 of compute capability 7.5, needed compute capability 8.0+;")
    rewrite(plan, compute_capabilities=["8.9", "12.0"])
    machine()
    assert refusal(plan).startswith(
        "found NVIDIA A10 of compute capability 8.6, needed compute capability 8.9 or 12.0;"
    )


@pytest.mark.skipif(not NO_GPU, reason="a GPU is here")
def test_without_a_gpu_it_is_refused(plan: Path) -> None:
    for device in ("auto", "cuda"):
        found = refusal(plan, device)
        assert found.startswith("found no NVIDIA GPU or no driver for it here, needed one of compute capability 8.0+;")


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_a_missing_module_names_the_extra(
    plan: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, flavour: str
) -> None:
    machine()
    rewrite(plan, flavour=flavour)
    monkeypatch.setitem(sys.modules, flavour.replace("-", "_"), None)
    with pytest.raises(UserError, match=rf"needs the package {flavour.replace('-', '_')}; .*cgan\[{flavour}\]"):
        open_model(plan).__enter__()


def test_missing_cuda_bindings_name_the_extra(
    plan: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(UserError, match=r"needs the package cuda.*cgan\[tensorrt-rtx\]"):
        open_model(plan).__enter__()


HERE = Machine("11.4.0.106", A10, "linux-x86_64")
RECORD = {
    "flavour": "tensorrt",
    "tensorrt_version": "11.4.0.106",
    "platform": "linux-x86_64",
    "compute_capabilities": ["8.6"],
    "flags": {"version_compatible": False},
}
COMPATIBLE = {"flags": {"version_compatible": True}}


@pytest.mark.parametrize(
    ("record", "here"),
    [
        ({}, {}),
        ({"tensorrt_version": "11.4.1.7"}, {}),
        ({"tensorrt_version": "11.0.0.114", **COMPATIBLE}, {}),
        (COMPATIBLE, {}),
        ({"compute_capabilities": ["7.5", "8.6"]}, {}),
        ({"compute_capabilities": ["8.0+"]}, {}),
        ({"compute_capabilities": ["8.0+"]}, {"gpu": Gpu("NVIDIA GeForce RTX 5090", "12.0")}),
        ({"flavour": "tensorrt-rtx", "tensorrt_version": "1.7.1", "platform": "win-amd64"}, {"version": "1.7.2"}),
    ],
)
def test_an_engine_of_this_machine_is_accepted(record: dict[str, Any], here: dict[str, Any]) -> None:
    check_machine(RECORD | record, replace(HERE, **here), Path("model.plan"))


@pytest.mark.parametrize(
    ("record", "here", "line"),
    [
        ({"tensorrt_version": "11.3.0.99"}, {}, "found TensorRT 11.4.0.106 here, needed 11.3 (built with 11.3.0.99)"),
        ({"tensorrt_version": "10.4.0.26"}, {}, "found TensorRT 11.4.0.106 here, needed 10.4"),
        (
            {"tensorrt_version": "11.5.0.1", **COMPATIBLE},
            {},
            "found TensorRT 11.4.0.106 here, needed 11.5 or a newer 11.x",
        ),
        ({"tensorrt_version": "10.9.0.34", **COMPATIBLE}, {}, "found TensorRT 11.4.0.106 here, needed 10.9 or a newer"),
        ({"platform": "win-amd64"}, {}, "found platform linux-x86_64, needed win-amd64"),
        ({}, {"gpu": None}, "found no NVIDIA GPU or no driver for it here, needed one of compute capability 8.6"),
        (
            {"compute_capabilities": ["8.9"]},
            {},
            "found NVIDIA A10 of compute capability 8.6, needed compute capability 8.9",
        ),
        (
            {"compute_capabilities": ["8.9+"]},
            {},
            "found NVIDIA A10 of compute capability 8.6, needed compute capability 8.9+",
        ),
        (
            {"flavour": "tensorrt-rtx", "compute_capabilities": ["8.0+"]},
            {"gpu": Gpu("NVIDIA H200", "9.0")},
            "found NVIDIA H200 of compute capability 9.0, which TensorRT for RTX does not support; run",
        ),
        (
            {},
            {"gpu": Gpu("NVIDIA L4", "8.9")},
            "found NVIDIA L4 of compute capability 8.9, needed compute capability 8.6",
        ),
    ],
)
def test_an_engine_of_another_machine_is_refused(record: dict[str, Any], here: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        check_machine(RECORD | record, replace(HERE, **here), Path("model.plan"))
    assert str(refused.value).startswith(f"model.plan: {line}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("here", "rtx"),
    [("7.0", False), ("7.5", True), ("8.7", False), ("8.9", True), ("9.0", False), ("11.0", False), ("12.1", True)],
)
def test_tensorrt_for_rtx_is_not_for_every_gpu(here: str, rtx: bool) -> None:
    assert runs_on("tensorrt-rtx", Gpu("", here)) == rtx
    assert runs_on("tensorrt", Gpu("", here))


def test_releases_are_compared_as_numbers() -> None:
    assert release("12.0") > release("8.6")
    assert release("10.12.0.36") > release("10.9")


class Driver:
    """libcuda with one GPU, or with none where `count` is 0."""

    def __init__(self, count: int = 1) -> None:
        self.count = count

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = 3
        return 0 if ordinal < self.count else 101

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        assert device.value == 3
        name.value = b"NVIDIA A10"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        assert device.value == 3
        value._obj.value = {75: 8, 76: 6}[attribute]
        return 0


def test_the_driver_describes_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for driver, found in ((Driver(), A10), (Driver(0), None)):
        monkeypatch.setattr(ctypes, "CDLL", lambda name, driver=driver: driver)
        assert find_gpu() == found


def test_the_attributes_of_the_driver_have_these_numbers() -> None:
    from cuda.bindings.runtime import cudaDeviceAttr

    assert int(cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor) == 75
    assert int(cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor) == 76


def test_the_logger_keeps_errors_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    import tensorrt_rtx

    log = messages(tensorrt_rtx)
    assert messages(tensorrt_rtx) is log
    log.clear()
    assert log.reason() == "tensorrt_rtx gave no reason"
    log.log(tensorrt_rtx.ILogger.WARNING, "slow")
    log.log(tensorrt_rtx.ILogger.INFO, "loaded")
    log.log(tensorrt_rtx.ILogger.INTERNAL_ERROR, "no\n context")
    assert (log.errors, log.warnings, log.reason()) == (["no context"], ["slow"], "no context")
    log.log(tensorrt_rtx.ILogger.ERROR, "IRuntime::deserializeCudaEngine: bad")
    assert log.reason() == "IRuntime::deserializeCudaEngine: bad"
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not NO_GPU, reason="a GPU is here")
def test_the_real_library_says_why_it_cannot_load(
    plan: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Past all checks on a machine without a driver, the library's own words are in the line, and nowhere else."""
    monkeypatch.setattr(trt, "find_gpu", lambda: A10)
    assert "cannot load it (IRuntime::deserializeCudaEngine: " in refusal(plan)
    assert "CUDA driver version is insufficient" in refusal(plan)
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("options", [{}, {"strip_weights": True}, {"detailed_profiling": True}], ids=str)
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_agrees_with_onnxruntime(
    needs: Callable[[str], None],
    exported_onnx: Path,
    tmp_path: Path,
    gray: Callable[..., np.ndarray],
    flavour: str,
    options: dict[str, Any],
) -> None:
    needs(flavour)
    shutil.copy(exported_onnx, tmp_path)
    plan = write_plan(exported_onnx, tmp_path, flavour=flavour, **options)
    with open_model(plan) as engine, open_model(exported_onnx, "cpu") as reference:
        for image in (gray(count, 1, 32, 32) for count in (1, 4, 2)):
            assert np.abs(engine.run(image) - reference.run(image)).max() < 2e-3


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_replayed_graphs_equal_plain_runs(
    needs: Callable[[str], None], exported_onnx: Path, tmp_path: Path, gray: Callable[..., np.ndarray], flavour: str
) -> None:
    """The first runs of each slot are plain, later ones replays; then a graph of another shape takes its place."""
    needs(flavour)
    plan = write_plan(exported_onnx, tmp_path, flavour=flavour)
    with open_model(plan) as engine:
        for count in (4, 2, 4):
            image, other = gray(count, 1, 32, 32), 1 - gray(count, 1, 32, 32)
            plain = engine.run(image), engine.run(image)
            different = engine.run(other), engine.run(other)
            replayed = engine.run(image), engine.run(image)
            assert all(np.abs(rgb - plain[0]).max() < 1e-5 for rgb in (*plain, *replayed))
            assert all(np.abs(rgb - plain[0]).max() > 1e-2 for rgb in different)
        assert engine.note is None


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_two_threads_get_their_own_answers(
    needs: Callable[[str], None], exported_onnx: Path, tmp_path: Path, gray: Callable[..., np.ndarray], flavour: str
) -> None:
    needs(flavour)
    plan = write_plan(exported_onnx, tmp_path, flavour=flavour)
    images = [gray(1 + i % 4, 1, 32, 32) * np.float32(i / 64) for i in range(64)]
    with open_model(plan) as engine, ThreadPoolExecutor(2) as pool:
        alone = [engine.run(image) for image in images]
        for _ in range(4):
            together = pool.map(engine.run, images)
            assert all(np.abs(a - b).max() < 1e-5 for a, b in zip(alone, together, strict=True))
