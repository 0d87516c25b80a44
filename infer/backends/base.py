"""The base class of all backends: lifecycle and checks here, the engine's own calls in subclasses."""

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cgan.spec import ModelSpec, Sidecar, UserError, read_sidecar


class Backend(ABC):
    """Runs one model on one device; used as a context manager.

    Args:
        path: the model file.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for one run; 0 leaves the choice to the engine.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int = 0) -> None:
        self.path = path
        self.device = device
        self.threads = threads
        self.sidecar: Sidecar | None = None
        """What vouches for the file; None where no sidecar lies beside it."""
        self.note: str | None = None
        """What a user should know about the device that "auto" chose."""
        self._spec: ModelSpec | None = None

    def __enter__(self) -> Self:
        """Load the model and assert that it runs where it was asked to.

        Raises:
            UserError: a changed file, a file of another make, or a device that is not here.
        """
        self.sidecar = read_sidecar(self.path)
        self._spec = self._activate()
        if self.sidecar and self.sidecar.spec != self._spec:
            self._deactivate()
            raise UserError(f"{self.path}: its contract is not the one in its sidecar; export the model again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the engine."""
        self._spec = None
        self._deactivate()

    @property
    def spec(self) -> ModelSpec:
        """The contract of the loaded model."""
        if self._spec is None:
            raise RuntimeError(f"{type(self).__name__} was used outside its context")
        return self._spec

    @property
    @abstractmethod
    def engine(self) -> str:
        """What runs the model and where, for people: "ONNX Runtime 1.31.1, CPUExecutionProvider"."""

    @property
    @abstractmethod
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width that the file was exported for, or None where any multiple of 16 will do."""

    def run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Colour a batch.

        Args:
            gray: N x 1 x H x W float32 in [0, 1], Rec.601 luma.

        Returns:
            N x 3 x H x W float32 in [0, 1], sRGB.

        Raises:
            ValueError: an array that the contract does not allow.
            RuntimeError: the engine gave another shape, or values that are not numbers.
        """
        spec = self.spec
        if gray.dtype != np.float32 or gray.ndim != 4 or gray.shape[1] != 1 or not len(gray):
            raise ValueError(f"expected gray as N x 1 x H x W float32, found {gray.shape} {gray.dtype}")
        size = gray.shape[2], gray.shape[3]
        if self.fixed_size and size != self.fixed_size:
            raise ValueError(f"expected height and width {self.fixed_size}, found {size}")
        if any(side < 1 or side % spec.size_multiple for side in size):
            raise ValueError(f"expected height and width in multiples of {spec.size_multiple}, found {size}")
        rgb = self._run(np.ascontiguousarray(gray))
        if rgb.shape != (len(gray), 3, *size) or rgb.dtype != np.float32:
            raise RuntimeError(f"{self.path}: gave {rgb.shape} {rgb.dtype} for an input of {gray.shape}")
        if broken := int(np.count_nonzero(~np.isfinite(rgb))):
            raise RuntimeError(f"{self.path}: gave {broken} values that are not finite numbers")
        return rgb

    @abstractmethod
    def _activate(self) -> ModelSpec:
        """Load the file, assert the device, and return the contract found in the file."""

    @abstractmethod
    def _deactivate(self) -> None:
        """Release what `_activate` took."""

    @abstractmethod
    def _run(self, gray: NDArray[np.float32]) -> NDArray[np.float32]:
        """Colour a checked, contiguous batch."""
