"""`benchmarks.compute_run`: runs without copies, on a CPU and for every engine that is here on a GPU."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.compute_run import compute_run
from infer.backends import open_model

pytestmark = pytest.mark.benchmarks
GRAY = np.random.default_rng(0).random((2, 1, 32, 32), np.float32)


def test_on_a_cpu_the_backend_runs_the_batch(exported_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_model(exported_onnx, "cpu") as backend:
        seen: list[np.ndarray] = []
        monkeypatch.setattr(backend, "run", seen.append)
        run = compute_run(backend, GRAY)
        assert seen == []
        run()
        run()
    assert [batch is GRAY for batch in seen] == [True, True]


@pytest.mark.gpu
@pytest.mark.parametrize("source", ["exported_onnx", "trained_run"])
def test_on_a_gpu_the_batch_stays_there(
    source: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch can use")
    with open_model(request.getfixturevalue(source), "cuda") as backend:
        copied: list[np.ndarray] = []
        monkeypatch.setattr(backend, "run", copied.append)
        run = compute_run(backend, GRAY)
        run()
        run()
    assert copied == []
