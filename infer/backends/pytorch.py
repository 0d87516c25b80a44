"""PyTorch on a run or checkpoint: the reference for exported models."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cgan.errors import UserError
from cgan.extras import needed
from cgan.spec import ModelSpec
from infer.backends.base import Backend
from infer.backends.flavours import find_gpu

if TYPE_CHECKING:
    from torch import nn

    from cgan.networks import Generator


class TorchBackend(Backend):
    """Runs a run folder or a .safetensors checkpoint eagerly in full fp32, without TF32.

    Device "auto" is cuda if PyTorch can use a GPU, else cpu. While the backend is entered, it changes settings of the
    whole process: the number of CPU threads, if `threads` is not 0, and on a GPU precision and determinism of cuDNN.
    """

    loads_content = False

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        super().__init__(path, device, threads)
        self._model: nn.Module | None = None
        self._target = "cpu"
        self._engine_text = ""
        self._checkpoint: dict[str, Any] | None = None
        self._settings = ExitStack()

    @property
    def engine(self) -> str:
        """Version, precision and device: "PyTorch 2.15.0, fp32, CPU"."""
        return self._engine_text

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """File name, epoch and held-out metrics of the checkpoint that runs."""
        return self._checkpoint

    @property
    def on_gpu(self) -> bool:
        """True if the loaded model runs on a GPU."""
        return self._target == "cuda"

    @property
    def pads(self) -> bool:
        """False: eager PyTorch prepares nothing for a batch shape."""
        return False

    @property
    def fixed_size(self) -> None:
        """None: the network is fully convolutional and takes any size."""
        return None

    def _activate(self) -> ModelSpec:
        with needed(f"{self.path}: a run or checkpoint", "train", "give an exported model"):
            import torch

            from cgan.networks import GrayToRGB

            generator, spec = self._load()
        self._target = self._choose_device()
        where = "CPU" if self._target == "cpu" else torch.cuda.get_device_name()
        self._engine_text = f"PyTorch {torch.__version__}, fp32, {where}"
        if self.threads:
            self._settings.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(self.threads)
        if self.on_gpu:
            exact = torch.backends.cudnn.flags(
                enabled=True, deterministic=True, allow_tf32=False, fp32_precision="ieee"
            )
            self._settings.enter_context(exact)
        self._model = GrayToRGB(generator, spec.color_space).eval().to(self._target)
        return spec

    def _load(self) -> "tuple[Generator, ModelSpec]":
        from cgan.checkpoint_record import described
        from cgan.training.checkpoint import load_checkpoint

        generator, spec, record = load_checkpoint(self.path)
        self._checkpoint = record.to_json()
        if record.note:
            self._add_note(record.note)
        if self.path.is_dir():
            self._add_note(f"{self.path}: {described(self._checkpoint)}")
        return generator, spec

    def _choose_device(self) -> str:
        import torch

        usable = torch.cuda.is_available()
        if self.device == "cuda" and not usable:
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
            raise UserError(
                f"--device cuda: PyTorch {torch.__version__} ({built}) found no GPU that it can use; "
                "install its CUDA build and an NVIDIA driver, or use --device cpu or auto"
            )
        if self.device == "auto" and not usable and (gpu := find_gpu()):
            self._add_note(f"PyTorch {torch.__version__} cannot use the {gpu.name} here; going on with the CPU")
        return "cuda" if usable and self.device != "cpu" else "cpu"

    def _deactivate(self) -> None:
        self._model = None
        self._settings.close()

    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        assert self._model is not None
        with torch.inference_mode():
            rgb = self._model(torch.tensor(gray, device=self._target))
            result: NDArray[np.float32] = rgb.cpu().contiguous().numpy()
        return result
