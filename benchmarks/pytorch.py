"""PyTorch as people run it, for benchmarks/latency.py: channels-last and with its own defaults.

The backend "torch" of cgan-infer is exact and slower on a GPU. These take an exported fp32 file too, so that the
weights of the package can be run without a checkpoint.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import _dynamo as dynamo

from cgan.errors import UserError
from cgan.networks import Generator
from cgan.spec import ModelSpec
from cgan.training.exported import load_network
from infer.backends.base import Backend
from infer.backends.pytorch import TorchBackend

SHAPES = 64
"""Shapes and ways to run that torch.compile may translate in one process."""


class PyTorch(TorchBackend):
    """PyTorch on a run, a checkpoint or an exported fp32 file.

    Args:
        path: any of these.
        device: "auto", "cpu" or "cuda".
        half: whether autocast computes in fp16 on a GPU and in bf16 on a CPU, instead of in fp32.
        compiled: whether torch.compile translates the network, for each shape anew.
    """

    def __init__(self, path: Path, device: str = "auto", *, half: bool = False, compiled: bool = False) -> None:
        super().__init__(path, device)
        self.half = half
        self.compiled = compiled

    def _load(self) -> tuple[Generator, ModelSpec]:
        return load_network(self.path)

    def _prepared(self, model: nn.Module) -> nn.Module:
        device = "cuda" if self.on_gpu else "cpu"
        half_type = torch.float16 if self.on_gpu else torch.bfloat16
        prepared: Any = _Autocast(model.to(memory_format=torch.channels_last), device, half_type, self.half)
        precision = str(half_type).removeprefix("torch.") if self.half else "fp32"
        where = torch.cuda.get_device_name() if self.on_gpu else "CPU"
        self._engine_text = f"PyTorch {torch.__version__}, channels-last, {precision}, {where}"
        if self.compiled:
            # With CUDA graphs on a GPU, or small batches would measure how fast Python launches kernels.
            mode = "reduce-overhead" if self.on_gpu else "default"
            # Past its limit torch would go on eagerly, and say so in a log alone.
            dynamo.config.recompile_limit = SHAPES
            dynamo.config.fail_on_recompile_limit_hit = True
            prepared = torch.compile(prepared, dynamic=False, mode=mode)
            self._engine_text += f", torch.compile {mode}"
        made: nn.Module = prepared
        return made


class _Autocast(nn.Module):
    """A network in autocast, whose answer is fp32."""

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
"""What stands behind MODEL@ in benchmarks/latency.py for these."""


def open_pytorch(path: Path, device: str, way: str) -> Backend:
    """One of WAYS.

    Raises:
        UserError: no such file.
    """
    if not path.exists():
        raise UserError(f"{path}: found no such file, expected an exported fp32 model, a run or a checkpoint")
    return PyTorch(path, device, **WAYS[way])
