"""Both flavours go through the same calls: a stub in the place of the module records them."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgan.errors import GateError, UserError
from cgan.files import file_sha256
from cgan.spec import ModelSpec, generator_parameters
from export import engine
from export.engine import build_engine
from export.engine_options import EngineOptions, flag
from export.engine_precision import FROM_ENGINE, FROM_NETWORK
from infer.backends.flavours import FLAVOURS, Gpu, messages
from tests.export.tensorrt_stub import Stub

A10 = Gpu("NVIDIA A10", "8.6")
SPEC = ModelSpec(
    model="unet",
    color_space="rgb",
    render_size=32,
    base_width=4,
    parameters=generator_parameters("rgb", 4, 1),
    precision="fp16",
    config_sha256="",
    weights_sha256="",
)
Install = Any


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install(flavour, gpu, **stub)`: put a stub in the place of a flavour's module and say what GPU is here."""

    def put(flavour: str = "tensorrt", gpu: Gpu | None = A10, **values: Any) -> Stub:
        stub = Stub(FLAVOURS[flavour].module, **values)
        monkeypatch.setitem(sys.modules, FLAVOURS[flavour].module, stub)
        monkeypatch.setattr(engine, "find_gpu", lambda: gpu)
        return stub

    return put


def build(folder: Path, flavour: str = "tensorrt", **options: Any) -> dict[str, Any]:
    onnx_file = folder / "model.onnx"
    onnx_file.write_bytes(b"\x3a\x00")  # a graph without nodes
    wanted = EngineOptions(**{"flavour": flavour, "batch": (1, 2, 4), **options})
    return build_engine(onnx_file, SPEC, wanted, folder / "model.plan").to_json()


def test_layers_of_an_engine_for_other_gpus_are_not_looked_at(install: Install, tmp_path: Path) -> None:
    """Loading it here would fail."""
    for gpu in (Gpu("NVIDIA H200", "9.0"), Gpu("NVIDIA T4", "7.5")):
        install("tensorrt-rtx", gpu)
        assert build(tmp_path, "tensorrt-rtx")["precision"]["engine"] is None


def test_tensorrt_builds_for_the_gpu_that_is_here(install: Install, tmp_path: Path) -> None:
    install()
    record = build(tmp_path)
    assert (tmp_path / "model.plan").read_bytes() == b"a plan"
    assert record["flavour"] == "tensorrt"
    assert (record["tensorrt_version"], record["gpu"]) == ("11.4.0.106", "NVIDIA A10")
    assert record["compute_capabilities"] == ["8.6"]
    assert record["platform"]
    assert record["onnx_sha256"] == file_sha256(tmp_path / "model.onnx")
    assert record["warnings"] == ["slow tactics"]


def test_both_flavours_are_told_the_same(install: Install, tmp_path: Path) -> None:
    options = {"workspace_mib": 64, "strip_weights": True, "detailed_profiling": True}
    calls = []
    for flavour in FLAVOURS:
        stub = install(flavour)
        record = build(tmp_path, flavour, **options)
        assert record["flags"] | options == record["flags"]
        calls.append(stub.calls)
    assert calls[0] == calls[1]
    assert calls[0] == [
        ("create_network", 1 << 1),
        ("set_shape", "gray", [1, 1, 32, 32], [2, 1, 32, 32], [4, 1, 32, 32]),
        ("add_optimization_profile", "profile"),
        ("set_memory_pool_limit", 0, 64 * 2**20),
        ("set_flag", 2),
        ("set_flag", 3),
        ("profiling_verbosity", 1),
    ]


def test_a_tensorrt_without_the_flag_is_strongly_typed_by_itself(install: Install, tmp_path: Path) -> None:
    stub = install(typed=False)
    record = build(tmp_path)
    assert stub.calls[0] == ("create_network", 0)
    assert record["flags"]["strongly_typed"] is True


@pytest.mark.parametrize(
    ("option", "value", "calls"),
    [
        ("optimization_level", 0, [("builder_optimization_level", 0)]),
        ("optimization_level", 5, [("builder_optimization_level", 5)]),
        ("version_compatible", True, [("set_flag", 0), ("set_flag", 1)]),
        ("hardware_compatible", True, [("hardware_compatibility_level", 1)]),
    ],
)
def test_options_of_tensorrt_alone(
    install: Install, tmp_path: Path, option: str, value: Any, calls: list[tuple[Any, ...]]
) -> None:
    stub = install()
    record = build(tmp_path, **{option: value})
    assert stub.calls[3:] == calls
    assert record["flags"][option] == value
    assert record["compute_capabilities"] == (["8.0+"] if option == "hardware_compatible" else ["8.6"])
    install("tensorrt-rtx")
    with pytest.raises(UserError, match=rf"{flag(option)}: TensorRT for RTX .*; leave it out"):
        build(tmp_path, "tensorrt-rtx", **{option: value})


def test_a_timing_cache_is_kept_and_reused(install: Install, tmp_path: Path) -> None:
    stub, cache = install(), tmp_path / "cache"
    record = build(tmp_path, timing_cache=cache)
    assert record["flags"]["timing_cache"] is True
    assert stub.calls[3:] == [("create_timing_cache", b""), ("set_timing_cache", b"", False)]
    assert cache.read_bytes() == b"kernel times"
    build(tmp_path, timing_cache=cache)
    assert stub.calls[-2:] == [("create_timing_cache", b"kernel times"), ("set_timing_cache", b"kernel times", False)]


@pytest.mark.parametrize("content", [b"of another GPU", b"a photo"])
def test_a_file_that_is_no_timing_cache_of_this_gpu_is_not_overwritten(
    install: Install, tmp_path: Path, content: bytes
) -> None:
    stub, cache = install(), tmp_path / "cache"
    stub.cache_error = "cannot deserialize" if content == b"a photo" else None
    cache.write_bytes(content)
    with pytest.raises(UserError, match=r"--timing-cache: found .*cache, expected a timing cache of this"):
        build(tmp_path, timing_cache=cache)
    assert cache.read_bytes() == content


def test_a_timing_cache_that_cannot_be_written_is_an_error(install: Install, tmp_path: Path) -> None:
    install()
    with pytest.raises(UserError, match="cannot be written"):
        build(tmp_path, timing_cache=tmp_path / "none" / "cache")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"--timing-cache: .*cannot be read"):
        build(tmp_path, timing_cache=tmp_path / "folder")


@pytest.mark.parametrize("before", [None, b"kernel times of an earlier build"])
def test_a_timing_cache_that_appears_or_changes_during_the_build_is_left_alone(
    install: Install, tmp_path: Path, before: bytes | None
) -> None:
    stub, cache = install(), tmp_path / "cache"
    if before:
        cache.write_bytes(before)
    stub.on_build = lambda: cache.write_bytes(b"mine")
    with pytest.raises(GateError, match=r"^--timing-cache: .*cache appeared or changed while the engine was built, .*"):
        build(tmp_path, timing_cache=cache)
    assert cache.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "model.onnx"]


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "link"])
def test_a_timing_cache_that_is_no_file_is_refused_before_the_build(
    install: Install, tmp_path: Path, kind: str
) -> None:
    stub, cache, mine = install(), tmp_path / "cache", tmp_path / "mine"
    mine.write_bytes(b"mine")
    if kind == "fifo":
        os.mkfifo(cache)
    else:
        cache.symlink_to(mine if kind == "link" else kind)
    stub.on_build = lambda: pytest.fail("it was built")
    with pytest.raises(UserError, match=r"^--timing-cache: .*cache cannot be read \(found a .*; name another file$"):
        build(tmp_path, timing_cache=cache)
    assert cache.is_fifo() if kind == "fifo" else cache.is_symlink()
    assert mine.read_bytes() == b"mine"


def test_without_a_gpu_tensorrt_builds_nothing(install: Install, tmp_path: Path) -> None:
    stub = install(gpu=None)
    with pytest.raises(
        UserError, match=r"--format tensorrt: found no NVIDIA GPU.*use --format tensorrt-rtx"
    ) as refused:
        build(tmp_path)
    assert refused.value.exit_code == 2
    assert stub.calls == []


def test_a_gpu_before_ampere_makes_no_hardware_compatible_engine(install: Install, tmp_path: Path) -> None:
    install(gpu=Gpu("Tesla T4", "7.5"))
    with pytest.raises(UserError, match=r"--hardware-compatible: found Tesla T4 of compute capability 7\.5"):
        build(tmp_path, hardware_compatible=True)
    assert build(tmp_path)["compute_capabilities"] == ["7.5"]
    install(gpu=Gpu("NVIDIA A100", "8.0"))
    assert build(tmp_path, hardware_compatible=True)["compute_capabilities"] == ["8.0+"]


def test_compute_capabilities_are_set_one_by_one(install: Install, tmp_path: Path) -> None:
    stub = install("tensorrt-rtx")
    record = build(tmp_path, "tensorrt-rtx", compute_capabilities=("12.0", "8.6"))
    assert stub.calls[3:] == [
        ("num_compute_capabilities", 2),
        ("set_compute_capability", 3, 0),
        ("set_compute_capability", 2, 1),
    ]
    assert record["compute_capabilities"] == ["12.0", "8.6"]
    assert record["gpu"] is None  # it is not built for the one that happens to be here


def test_a_build_that_fails_says_why_in_one_line(install: Install, tmp_path: Path) -> None:
    stub = install()
    stub.plan = None
    messages(stub).log(stub.ILogger.ERROR, "IBuilder::build: of the last build")
    with pytest.raises(GateError, match=r"^TensorRT cannot build the engine \(IBuilder::build: no tactics\)$"):
        build(tmp_path)
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize(("text", "share"), [('"Half"', 1.0), ('"Float"', 0.0)])
def test_where_the_engine_can_be_loaded_the_inspector_decides(
    install: Install, tmp_path: Path, text: str, share: float
) -> None:
    stub = install()
    information = f'{{"Layers": [{{"Name": "conv", "Outputs": [{{"Format/Datatype": {text}}}]}}]}}'
    inspector = SimpleNamespace(get_engine_information=lambda form: information)
    stub.engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    if share == 0:
        with pytest.raises(GateError, match=r"found 0% of its layers in FP16 \(engine inspector\)"):
            build(tmp_path)
        return
    precision = build(tmp_path)["precision"]
    assert precision["found_by"] == FROM_ENGINE
    assert precision["fp16_share"] == share
    stub.engine = None
    assert build(tmp_path)["precision"]["found_by"] == FROM_NETWORK


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_missing_module_names_the_extra(flavour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, FLAVOURS[flavour].module, None)
    with pytest.raises(UserError, match=rf"needs the package {FLAVOURS[flavour].module}.*cgan\[{flavour}\]") as refused:
        build(tmp_path, flavour)
    assert refused.value.exit_code == 2


def test_an_old_module_is_refused(install: Install, tmp_path: Path) -> None:
    install(version="10.11.0.33")
    with pytest.raises(UserError, match=r"found TensorRT 10\.11\.0\.33, expected 10\.12 or newer"):
        build(tmp_path)
    install(version="10.12.0.36")
    build(tmp_path)


def test_a_module_whose_libraries_are_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text('raise ImportError("libnvinfer.so.11: cannot open\\nshared object")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(UserError, match=r"TensorRT cannot be loaded \(libnvinfer\.so\.11: cannot open shared object\)"):
        build(tmp_path)


def test_ctrl_c_is_kept_only_where_nobody_else_handles_it(install: Install, tmp_path: Path) -> None:
    stub, seen, failures = install(), [], []

    def look() -> bytes:
        seen.append(signal.getsignal(signal.SIGINT))
        return b"a plan"

    stub.on_build = look
    before = signal.getsignal(signal.SIGINT)
    build(tmp_path)
    assert seen[0] is not before is signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        build(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen[1] is signal.SIG_IGN

    def work() -> None:
        try:
            build(tmp_path)
        except ValueError as error:  # signal.signal outside the main thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (len(seen), seen[2], failures) == (3, before, [])


def test_the_stub_and_the_module_have_the_same_names() -> None:
    """Else what the stub proves holds for the stub alone."""
    import tensorrt_rtx

    stub = Stub("stub")
    for name in ("BuilderFlag", "MemoryPoolType", "HardwareCompatibilityLevel", "ProfilingVerbosity"):
        assert set(getattr(stub, name).__members__) <= set(getattr(tensorrt_rtx, name).__members__)
    config = tensorrt_rtx.IBuilderConfig
    for attribute in (
        *("builder_optimization_level", "hardware_compatibility_level", "profiling_verbosity", "progress_monitor"),
        *("set_flag", "set_memory_pool_limit", "num_compute_capabilities", "set_compute_capability"),
        *("create_timing_cache", "set_timing_cache", "get_timing_cache", "add_optimization_profile"),
    ):
        assert hasattr(config, attribute)
    for kind, name in (
        (tensorrt_rtx.Refitter, "refit_cuda_engine"),
        (tensorrt_rtx.OnnxParserRefitter, "refit_from_bytes"),
        (tensorrt_rtx.EngineInspector, "get_engine_information"),
        (tensorrt_rtx.Runtime, "load_runtime"),
        (tensorrt_rtx.IExecutionContext, "execute_async_v3"),
    ):
        assert hasattr(kind, name)
