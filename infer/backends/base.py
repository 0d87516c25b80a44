"""Base class of all backends: lifecycle and checks. Subclasses implement the calls of one engine."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cgan.cores import available_cores, quota_is_tighter
from cgan.errors import UserError
from cgan.files import file_sha256
from cgan.spec import ModelSpec, Sidecar, read_sidecar
from cgan.text import counted
from infer.backends.names import Device

CPU_BATCH, GPU_BATCH = 4, 64
"""Default batch sizes: larger batches gain nothing on a CPU, and smaller ones leave a GPU idle."""

MEMORY_MESSAGES = (
    "out of memory",  # CUDA and PyTorch
    "memoryallocation",  # cudaErrorMemoryAllocation
    "alloc_failed",  # cuDNN and cuBLAS
    "failed to allocate",  # ONNX Runtime's arena
    "bad_alloc",
    "bad allocation",
    "can't allocate memory",  # PyTorch on the CPU
    "not enough memory",
)
"""Texts, in lower case, by which out-of-memory errors of engines are recognised."""

MOST_BYTES = 2**34
"""Largest model file, 16 GiB: the fp32 weights of the largest contract, see `cgan.spec.MOST_WIDTH`, take 15 GB."""

LEAST_MULTIPLES = 2
"""Least height and width of a dynamic size, in multiples: reflect padding needs two pixels at the smallest scale."""


class OutOfMemory(RuntimeError):  # noqa: N818 (the usual name)
    """The engine ran out of GPU or host memory on a batch; a smaller one may fit."""


class UnsuitedMachineError(UserError):
    """The file is whole and known, but this machine cannot run it. The backend keeps its sidecar."""


class Backend(ABC):
    """Runs one model on one device. Use it as a context manager; `run` is thread-safe.

    Args:
        path: the model file, or a run folder for PyTorch.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads per run; 0 leaves the choice to the engine.
    """

    arithmetic: str | None = None
    """Arithmetic that differs from the precision of the file, such as "bf16"; None if it does not."""

    most_bytes = MOST_BYTES
    """Largest file."""

    loads_content = True
    """True if `_activate` loads the model from `_content`; a backend that reads the file itself saves the memory."""

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        self.path = path
        self.device = Device(device)
        # Engines know of no quota: they would choose a thread for each core of the machine.
        self.threads = threads or (available_cores() if quota_is_tighter() else 0)
        self.sidecar: Sidecar | None = None
        """Sidecar that confirms the file's digest; None if there is none beside the file."""
        self.note: str | None = None
        """Warnings about the chosen device and the engine, for the user; `run` may add to them."""
        self.batch_size: int | None = None
        """Size to which `run` pads smaller batches if `pads` is true, clipped to `batch_range`; None pads none."""
        self._spec: ModelSpec | None = None
        self._content = b""
        """Content of the file during `__enter__`: the hashed bytes are the bytes that are loaded."""
        self._sha256: str | None = None

    def __enter__(self) -> Self:
        """Load the model and check that it runs on the requested device.

        Raises:
            UserError: the file was changed, was not written by this project, has more than `most_bytes`, or the device
                is missing.
        """
        self.note = None
        self.sidecar = self._sha256 = None
        try:
            if self.path.is_file():
                self._read()
                self.sidecar = read_sidecar(self.path, self._sha256)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); give permission to read it") from error
        try:
            spec = self._activate()
            if self.sidecar and self.sidecar.spec != spec:
                raise UserError(f"{self.path}: its contract is not the one in its sidecar; export the model again")
        except BaseException:
            self._deactivate()
            raise
        finally:
            self._content = b""
        self._spec = spec
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the engine. No `run` may be in progress."""
        self._spec = None
        self._deactivate()

    def _read(self) -> None:
        """Read the file, or its digest alone."""
        if (size := self.path.stat().st_size) > self.most_bytes:
            raise UserError(
                f"{self.path}: found {size} bytes, expected a model of at most {self.most_bytes}; name another"
            )
        if not self.loads_content:
            self._sha256 = file_sha256(self.path)
            return
        self._content = self.path.read_bytes()
        self._sha256 = hashlib.sha256(self._content).hexdigest()

    @property
    def spec(self) -> ModelSpec:
        """The contract of the loaded model."""
        if self._spec is None:
            raise RuntimeError(f"{type(self).__name__} was used outside its context")
        return self._spec

    @property
    def digest(self) -> str:
        """Identity of the loaded model: SHA-256 of the file, or of the weights for a run."""
        return self._sha256 or self.spec.weights_sha256

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """File name, epoch and held-out metrics of the checkpoint that the model was made from; None if unknown."""
        known: dict[str, Any] | None = self.sidecar.build.get("checkpoint") if self.sidecar else None
        return known

    @property
    @abstractmethod
    def engine(self) -> str:
        """Engine and device for messages, such as "ONNX Runtime 1.31.1, CPUExecutionProvider"."""

    @property
    def on_gpu(self) -> bool:
        """True if the loaded model runs on a GPU."""
        return False

    @property
    @abstractmethod
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width that the file was exported for, None for a dynamic size."""

    @property
    def own_size(self) -> tuple[int, int]:
        """Default height and width of the model's input."""
        side = self.spec.render_size
        return self.fixed_size or (side, side)

    @property
    def size_range(self) -> tuple[int, int] | None:
        """Least and largest side of an engine of dynamic size; None without such a limit."""
        return None

    @property
    def least_side(self) -> int:
        """Least height and width for a model of dynamic size."""
        return self.size_range[0] if self.size_range else LEAST_MULTIPLES * self.spec.size_multiple

    @property
    def batch_range(self) -> tuple[int, int | None]:
        """Least and largest batch of the engine, None for no upper limit; `run` pads smaller batches."""
        return 1, None

    @property
    def default_batch(self) -> int:
        """Default batch size, within `batch_range`."""
        return self.within_range(GPU_BATCH if self.on_gpu else CPU_BATCH)

    @property
    def pads(self) -> bool:
        """True if a new batch shape costs time, so that `run` pads batches to `batch_size`."""
        return self.on_gpu

    def run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Colour a batch.

        Args:
            gray: N x 1 x H x W float32 in [0, 1], Rec.601 luma; N is at most the upper limit of `batch_range`.

        Returns:
            N x 3 x H x W float32 in [0, 1], sRGB.

        Raises:
            ValueError: the contract or the engine does not allow this array.
            OutOfMemory: the engine ran out of memory; a smaller batch may fit.
            RuntimeError: the engine failed, or returned a wrong shape or values that are not finite.
        """
        self._check(gray)
        try:
            batch = self._filled(np.ascontiguousarray(gray))
            rgb = self._run(batch)
        except MemoryError as error:
            raise OutOfMemory(f"no memory for a batch of {len(gray)} ({error})") from error
        except RuntimeError as error:
            if any(message in str(error).lower() for message in MEMORY_MESSAGES):
                raise OutOfMemory(str(error)) from error
            raise
        if rgb.shape != (len(batch), 3, *gray.shape[2:]) or rgb.dtype != np.float32:
            raise RuntimeError(f"{self.path}: gave {rgb.shape} {rgb.dtype} for an input of {batch.shape}")
        rgb = rgb[: len(gray)]
        if broken := int(np.count_nonzero(~np.isfinite(rgb))):
            raise RuntimeError(f"{self.path}: gave {counted(int(broken), 'value')} not finite")
        return rgb

    def _check(self, gray: NDArray[np.float32]) -> None:
        """Check a batch against the contract and the engine.

        Raises:
            ValueError: type, shape, size or batch is not allowed.
        """
        spec = self.spec
        if gray.dtype != np.float32 or gray.ndim != 4 or gray.shape[1] != 1 or not len(gray):
            raise ValueError(f"expected gray as N x 1 x H x W float32, found {gray.shape} {gray.dtype}")
        size = gray.shape[2], gray.shape[3]
        if self.fixed_size and size != self.fixed_size:
            raise ValueError(f"expected height and width {self.fixed_size}, found {size}")
        if any(side < 1 or side % spec.size_multiple for side in size):
            raise ValueError(f"expected height and width in multiples of {spec.size_multiple}, found {size}")
        most = self.batch_range[1]
        if most is not None and len(gray) > most:
            raise ValueError(f"expected a batch of at most {most}, found {len(gray)}")

    def _filled(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pad a batch by repeating its last photo, up to the least batch of the engine or to `batch_size`."""
        wanted = self.batch_size if self.pads and self.batch_size else 1
        missing = self.within_range(wanted) - len(gray)
        return np.concatenate([gray, np.repeat(gray[-1:], missing, axis=0)]) if missing > 0 else gray

    def within_range(self, batch: int) -> int:
        """Clip a batch size to `batch_range`."""
        least, most = self.batch_range
        return max(least, batch if most is None else min(batch, most))

    def _add_note(self, note: str) -> None:
        self.note = f"{self.note}; {note}" if self.note else note

    @abstractmethod
    def _activate(self) -> ModelSpec:
        """Load the file, check the device, and return the contract in the file."""

    @abstractmethod
    def _deactivate(self) -> None:
        """Release what `_activate` acquired, also after it failed halfway."""

    @abstractmethod
    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Colour a checked, contiguous batch; raise RuntimeError if the engine fails."""
