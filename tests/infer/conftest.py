"""Fixtures of backends: arrays, a model to spoil, records of plans, and the stubs of CUDA and TensorRT."""

import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cgan.files import file_sha256
from cgan.spec import ModelSpec, Sidecar, sidecar_path, write_sidecar
from infer.backends import trt
from infer.backends.flavours import Gpu
from infer.backends.trt import sealed
from tests.infer.gpu_stubs import Cuda, Library, answer

VERSIONS = {"tensorrt-rtx": "1.7.1.116", "tensorrt": "11.4.0.106"}
RECORD = {
    "flavour": "tensorrt-rtx",
    "compute_capabilities": ["8.0+"],
    "gpu": None,
    "platform": sysconfig.get_platform(),
    "onnx_sha256": "",
    "profiles": [{"min": [1, 1, 32, 32], "opt": [2, 1, 32, 32], "max": [4, 1, 32, 32]}],
    "flags": {"version_compatible": False, "strip_weights": False},
}
SPEC = ModelSpec(
    model="unet",
    color_space="rgb",
    render_size=32,
    base_width=4,
    parameters=229_543,
    config_sha256="0" * 64,
    weights_sha256="0" * 64,
)

Array = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def gray() -> Array:
    """`gray(*shape)`: random float32 in [0, 1)."""
    return lambda *shape: np.random.default_rng(0).random(shape, np.float32)


@pytest.fixture
def model(exported_onnx: Path, tmp_path: Path) -> Path:
    """A copy of the exported model with its sidecar, to be spoilt."""
    shutil.copy(sidecar_path(exported_onnx), tmp_path)
    return Path(shutil.copy(exported_onnx, tmp_path))


@pytest.fixture
def write_record() -> Callable[..., None]:
    """`write_record(plan, flavour=..., **changes)`: a sealed sidecar with this build record."""

    def write(plan: Path, flavour: str = "tensorrt-rtx", **changes: Any) -> None:
        build = {**RECORD, "flavour": flavour, "tensorrt_version": VERSIONS[flavour], **changes}
        write_sidecar(plan, sealed(Sidecar(spec=SPEC, file_sha256=file_sha256(plan), verification={}, build=build)))

    return write


@pytest.fixture
def stub_plan(tmp_path: Path, write_record: Callable[..., None]) -> Path:
    """A plan of TensorRT for RTX that only the stubs can run."""
    path = tmp_path / "model.plan"
    path.write_bytes(b"a plan")
    write_record(path)
    return path


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stubs of CUDA and both flavours in the place of the modules, and an NVIDIA A10.

    `cuda`, `rtx` and `tensorrt` are the modules, `expected(image)` is what their engines make of an image.
    """
    cuda = Cuda()
    flavours = {name: Library(name.replace("-", "_"), VERSIONS[name], cuda) for name in VERSIONS}
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    for library in flavours.values():
        monkeypatch.setitem(sys.modules, library.__name__, library)
    monkeypatch.setattr(trt, "find_gpu", lambda: Gpu("NVIDIA A10", "8.6"))
    return SimpleNamespace(cuda=cuda, rtx=flavours["tensorrt-rtx"], tensorrt=flavours["tensorrt"], expected=answer)
