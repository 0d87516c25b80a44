"""Which checkpoint of a run is meant, and what is known of it. Imports neither torch nor safetensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cgan.errors import UserError

LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"
"""The checkpoint with the best held-out value of the metric that --best-by chose: what a run stands for."""

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds them."""

RECORD_KEY = "cgan.training.checkpoint"
"""Key under which epoch and metrics lie in safetensors metadata."""

SHOWN = ("test_fid", "test_frechet_distance", "test_psnr", "test_l1")
"""Metrics that are said to people."""


@dataclass(frozen=True)
class CheckpointRecord:
    """What is known of a checkpoint."""

    path: Path
    epoch: int | None
    """From 1 on; None where it is not known."""
    metrics: Mapping[str, Any]
    """On the held-out photos, as in metrics.jsonl; empty where they are not known."""
    note: str | None = None
    """Why it stands for its run, where another one was to be expected."""

    def to_json(self) -> dict[str, Any]:
        """File name, epoch and metrics as JSON values."""
        return {"file": self.path.name, "epoch": self.epoch, "metrics": dict(self.metrics)}

    def to_metadata(self) -> dict[str, str]:
        """Epoch and metrics as string metadata; nothing where they are not known."""
        known = {"epoch": self.epoch, "metrics": dict(self.metrics)}
        return {} if self.epoch is None else {RECORD_KEY: json.dumps(known, sort_keys=True)}

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str], note: str | None = None) -> Self:
        """The record of a checkpoint.

        Args:
            path: the file.
            metadata: its header. Files that were written before headers had a record are looked up in their run.
            note: see above.
        """
        try:
            values = json.loads(metadata[RECORD_KEY])
            return cls(path, int(values["epoch"]), dict(values["metrics"]), note)
        except (KeyError, ValueError, TypeError):
            return cls(path, *_in_run(path), note)


def held_out(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those metrics of an epoch that are of held-out photos; infinite ones, which JSON cannot say, are None."""
    return {name: _or_none(value) for name, value in metrics.items() if name.startswith("test_")}


def described(checkpoint: Mapping[str, Any] | None) -> str:
    """File, epoch and metrics for people: "best.safetensors, epoch 37, test_psnr 24.1".

    Args:
        checkpoint: as `CheckpointRecord.to_json` gave it; None where an artefact does not name one.
    """
    if checkpoint is None:
        return "checkpoint unknown"
    if checkpoint.get("epoch") is None:
        return f"{checkpoint.get('file')}, epoch and metrics unknown"
    metrics = checkpoint.get("metrics", {})
    shown = [f"{name} {_value(metrics[name]):.4g}" for name in SHOWN if metrics.get(name) is not None]
    return ", ".join([str(checkpoint["file"]), f"epoch {checkpoint['epoch']}", *shown])


def checkpoint_path(source: Path) -> Path:
    """The checkpoint file that `source`, a run folder or a checkpoint file, stands for: of a run the best one.

    Raises:
        UserError: nothing there, or an exported model.
    """
    return chosen(source)[0]


def chosen(source: Path) -> tuple[Path, str | None]:
    """As `checkpoint_path`, and a note where a run has no best checkpoint, so that the last one stands for it."""
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
    """The checkpoint of a run that --checkpoint names.

    Args:
        source: the run folder.
        choice: "last", "best", or a file in its folder of checkpoints, by its name or its path.

    Raises:
        UserError: there is no such checkpoint, or `source` is no run.
    """
    if not choice:
        raise UserError("--checkpoint: found an empty name, expected last, best or a file of the run; leave it out")
    if not source.is_dir():
        raise UserError(f"--checkpoint {choice}: no effect beside {source}, which is no run folder; leave it out")
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
    """The epoch, from 1 on, with the best held-out value of a metric; the first of equals.

    Args:
        history: metrics of each epoch.
        metric: fid, kid or l1, of which less is better, or psnr, of which more is. Of another network than Inception
            fid and kid stand for its distances.
    """
    names = (f"test_{metric}", *OTHER_NETWORKS.get(f"test_{metric}", ()))
    values = [_value(next(metrics[name] for name in names if name in metrics)) for metrics in history]
    return values.index(max(values) if metric == "psnr" else min(values)) + 1


OTHER_NETWORKS = {"test_fid": ("test_frechet_distance",), "test_kid": ("test_kernel_distance",)}
"""Where the features are not those of Inception's published weights: see `cgan.metrics.features.FeatureNetwork`."""


def _in_run(path: Path) -> tuple[int | None, dict[str, Any]]:
    """Epoch and held-out metrics of a checkpoint by what its run notes; None and nothing where it does not tell."""
    run = path.parent.parent
    if path.parent.name != CHECKPOINTS:
        return None, {}
    try:
        history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        if path.name == BEST_FILE:
            epoch = best_epoch(history, json.loads((run / "config.json").read_text())["best_by"])
        elif path.name == LAST_FILE:
            epoch = len(history)
        else:
            epoch = int(path.stem.removeprefix("epoch-"))
        return epoch, held_out(history[epoch - 1]) if epoch > 0 else {}
    except (OSError, ValueError, KeyError, IndexError, TypeError, StopIteration, AttributeError):
        return None, {}


def _value(metric: Any) -> float:
    """A metric's number: itself, or the value of one with a fingerprint; None stands for infinity."""
    value = metric["value"] if isinstance(metric, Mapping) else metric
    return math.inf if value is None else float(value)


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
