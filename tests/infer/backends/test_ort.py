"""ONNX Runtime: which provider runs a model, on the library itself; its GPU providers on stubs, since CI has no GPU."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from cgan.errors import UserError
from cgan.files import file_sha256
from cgan.spec import sidecar_path
from infer.backends import open_model, ort
from infer.backends.base import OutOfMemory
from infer.backends.ort import PROVIDERS, OrtBackend, engine_cache, gpu_present
from infer.packaged import DEFAULT_MODEL

Array = Callable[..., np.ndarray]
without_gpu = pytest.mark.skipif(gpu_present(), reason="a GPU is here")


def refusal(model: Path, device: str = "auto", provider: str | None = None) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(UserError) as refused:
        open_model(model, device, provider=provider).__enter__()
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    return str(refused.value)


@without_gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "nv-tensorrt-rtx"])
def test_a_provider_without_a_gpu_is_refused(model: Path, provider: str) -> None:
    assert refusal(model, provider=provider).startswith(f"--provider {provider}: found no NVIDIA GPU or no driver")
    assert refusal(model, "cuda", provider).startswith(f"--provider {provider}: found no NVIDIA GPU or no driver")


@without_gpu
def test_cuda_is_never_replaced_by_the_cpu(model: Path) -> None:
    assert refusal(model, "cuda").startswith("--device cuda: found no NVIDIA GPU")


@without_gpu
def test_a_provider_that_does_not_load_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself goes on with the CPU after a warning, whatever it lists as available."""
    monkeypatch.setattr(ort, "gpu_present", lambda: True)
    for line in (refusal(model, "cuda"), refusal(model, provider="cuda")):
        assert line.startswith("CUDAExecutionProvider is not available (")
        assert "found CPUExecutionProvider; install" in line
    line = refusal(model, provider="tensorrt")
    assert "TensorrtExecutionProvider cannot load it (" in line
    assert "'tensorrt-cu13==10.*'" in line
    line = refusal(model, provider="nv-tensorrt-rtx")
    assert line.startswith("NvTensorRTRTXExecutionProvider is not available: found TensorrtExecutionProvider, CUDA")


@without_gpu
def test_auto_goes_on_with_the_cpu_and_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "gpu_present", lambda: True)
    with open_model(model, "auto") as backend:
        assert "CPUExecutionProvider" in backend.engine
        assert not backend.on_gpu
        assert backend.note is not None
        assert "going on with the CPU" in backend.note
    with backend:
        assert backend.note.count("going on with the CPU") == 1


def test_the_cpu_can_be_asked_for_by_either_name(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "gpu_present", lambda: True)
    for device, provider in (("cpu", None), ("auto", "cpu"), ("cpu", "cpu")):
        with open_model(model, device, provider=provider) as backend:
            assert backend.engine == f"ONNX Runtime {onnxruntime.__version__}, CPUExecutionProvider"
            assert (backend.on_gpu, backend.pads, backend.default_batch) == (False, False, 4)
            assert backend.note is None


@pytest.mark.parametrize(
    ("device", "provider", "line"),
    [
        ("cuda", "cpu", "--device cuda: found --provider cpu, which does not run there; leave one of the two out"),
        ("cpu", "cuda", "--device cpu: found --provider cuda, which does not run there"),
        ("cpu", "tensorrt", "--device cpu: found --provider tensorrt, which does not run there"),
        ("auto", "openvino", "--provider: found openvino, expected one of cpu, cuda, tensorrt, nv-tensorrt-rtx"),
    ],
)
def test_contradictions_are_refused(model: Path, device: str, provider: str, line: str) -> None:
    assert refusal(model, device, provider).startswith(line)


def test_the_providers_have_the_names_of_onnx_runtime() -> None:
    assert set(PROVIDERS.values()) <= set(onnxruntime.get_all_providers())


def test_nodes_of_the_library_are_told_apart_by_provider(model: Path) -> None:
    """The refusal of nodes left to the CPU relies on it."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=[PROVIDERS["cpu"]])
    parts = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {PROVIDERS["cpu"]}
    assert "Conv" in {node.op_type for part in parts for node in part.get_nodes()}


def test_errors_of_the_engine_become_one_type(model: Path, gray: Array) -> None:
    with open_model(model, "cpu") as backend, pytest.raises(RuntimeError, match="ONNX Runtime failed on a batch of 1"):
        backend._run(gray(1, 2, 32, 32))


SMALL_MEMORY = """
import resource, sys
import numpy as np
from pathlib import Path
from infer.backends import open_model
from infer.backends.base import OutOfMemory
with open_model(Path(sys.argv[1]), "cpu") as backend:
    small = np.zeros((1, 1, 64, 64), np.float32)
    backend.run(small)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    try:
        backend.run(np.zeros((1024, 1, 64, 64), np.float32))
    except OutOfMemory as error:
        print("out of memory:", error)
    print(backend.run(small).shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_batch_too_large_for_the_memory_says_so_and_a_smaller_one_runs() -> None:
    arguments = [sys.executable, "-c", SMALL_MEMORY, str(DEFAULT_MODEL)]
    result = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    first, *_, last = result.stdout.splitlines()
    assert first.startswith("out of memory: ")
    assert last == "(1, 3, 64, 64)"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_engines_are_kept_by_provider_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo_cache: Path
) -> None:
    folder = engine_cache("ab", "tensorrt")
    assert folder.is_relative_to(photo_cache)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert engine_cache("ab", "tensorrt") == folder
    assert engine_cache("ab", "nv-tensorrt-rtx") != folder
    assert engine_cache("cd", "tensorrt") != folder
    monkeypatch.delenv("CGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert engine_cache("ab", "tensorrt").is_relative_to(tmp_path / "cache" / "cgan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert engine_cache("ab", "tensorrt").is_relative_to(tmp_path / "home" / ".cache" / "cgan")
    (tmp_path / "file").touch()
    monkeypatch.setenv("CGAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot keep engines there \(.*\); make it writable or set CGAN_CACHE"):
        engine_cache("ab", "tensorrt")


class Runtime:
    """The parts of onnxruntime for a GPU: a session on the CPU, and "device" values on the host."""

    def __init__(self) -> None:
        self.sessions: list[tuple[str, dict[str, str], Any]] = []
        """Provider, its options and the session's options."""
        self.here = list(PROVIDERS.values())
        self.elsewhere: list[str] = []
        """Types of the nodes that the provider leaves to the CPU."""
        self.values: list[np.ndarray] = []
        self.most = 10**9
        """Floats of the largest device value."""
        self.failure = ""
        """Why a run on the device fails."""
        self.meanwhile: Callable[[], object] = lambda: None

    def session(self, path: str, options: Any = None, providers: Any = (), enable_fallback: bool = True) -> Any:
        assert enable_fallback is False
        ((provider, settings),) = providers
        real = REAL_SESSION(path, providers=["CPUExecutionProvider"])
        if provider == "CPUExecutionProvider":
            return real
        self.sessions.append((provider, settings, options))
        parts = [(provider, ["Conv"]), ("CPUExecutionProvider", self.elsewhere)]
        assigned = [
            SimpleNamespace(ep_name=name, get_nodes=lambda types=types: [SimpleNamespace(op_type=t) for t in types])
            for name, types in parts
        ]
        return SimpleNamespace(
            get_providers=lambda: [provider, "CPUExecutionProvider"],
            get_provider_graph_assignment_info=lambda: assigned,
            get_modelmeta=real.get_modelmeta,
            get_inputs=real.get_inputs,
            get_outputs=real.get_outputs,
            io_binding=lambda: Binding(),
            run_with_iobinding=lambda binding: self.run(real, binding),
            run=real.run,
        )

    def run(self, real: Any, binding: "Binding") -> None:
        self.meanwhile()
        if self.failure:
            raise ValueError(self.failure)
        (gray, rgb) = binding.bound["gray"], binding.bound["rgb"]
        rgb.array[...] = real.run(["rgb"], {"gray": gray.array})[0]

    def value(self, shape: list[int], dtype: Any, device: str, number: int) -> "Value":
        assert (device, number) == ("cuda", 0)
        if np.prod(shape) > self.most:
            raise RuntimeError("bfc_arena.cc: Failed to allocate memory for requested buffer of size 1")
        self.values.append(np.zeros(shape, dtype))
        return Value(self.values[-1])


REAL_SESSION = onnxruntime.InferenceSession


class Value:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def update_inplace(self, array: np.ndarray) -> None:
        assert array.shape == self.array.shape
        self.array[...] = array

    def numpy(self) -> np.ndarray:
        return self.array.copy()


class Binding:
    def __init__(self) -> None:
        self.bound: dict[str, Value] = {}

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.bound[name] = value

    bind_ortvalue_output = bind_ortvalue_input


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    stub = Runtime()
    monkeypatch.setattr(ort, "gpu_present", lambda: True)
    monkeypatch.setattr(onnxruntime, "InferenceSession", stub.session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: stub.here)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda directory: None)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", stub.value)
    return stub


def test_the_stubs_have_the_names_of_the_library(model: Path) -> None:
    """Else what the stubs prove holds for the stubs alone."""
    session = onnxruntime.InferenceSession(str(model), providers=[PROVIDERS["cpu"]], enable_fallback=False)
    for stub, real in ((Value, onnxruntime.OrtValue), (Binding, type(session.io_binding()))):
        assert {name for name in vars(stub) if name[0] != "_"} <= set(dir(real))
    names = {"get_providers", "get_provider_graph_assignment_info", "io_binding", "run_with_iobinding", "run"}
    assert names <= set(dir(session))
    assert callable(onnxruntime.preload_dlls)


@pytest.mark.parametrize("provider", [None, "cuda", "tensorrt"])
def test_batches_go_through_buffers_on_the_device_that_are_kept(
    model: Path, runtime: Runtime, gray: Array, provider: str | None
) -> None:
    with open_model(model, "cuda", provider=provider) as backend, open_model(model, "cpu") as reference:
        assert backend.engine.endswith(PROVIDERS[provider or "cuda"])
        assert (backend.on_gpu, backend.pads, backend.default_batch) == (True, True, 64)
        assert backend.note is None
        for count in (3, 3, 2, 3, 2):
            image = (gray(count, 1, 32, 32) / (1 + count)).astype(np.float32)
            assert np.array_equal(backend.run(image), reference.run(image))
        assert [value.shape[0] for value in runtime.values] == [3, 3, 2, 2]


def test_an_answer_is_not_overwritten_by_the_next_run_on_the_device(model: Path, runtime: Runtime, gray: Array) -> None:
    with open_model(model, "cuda") as backend:
        image = gray(1, 1, 32, 32)
        first = backend.run(image)
        backend.run(np.zeros_like(image))
        assert np.array_equal(first, backend.run(image))


def test_threads_have_buffers_of_their_own(model: Path, runtime: Runtime, gray: Array) -> None:
    images = [gray(2, 1, 32, 32) * np.float32(i / 32) for i in range(32)]
    runtime.meanwhile = lambda: time.sleep(0.002)
    with open_model(model, "cuda") as backend, open_model(model, "cpu") as reference, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(backend.run, images))
        assert all(np.array_equal(rgb, reference.run(image)) for rgb, image in zip(answers, images, strict=True))
    assert 2 * 2 <= len(runtime.values) <= 2 * 4


def test_the_runtime_of_rtx_copies_by_itself(model: Path, runtime: Runtime, gray: Array) -> None:
    with open_model(model, provider="nv-tensorrt-rtx") as backend:
        assert backend.run(gray(2, 1, 32, 32)).shape == (2, 3, 32, 32)
        assert backend.on_gpu
    assert runtime.values == []


def test_providers_get_their_options(model: Path, runtime: Runtime) -> None:
    for provider in ("cuda", "tensorrt", "nv-tensorrt-rtx"):
        open_model(model, provider=provider).__enter__()
    options = {provider: settings for provider, settings, _ in runtime.sessions}
    assert options[PROVIDERS["cuda"]] == {"use_tf32": "0"}
    folder = str(engine_cache(file_sha256(model), "tensorrt"))
    assert options[PROVIDERS["tensorrt"]] == {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
        "trt_fp16_enable": "False",
        "trt_int8_enable": "False",
    }
    assert options[PROVIDERS["nv-tensorrt-rtx"]] == {
        "nv_runtime_cache_path": str(engine_cache(file_sha256(model), "nv-tensorrt-rtx"))
    }
    for _, _, session in runtime.sessions:
        assert session.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


def test_half_precision_and_integers_are_allowed_where_the_model_has_them(model: Path, runtime: Runtime) -> None:
    sidecar_path(model).unlink()
    for precision in ("fp16", "int8", "fp32"):
        graph = onnx.load(model)
        (entry,) = graph.metadata_props
        entry.value = json.dumps({**json.loads(entry.value), "precision": precision})
        onnx.save(graph, model)
        open_model(model, provider="tensorrt").__enter__()
        _, settings, _ = runtime.sessions[-1]
        assert settings["trt_fp16_enable"] == str(precision == "fp16")
        assert settings["trt_int8_enable"] == str(precision == "int8")
        open_model(model, provider="cuda").__enter__()
        # TF32 would change fp32 results; without it fp16 convolutions leave the matrix units.
        assert runtime.sessions[-1][1] == {"use_tf32": "1" if precision == "fp16" else "0"}


def test_a_broken_file_is_not_blamed_on_the_provider(model: Path, runtime: Runtime) -> None:
    sidecar_path(model).unlink()
    model.write_bytes(b"not a model")
    assert "not an ONNX file, or a damaged one (" in refusal(model, provider="tensorrt")
    assert "not an ONNX file, or a damaged one (" in refusal(model, provider="cuda")
    assert "not an ONNX file, or a damaged one (" in refusal(model)


def test_nodes_left_to_the_cpu_are_refused_or_noted(model: Path, runtime: Runtime) -> None:
    runtime.elsewhere = ["Pad", "Pad", "Mod"]
    for device, provider in (("cuda", None), ("auto", "cuda"), ("auto", "tensorrt")):
        line = refusal(model, device, provider)
        assert "leaves nodes to the CPU: found {'Pad': 2, 'Mod': 1}, expected none; use another --provider" in line
    with open_model(model) as backend:
        assert "CPUExecutionProvider" in backend.engine
        assert backend.note is not None
        assert "leaves nodes to the CPU" in backend.note


def test_memory_that_runs_out_on_the_device_is_given_back(model: Path, runtime: Runtime, gray: Array) -> None:
    runtime.most = 3 * 4 * 32**2
    with open_model(model, "cuda") as backend:
        assert isinstance(backend, OrtBackend)
        backend.run(gray(1, 1, 32, 32))
        assert backend._bindings
        with pytest.raises(OutOfMemory, match="ONNX Runtime failed on a batch of 5: bfc_arena"):
            backend.run(gray(5, 1, 32, 32))
        assert not backend._bindings
        assert backend.run(gray(4, 1, 32, 32)).shape == (4, 3, 32, 32)
        runtime.failure = "CUDNN_STATUS_EXECUTION_FAILED"
        with pytest.raises(RuntimeError, match="failed on a batch of 4: CUDNN") as failed:
            backend.run(gray(4, 1, 32, 32))
        assert not isinstance(failed.value, OutOfMemory)


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_present(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "nv-tensorrt-rtx"])
def test_a_provider_agrees_with_the_cpu(model: Path, gray: Array, provider: str) -> None:
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        pytest.skip(f"this build of ONNX Runtime has no {PROVIDERS[provider]}")
    if provider == "tensorrt":
        pytest.importorskip("tensorrt")
    images = [(gray(count, 1, 32, 32) / (1 + count)).astype(np.float32) for count in (3, 3, 2, 3)] * 4
    with open_model(model, provider=provider) as backend, open_model(model, "cpu") as reference:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(backend.run, images))
        assert all(np.abs(rgb - reference.run(gray)).max() < 1e-3 for rgb, gray in zip(answers, images, strict=True))
