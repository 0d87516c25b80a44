"""Results of the stages of an export: prepared, built, verified. Each is the input of the next stage."""

from dataclasses import dataclass
from pathlib import Path

from cgan.checkpoint_record import CheckpointRecord
from cgan.networks import Generator
from cgan.spec import ModelSpec, Sidecar
from export.build_record import EngineRecord, OnnxRecord
from export.verify import Gray


@dataclass(frozen=True)
class PreparedOnnx:
    """A trained generator that passed the preflight checks, and all else that its export needs."""

    generator: Generator
    spec: ModelSpec
    """Contract of the artefact."""
    checkpoint: CheckpointRecord
    photos: Gray | None
    """Photos to compare on, N x 1 x size x size in [0, 1]; None where there are none."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class BuiltOnnx:
    """An ONNX file under its temporary name."""

    file: Path
    record: OnnxRecord
    notes: tuple[str, ...]


@dataclass(frozen=True)
class BuiltEngine:
    """A plan under its temporary name."""

    file: Path
    record: EngineRecord


@dataclass(frozen=True)
class Verified:
    """The sidecar of an artefact that passed the gate, or that was not compared and says so."""

    sidecar: Sidecar
    notes: tuple[str, ...] = ()
