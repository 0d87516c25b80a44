"""PyTorch as people run it, for `python -m benchmarks latency`: channels-last and with its own defaults.

The backend "torch" of cgan-infer is exact and slower on a GPU. These take an exported fp32 file too, so that the
weights of the package can be run without a checkpoint.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import _dynamo as dynamo

from cgan.errors import UserError
from cgan.networks import GrayToRGB
from cgan.spec import ModelSpec
from cgan.training.exported import load_network
from infer.backends.base import Backend

SHAPES = 64
"""Shapes and ways to run that torch.compile may translate in one process."""


class PyTorch(Backend):
    """PyTorch on a run, a checkpoint or an exported fp32 file.

    Args:
        path: any of these.
        device: "auto", "cpu" or "cuda".
        half: compute with autocast, in fp16 on a GPU and in bf16 on a CPU, instead of in fp32.
        compiled: translate the network with torch.compile, once for each shape.
    """

    pads = False
    fixed_size = None

    def __init__(self, path: Path, device: str = "auto", *, half: bool = False, compiled: bool = False) -> None:
        super().__init__(path, device)
        self.half = half
        self.compiled = compiled
        self.network: nn.Module = nn.Identity()
        """Gray, N x 1 x H x W, to RGB, N x 3 x H x W, on `target`, while the backend is entered."""
        self.target = "cpu"
        """Device of the network: "cpu" or "cuda"."""
        self._engine_text = ""

    @property
    def engine(self) -> str:
        """Version, precision and device: "PyTorch 2.15.0, channels-last, fp32, CPU"."""
        return self._engine_text

    @property
    def on_gpu(self) -> bool:
        """True if the loaded model runs on a GPU."""
        return self.target == "cuda"

    def _activate(self) -> ModelSpec:
        usable = torch.cuda.is_available()
        if self.device == "cuda" and not usable:
            raise UserError("--device cuda: PyTorch found no GPU that it can use; use --device cpu or auto")
        self.target = "cuda" if usable and self.device != "cpu" else "cpu"
        generator, spec = load_network(self.path)
        self.network = self._prepared(GrayToRGB(generator, spec.color_space).eval().to(self.target))
        return spec

    def _deactivate(self) -> None:
        self.network = nn.Identity()

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            rgb = self.network(torch.tensor(gray, device=self.target))
            result: NDArray[np.float32] = rgb.cpu().contiguous().numpy()
        return result

    def _prepared(self, model: nn.Module) -> nn.Module:
        """Return the model in channels-last, with autocast and compiled where that was asked for."""
        half_type = torch.float16 if self.on_gpu else torch.bfloat16
        prepared: Any = _Autocast(model.to(memory_format=torch.channels_last), self.target, half_type, self.half)
        precision = str(half_type).removeprefix("torch.") if self.half else "fp32"
        where = torch.cuda.get_device_name() if self.on_gpu else "CPU"
        self._engine_text = f"PyTorch {torch.__version__}, channels-last, {precision}, {where}"
        if self.compiled:
            # With CUDA graphs on a GPU: otherwise small batches would measure how fast Python launches kernels.
            mode = "reduce-overhead" if self.on_gpu else "default"
            # Beyond its limit torch would continue eagerly, and only log that.
            dynamo.config.recompile_limit = SHAPES
            dynamo.config.fail_on_recompile_limit_hit = True
            prepared = torch.compile(prepared, dynamic=False, mode=mode)
            self._engine_text += f", torch.compile {mode}"
        made: nn.Module = prepared
        return made


class _Autocast(nn.Module):
    """A network that runs in autocast and returns fp32."""

    def __init__(self, model: nn.Module, device: str, half_type: torch.dtype, half: bool) -> None:
        super().__init__()
        self.model = model
        self.device, self.half_type, self.enabled = device, half_type, half

    def forward(self, gray: Tensor) -> Tensor:
        with torch.autocast(self.device, self.half_type, enabled=self.enabled):
            rgb: Tensor = self.model(gray.contiguous(memory_format=torch.channels_last))
        return rgb.float()


WAYS = {
    "pytorch": {"half": False, "compiled": False},
    "pytorch-half": {"half": True, "compiled": False},
    "pytorch-compiled": {"half": False, "compiled": True},
    "pytorch-half-compiled": {"half": True, "compiled": True},
}
"""Options of `PyTorch` by the name that follows MODEL@ in `python -m benchmarks latency`."""


def open_pytorch(path: Path, device: str, way: str) -> Backend:
    """Return a backend for one of WAYS, not yet entered.

    Raises:
        UserError: there is no such file.
    """
    if not path.exists():
        raise UserError(f"{path}: found no such file, expected an exported fp32 model, a run or a checkpoint")
    return PyTorch(path, device, **WAYS[way])
