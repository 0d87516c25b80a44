"""The folder of a run: its records, checkpoints, metrics and samples on disk."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn
from torch.optim import Optimizer

from cgan.checkpoint import GENERATOR_FILE, TRAINING_FILE, load_training, save_generator, save_training
from cgan.config import TrainConfig
from cgan.networks import Generator
from cgan.spec import UserError, atomic_path, cannot_write

MAY_CHANGE = frozenset({"epochs"})
"""Options that a resumed run may have other than the run it goes on with."""


class RunFolder:
    """RUN: config.json, split.json, environment.json, metrics.jsonl, checkpoints/ and samples/.

    Every file appears whole or not at all. The training state alone holds all that --resume needs, the metrics
    included, so a kill between two files loses nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generator_file = path / "checkpoints" / GENERATOR_FILE
        self.training_file = path / "checkpoints" / TRAINING_FILE

    def check_free(self) -> None:
        """Check that a new run may begin here.

        Raises:
            UserError: the folder holds something.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(
                f"{self.path}: found files in it, expected a new or empty folder; use --resume or another --out"
            )

    def create(self, records: Mapping[str, Any]) -> None:
        """Begin a run; `records` are file names and their JSON values.

        Raises:
            UserError: the folder holds something, or cannot be written.
            GateError: the disk is full.
        """
        self.check_free()
        self._write_records(records)

    def reopen(self, records: Mapping[str, Any]) -> None:
        """Go on with a run, after checking that its options and photos are those of `records`.

        Raises:
            UserError: no run there, or one of other options or photos.
        """
        config = self._read("config.json")
        if not isinstance(config, dict):
            raise UserError(f"--resume: {self.path / 'config.json'} is not a run's configuration; use another --out")
        done = len(self._finished_epochs())
        if records["config.json"]["epochs"] < done:
            raise UserError(
                f"--epochs {records['config.json']['epochs']}: the run has {done} already; give at least {done}"
            )
        changed = {
            key: (old, new)
            for key, (old, new) in _paired(config, records["config.json"]).items()
            if key not in MAY_CHANGE and old != new
        }
        if changed:
            diff = ", ".join(f"{key} was {old} and is {new}" for key, (old, new) in changed.items())
            raise UserError(f"--resume: {diff}; give the run's own options (only --epochs may change) or another --out")
        if self._read("split.json") != records["split.json"]:
            raise UserError(
                "--resume: the photos are not those that the run began with; restore them or use another --out"
            )
        self._write_records(records)

    def load(self, networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> dict[str, Any] | None:
        """Restore the last finished epoch into networks and optimisers; its progress, or None before the first."""
        return load_training(self.training_file, networks, optimizers) if self.training_file.exists() else None

    def save(
        self,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        progress: dict[str, Any],
    ) -> None:
        """Write the training state after an epoch; progress holds "history", a list of metrics, one for each epoch."""
        with self._writing():
            save_training(self.training_file, networks, optimizers, progress)

    def publish(self, generator: Generator, config: TrainConfig, history: list[dict[str, Any]]) -> None:
        """Write what users read after an epoch: the checkpoint to export, and metrics.jsonl."""
        with self._writing():
            save_generator(self.generator_file, generator, config)
            with atomic_path(self.path / "metrics.jsonl") as path:
                path.write_text("".join(json.dumps(_finite(metrics)) + "\n" for metrics in history))

    def save_samples(self, sheet: Image.Image, epoch: int) -> None:
        """Write the sample grid of an epoch."""
        with self._writing():
            folder = self.path / "samples"
            folder.mkdir(exist_ok=True)
            with atomic_path(folder / f"epoch-{epoch:04d}.png") as path:
                sheet.save(path, "PNG")

    def _finished_epochs(self) -> list[str]:
        """The lines of metrics.jsonl, one for each epoch."""
        file = self.path / "metrics.jsonl"
        return file.read_text().splitlines() if file.exists() else []

    def _write_records(self, records: Mapping[str, Any]) -> None:
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            for name, values in records.items():
                with atomic_path(self.path / name) as path:
                    path.write_text(json.dumps(values, indent=2) + "\n")

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"--resume: {self.path / name} cannot be read ({error}); start without --resume") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _paired(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (old.get(key), new.get(key)) for key in {**old, **new}}


def _finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: the PSNR of gray photos becomes null."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in metrics.items()}
