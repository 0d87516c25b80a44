"""PyTorch on a run or checkpoint: the reference, and what the other backends are compared with."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgan.checkpoint_record import checkpoint_path
from cgan.errors import GateError, UserError
from cgan.training.checkpoint import load_generator
from infer.backends import open_model, pytorch
from infer.backends.base import OutOfMemory
from infer.backends.flavours import Gpu
from infer.backends.pytorch import TorchBackend

Array = Callable[..., np.ndarray]
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


def refusal(source: Path, device: str = "auto") -> str:
    """The one line with which a run is refused."""
    with pytest.raises(UserError) as refused:
        open_model(source, device).__enter__()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_run_gives_what_its_export_gives(trained_run: Path, exported_onnx: Path, gray: Array) -> None:
    with open_model(trained_run, "cpu") as reference, open_model(exported_onnx, "cpu") as exported:
        assert reference.spec.weights_sha256 == exported.spec.weights_sha256
        for count in (1, 5):
            image = gray(count, 1, 32, 32)
            rgb = reference.run(image)
            assert rgb.std() > 0.01
            assert np.abs(rgb - exported.run(image)).max() < 1e-4


def test_a_run_and_its_checkpoint_are_the_same_model(trained_run: Path, gray: Array) -> None:
    image = gray(2, 1, 32, 32)
    answers = []
    for source in (trained_run, checkpoint_path(trained_run)):
        with open_model(source, "cpu") as backend:
            assert isinstance(backend, TorchBackend)
            assert backend.engine == f"PyTorch {torch.__version__}, fp32, CPU"
            assert backend.spec == load_generator(trained_run)[1]
            said = f"{trained_run}: best.safetensors, epoch 2, test_psnr " if source == trained_run else ""
            assert (
                backend.sidecar is None and (backend.note or "").startswith(said) and bool(backend.note) == bool(said)
            )
            assert (backend.on_gpu, backend.pads, backend.default_batch) == (False, False, 4)
            answers.append(backend.run(image))
    assert np.array_equal(answers[0], answers[1])


def test_it_takes_other_sizes_than_it_was_trained_at(trained_run: Path, gray: Array) -> None:
    with open_model(trained_run, "cpu") as backend:
        assert backend.spec.render_size == 32
        assert (backend.fixed_size, backend.size_range, backend.batch_range) == (None, None, (1, None))
        assert backend.run(gray(2, 1, 48, 80)).shape == (2, 3, 48, 80)
        with pytest.raises(ValueError, match="multiples of 16"):
            backend.run(gray(2, 1, 40, 32))


def test_photos_that_cannot_be_written_to_are_read(trained_run: Path, gray: Array) -> None:
    image = gray(1, 1, 32, 32)
    image.flags.writeable = False
    with open_model(trained_run, "cpu") as backend:
        assert backend.run(image).shape == (1, 3, 32, 32)


def test_threads_are_set_for_as_long_as_it_is_open(trained_run: Path, gray: Array) -> None:
    before = torch.get_num_threads()
    with open_model(trained_run, "cpu", threads=before + 2) as backend:
        assert torch.get_num_threads() == before + 2
        backend.run(gray(1, 1, 32, 32))
    assert torch.get_num_threads() == before
    with open_model(trained_run, "cpu"):
        assert torch.get_num_threads() == before


@without_cuda
def test_cuda_is_never_replaced_by_the_cpu(trained_run: Path) -> None:
    line = refusal(trained_run, "cuda")
    assert line.startswith(f"--device cuda: PyTorch {torch.__version__} (built ")
    assert "found no GPU that it can use" in line


@without_cuda
def test_auto_says_that_it_leaves_a_gpu_aside(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "find_gpu", lambda: Gpu("NVIDIA A10", "8.6"))
    with open_model(trained_run) as backend:
        assert backend.note is not None
        assert backend.note.endswith("cannot use the NVIDIA A10 here; going on with the CPU")
    with open_model(checkpoint_path(trained_run), "cpu") as backend:
        assert backend.note is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    assert "found a folder that is no run of cgan-train" in refusal(tmp_path)


def test_changed_weights_are_refused(trained_run: Path, tmp_path: Path) -> None:
    content = bytearray(checkpoint_path(trained_run).read_bytes())
    content[-1] ^= 1
    changed = tmp_path / "last.safetensors"
    changed.write_bytes(content)
    with pytest.raises(GateError, match="weights were changed"):
        open_model(changed).__enter__()
    changed.write_bytes(b"not a checkpoint")
    assert "not a safetensors checkpoint" in refusal(changed)


@pytest.mark.parametrize("package", ["torch", "safetensors"])
@pytest.mark.slow
def test_a_missing_package_names_the_extra(trained_run: Path, package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from pathlib import Path
from infer.backends import open_model
from cgan.command import exit_on_user_error
with exit_on_user_error():
    open_model(Path(sys.argv[1])).__enter__()
"""
    result = subprocess.run([sys.executable, "-c", code, str(trained_run)], capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert f"a run or checkpoint needs the package {package}; install it with" in result.stderr
    assert "pip install 'cgan[train]'" in result.stderr


SMALL_MEMORY = """
import resource, sys
import numpy as np
from pathlib import Path
from infer.backends import open_model
from infer.backends.base import OutOfMemory
with open_model(Path(sys.argv[1]), "cpu") as backend:
    small = np.zeros((1, 1, 32, 32), np.float32)
    backend.run(small)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    try:
        backend.run(np.zeros((4, 1, 2048, 2048), np.float32))
    except OutOfMemory as error:
        print("out of memory:", str(error).splitlines()[0])
    print(backend.run(small).shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.slow
def test_a_batch_too_large_for_the_memory_says_so_and_a_smaller_one_runs(trained_run: Path) -> None:
    arguments = [sys.executable, "-c", SMALL_MEMORY, str(trained_run)]
    result = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    first, last = result.stdout.splitlines()
    assert first.startswith("out of memory: ")
    assert last == "(1, 3, 32, 32)"


def test_memory_of_a_gpu_that_runs_out_is_told_apart(
    trained_run: Path, gray: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ]

    def fail(*_: object) -> None:
        raise failures.pop(0)

    with open_model(trained_run, "cpu") as backend:
        monkeypatch.setattr(backend, "_model", fail)
        for _ in range(2):
            with pytest.raises(OutOfMemory):
                backend.run(gray(1, 1, 32, 32))
        with pytest.raises(RuntimeError, match="EXECUTION_FAILED") as failed:
            backend.run(gray(1, 1, 32, 32))
        assert not isinstance(failed.value, OutOfMemory)


def test_on_a_gpu_it_computes_in_fp32_and_always_the_same(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is made up, so only the settings are looked at; that they are put back too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A10")
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    cudnn: Any = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.allow_tf32, cudnn.conv.fp32_precision
    assert before[1] is True
    with open_model(trained_run, "cuda") as backend:
        assert backend.engine == f"PyTorch {torch.__version__}, fp32, NVIDIA A10"
        assert (backend.on_gpu, backend.pads, backend.default_batch) == (True, False, 64)
        assert (cudnn.deterministic, cudnn.allow_tf32, cudnn.conv.fp32_precision) == (True, False, "ieee")
    assert (cudnn.deterministic, cudnn.allow_tf32, cudnn.conv.fp32_precision) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and PyTorch for CUDA")
def test_a_gpu_agrees_with_the_cpu_and_with_itself(trained_run: Path, gray: Array) -> None:
    image = gray(5, 1, 32, 32)
    with open_model(trained_run, "cuda") as backend, open_model(trained_run, "cpu") as reference:
        rgb = backend.run(image)
        assert np.array_equal(rgb, backend.run(image))
        assert np.abs(rgb - reference.run(image)).max() < 1e-5
