"""Description of a model that was measured, for figures on a terminal, in JSON and in HTML."""

from dataclasses import dataclass
from typing import Any

from cgan.hub import origin
from infer.backends.base import Backend


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """A model, and the engine that ran it. The fields are the JSON keys."""

    path: str
    hub: str | None
    """Address and commit of a model of the Hugging Face Hub."""
    engine: str
    note: str | None
    """Note of the backend on its device and engine."""
    precision: str
    color_space: str
    weights_sha256: str
    """SHA-256 of the trained weights, 64 hexadecimal digits."""
    checkpoint: dict[str, Any] | None
    """Record of the checkpoint that the model was made from, None if unknown."""

    @classmethod
    def of(cls, backend: Backend) -> "MeasuredModel":
        """Describe the model of an entered backend."""
        spec = backend.spec
        return cls(
            path=str(backend.path),
            hub=origin(backend.path),
            engine=backend.engine,
            note=backend.note,
            precision=spec.precision,
            color_space=spec.color_space,
            weights_sha256=spec.weights_sha256,
            checkpoint=backend.checkpoint,
        )
