"""The checkpoint that stands for a run, and its epoch and metrics. Imports neither torch nor safetensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cgan.errors import UserError
from cgan.readers import LARGE_BYTES, FormatError, parse_json, read_json, read_limited, typed, typed_field

LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"
"""The checkpoint with the best held-out value of the --best-by metric; it stands for its run."""

CHECKPOINTS = "checkpoints"
"""Subfolder of a run for its checkpoints."""

RECORD_KEY = "cgan.training.checkpoint"
"""Key of epoch and metrics in safetensors metadata."""

SHOWN = ("test_fid", "test_frechet_distance", "test_psnr", "test_l1")
"""Metrics shown to users."""


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint with its epoch and metrics."""

    path: Path
    epoch: int | None
    """Counted from 1; None if unknown."""
    metrics: Mapping[str, Any]
    """Held-out metrics, as in metrics.jsonl; empty if unknown."""
    note: str | None = None
    """Why this checkpoint stands for its run, if it is not the best one."""

    def to_json(self) -> dict[str, Any]:
        """Return file name, epoch and metrics as JSON values."""
        return {"file": self.path.name, "epoch": self.epoch, "metrics": dict(self.metrics)}

    def to_metadata(self) -> dict[str, str]:
        """Return epoch and metrics as string metadata; empty if they are unknown."""
        known = {"epoch": self.epoch, "metrics": dict(self.metrics)}
        return {} if self.epoch is None else {RECORD_KEY: json.dumps(known, sort_keys=True)}

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str], note: str | None = None) -> Self:
        """Return the record of a checkpoint.

        Args:
            path: the file.
            metadata: header of the file. Older files have no record in it; their run is read instead.
            note: as the field.
        """
        if RECORD_KEY not in metadata:
            return cls(path, *_in_run(path), note)
        try:
            record = cls.from_json(path, parse_json(metadata[RECORD_KEY]))
        except FormatError as error:
            raise UserError(f"{path}: its record of epoch and metrics is damaged ({error}); restore it") from error
        return replace(record, note=note)

    @classmethod
    def from_json(cls, path: Path, values: object) -> Self:
        """Return the record of a checkpoint from JSON values.

        Args:
            path: the file.
            values: from `to_json` or `to_metadata`.

        Raises:
            FormatError: a field is missing or has another type.
        """
        if isinstance(values, dict):
            typed_field(values, "file", str, path.name)
        epoch = None if isinstance(values, dict) and values.get("epoch") is None else typed_field(values, "epoch", int)
        metrics = typed_field(values, "metrics", dict)
        for name in metrics.keys() & set(SHOWN):
            _value(metrics[name])
        return cls(path, epoch, metrics)


def held_out(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the held-out metrics of an epoch; infinite values become None, because JSON has no infinity."""
    return {name: _or_none(value) for name, value in metrics.items() if name.startswith("test_")}


def described(checkpoint: Mapping[str, Any] | None) -> str:
    """Return file, epoch and metrics as text: "best.safetensors, epoch 37, test_psnr 24.1".

    Args:
        checkpoint: from `CheckpointRecord.to_json`, also in a sidecar, where anything can stand; None if an artefact
            names no checkpoint.
    """
    if not isinstance(checkpoint, Mapping):
        return "checkpoint unknown"
    if checkpoint.get("epoch") is None:
        return f"{checkpoint.get('file')}, epoch and metrics unknown"
    metrics = checkpoint.get("metrics", {})
    shown = [f"{name} {_value(metrics[name]):.4g}" for name in SHOWN if metrics.get(name) is not None]
    return ", ".join([str(checkpoint.get("file")), f"epoch {checkpoint['epoch']}", *shown])


def checkpoint_path(source: Path) -> Path:
    """Return the checkpoint file of `source`: the best one of a run folder, or the file itself.

    Raises:
        UserError: there is no such file, or it is an exported model.
    """
    return chosen(source)[0]


def chosen(source: Path) -> tuple[Path, str | None]:
    """Return `checkpoint_path(source)`, and a note if the run has no best checkpoint, so that the last one is used."""
    path, note = source, None
    if source.is_dir():
        path = source / CHECKPOINTS / BEST_FILE
        if not path.is_file():
            path = source / CHECKPOINTS / LAST_FILE
            note = f"{source} has no {BEST_FILE}, so {LAST_FILE} stands for it"
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected a run folder of cgan-train or a .safetensors checkpoint")
    if path.suffix in (".onnx", ".plan"):
        raise UserError(f"{path}: found an exported model, expected a run folder of cgan-train or a checkpoint in one")
    return path, note


def checkpoint_of(source: Path, choice: str) -> Path:
    """Return the checkpoint of a run that --checkpoint names.

    Args:
        source: the run folder.
        choice: "last", "best", or the name or path of a file in the run's folder of checkpoints.

    Raises:
        UserError: there is no such checkpoint, or `source` is not a run folder.
    """
    if not choice:
        raise UserError("--checkpoint: found an empty name, expected last, best or a file of the run; leave it out")
    if not source.is_dir():
        raise UserError(f"--checkpoint {choice}: no effect with {source}, which is not a run folder; leave it out")
    folder = source / CHECKPOINTS
    name = {"last": LAST_FILE, "best": BEST_FILE}.get(choice, choice)
    path = folder / Path(name).name
    if not path.is_file() or (Path(name).name != name and path.resolve() != Path(name).resolve()):
        found = ", ".join(
            sorted(entry.name for entry in folder.glob("*.safetensors") if ".training." not in entry.name)
        )
        raise UserError(f"--checkpoint {choice}: found {found or 'no checkpoint'} in {folder}, expected {name}")
    return path


def best_epoch(history: list[dict[str, Any]], metric: str) -> int:
    """Return the epoch, counted from 1, with the best held-out value of a metric; the first of equal ones.

    Args:
        history: metrics of each epoch.
        metric: fid, kid or l1 (lower is better), or psnr (higher is better). With another feature network than
            Inception, fid and kid are the distances of that network.

    Raises:
        FormatError: an epoch has no such metric, or it is no number.
    """
    names = (f"test_{metric}", *OTHER_NETWORKS.get(f"test_{metric}", ()))
    values = []
    for epoch, metrics in enumerate(history, 1):
        known = [metrics[name] for name in names if name in metrics]
        if not known:
            raise FormatError(f"found no {' or '.join(names)} in epoch {epoch}")
        values.append(_value(known[0]))
    return values.index(max(values) if metric == "psnr" else min(values)) + 1


OTHER_NETWORKS = {"test_fid": ("test_frechet_distance",), "test_kid": ("test_kernel_distance",)}
"""Keys of the same distances with another feature network; see `cgan.metrics.features.FeatureNetwork`."""


def _in_run(path: Path) -> tuple[int | None, dict[str, Any]]:
    """Return epoch and held-out metrics of a checkpoint from the files of its run; None and {} if they are unknown."""
    run = path.parent.parent
    if path.parent.name != CHECKPOINTS:
        return None, {}
    try:
        lines = read_limited(run / "metrics.jsonl", LARGE_BYTES).splitlines()
        history = [typed(parse_json(line), "line", dict) for line in lines]
        if path.name == BEST_FILE:
            epoch = best_epoch(history, typed_field(read_json(run / "config.json"), "best_by", str))
        elif path.name == LAST_FILE:
            epoch = len(history)
        else:
            epoch = int(path.stem.removeprefix("epoch-"))
        known = CheckpointRecord.from_json(
            path, {"epoch": epoch, "metrics": held_out(history[epoch - 1]) if epoch > 0 else {}}
        )
        return known.epoch, dict(known.metrics)
    except (OSError, ValueError, IndexError):
        return None, {}


def _value(metric: Any) -> float:
    """Return the number of a metric, which may have a fingerprint; None stands for infinity.

    Raises:
        FormatError: it is no number.
    """
    value = metric.get("value", "no value") if isinstance(metric, Mapping) else metric
    return math.inf if value is None else typed(value, "metric", float)


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
