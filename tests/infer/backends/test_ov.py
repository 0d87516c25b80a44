"""OpenVINO on the CPU: the precision that was asked for, and threads that share one model."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cgan.errors import UserError
from export.artefact import ExportOptions, make_onnx
from infer.backends import open_model
from infer.backends.ov import load_openvino

Array = Callable[..., np.ndarray]
openvino = load_openvino()
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def refusal(path: Path, device: str = "auto", backend: str = "openvino") -> str:
    """The one line with which a model is refused."""
    with pytest.raises(UserError) as refused:
        open_model(path, device, backend=backend).__enter__()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_it_gives_what_onnx_runtime_gives(exported_onnx: Path, gray: Array) -> None:
    with (
        open_model(exported_onnx, "cpu", backend="openvino") as fast,
        open_model(exported_onnx, "cpu", backend="ort") as usual,
    ):
        assert fast.engine == f"OpenVINO {openvino.__version__.split('-')[0]}, CPU, f32"
        assert (fast.fixed_size, fast.spec, fast.sidecar) == ((32, 32), usual.spec, usual.sidecar)
        for count in (1, 5):
            image = gray(count, 1, 32, 32)
            assert np.abs(fast.run(image) - usual.run(image)).max() < 1e-5


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
def test_bf16_is_another_arithmetic_and_says_so(exported_onnx: Path, gray: Array) -> None:
    image = gray(4, 1, 32, 32)
    with open_model(exported_onnx, "cpu", backend="openvino-bf16") as half:
        assert half.engine.endswith(", CPU, bf16")
        rgb = half.run(image)
    with open_model(exported_onnx, "cpu", backend="openvino") as full:
        difference = np.abs(rgb - full.run(image)).max()
    assert 1e-5 < difference < 0.1


def test_a_precision_that_the_processor_lacks_is_refused(exported_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # OpenVINO computes in f32 where it is asked for what the processor lacks.
    monkeypatch.setattr(
        "infer.backends.ov.OpenVinoBf16Backend._settings", lambda _: {"INFERENCE_PRECISION_HINT": "f32"}
    )
    assert "which this processor lacks" in refusal(exported_onnx, backend="openvino-bf16")


def test_any_size_where_the_model_takes_any(trained_run: Path, tmp_path: Path, gray: Array) -> None:
    dynamic = make_onnx(trained_run, tmp_path, ExportOptions(dynamic_size=True)).path
    image = gray(2, 1, 48, 80)
    with open_model(dynamic, "cpu", backend="openvino") as fast, open_model(dynamic, "cpu") as usual:
        assert fast.fixed_size is None
        assert np.abs(fast.run(image) - usual.run(image)).max() < 1e-5


def test_threads_share_a_model(exported_onnx: Path, gray: Array) -> None:
    images = [(gray(3, 1, 32, 32) * (i + 1) / 16).astype(np.float32) for i in range(16)]
    with open_model(exported_onnx, "cpu", 1, backend="openvino") as backend:
        expected = [backend.run(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(backend.run, images))
    assert all(np.abs(a - b).max() < 1e-6 for a, b in zip(expected, found, strict=True))


FIRST_RUNS = """
import sys, threading
from pathlib import Path
import numpy as np
from infer.backends import open_model

with open_model(Path(sys.argv[1]), "cpu", 1, backend="openvino") as backend:
    sys.setswitchinterval(1e-6)  # threads take turns as soon as they can
    gray = np.zeros((1, 1, 32, 32), np.float32)
    together = threading.Barrier(2)

    def first_run():
        together.wait()
        backend.run(gray)

    threads = [threading.Thread(target=first_run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_the_table_of_types_is_built_while_it_loads(exported_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(openvino.Type, "to_dtype", lambda kind: asked.append(kind))
    with open_model(exported_onnx, "cpu", backend="openvino"):
        assert asked == [openvino.Type.f32]


@pytest.mark.slow
def test_the_first_runs_of_two_threads_do_not_wait_for_each_other(exported_onnx: Path) -> None:
    # Each process can meet it once only; without the table that `_activate` has OpenVINO build, many of them hang.
    for _ in range(4):
        subprocess.run([sys.executable, "-c", FIRST_RUNS, exported_onnx], check=True, timeout=60)


def test_a_result_outlives_the_next_run(exported_onnx: Path, gray: Array) -> None:
    with open_model(exported_onnx, "cpu", backend="openvino") as backend:
        first = backend.run(gray(1, 1, 32, 32))
        kept = first.copy()
        backend.run(1 - gray(1, 1, 32, 32))
        assert np.array_equal(first, kept)


def test_what_cannot_run_is_refused(exported_onnx: Path, trained_run: Path, tmp_path: Path) -> None:
    assert "expected cpu or auto" in refusal(exported_onnx, "cuda")
    assert "use --backend torch" in refusal(trained_run)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported_onnx.read_bytes()[:-100])
    assert "export it again with cgan-export" in refusal(broken)


def test_without_the_package_the_extra_is_named(exported_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install 'cgan[openvino]'" in refusal(exported_onnx)
