"""The run folder: records, checkpoints, metrics and samples on disk, and how --resume reads them."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from cgan.checkpoint_record import BEST_FILE, best_epoch
from cgan.config import TrainConfig
from cgan.errors import GateError, UserError, cannot_write
from cgan.files import OccupiedError, look_at, remove_temporaries, temporary_mark
from cgan.marks import Sharing, noted, read_marks
from cgan.networks import Generator
from cgan.readers import LARGE_BYTES, FormatError, read_json, typed, typed_field, typed_list, typed_object
from cgan.text import say
from cgan.training import events
from cgan.training.checkpoint import (
    GENERATOR_FILE,
    HELD_OUT_FILE,
    TRAINING_FILE,
    load_training,
    save_generator,
    save_training,
)
from cgan.training.figures import save_curves
from cgan.training.ledger import LEDGER_FILE, Ledger

LOCK_FILE = ".lock"
"""A file of marks (see `cgan.marks`), locked by the process that trains in the folder."""

RECORD_FILES = frozenset({"split.json", "environment.json", "config.json"})
"""The files written at the start; a run without a finished epoch has no others."""

MAY_CHANGE = frozenset({"epochs"})
"""Options that may differ when a run is resumed."""


class RunFolder:
    """RUN: config.json, split.json, environment.json, metrics.jsonl, curves.png, checkpoints/, samples/, tensorboard/.

    Every file appears whole or not at all, and replaces only what this run wrote. The training state holds all that
    --resume needs, including the metrics, so a kill between two files loses nothing.
    """

    def __init__(self, path: Path, tensorboard: bool = True) -> None:
        self.path = path
        self.tensorboard = tensorboard
        """Write event files."""
        self.checkpoints = path / "checkpoints"
        self.generator_file = self.checkpoints / GENERATOR_FILE
        self.training_file = self.checkpoints / TRAINING_FILE
        self.held_out_file = path / HELD_OUT_FILE
        self.metrics_file = path / "metrics.jsonl"
        self.curves_file = path / "curves.png"
        self.samples = path / "samples"
        self.events = path / "tensorboard"
        self.ledger = Ledger(path / LEDGER_FILE)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes during the block. A folder that stays empty is removed again.

        Raises:
            UserError: another process trains in it, or the folder cannot be written.
            GateError: the disk is full.
        """
        new = not self.path.exists()
        lock = self.path / LOCK_FILE
        with contextlib.ExitStack() as stack:
            with self._writing():
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    has_locks = stack.enter_context(noted(lock, Sharing.REFUSED, self._remove_leftovers))
                except BlockingIOError:
                    raise UserError(
                        f"{self.path}: found another cgan-train that trains in it; wait for it, or use another --out"
                    ) from None
            if not has_locks:
                say(f"warning: {self.path}: its file system has no locks; make sure that no other cgan-train uses it")
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # it is gone, or another process uses it
                    if new and not any(entry != lock for entry in self.path.iterdir()):
                        lock.unlink()
                        self.path.rmdir()

    def check_free(self) -> None:
        """Check that a new run can begin here: the folder is free, or holds a run that finished no epoch.

        Raises:
            UserError: the folder holds something else.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UserError(f"{self.path}: found a file, expected a new or empty folder; use another --out")
        try:
            self.ledger.check()
            read_marks(self.path / LOCK_FILE)
            free = all(map(self._is_of_a_start, self.path.iterdir()))
        except OSError:  # unreadable files are not this project's
            free = False
        if not free:
            raise UserError(
                f"{self.path}: found files in it, expected a new or empty folder; use --resume or another --out"
            )

    def _is_of_a_start(self, entry: Path) -> bool:
        """Return True if an entry of RUN can exist before the first epoch is finished."""
        if entry == self.checkpoints:
            return entry.is_dir() and all(map(self._is_left, entry.iterdir()))
        if entry.name in RECORD_FILES:
            return self.ledger.knows(entry)
        return entry.name in (LOCK_FILE, LEDGER_FILE) or self._is_left(entry)

    def _is_left(self, entry: Path) -> bool:
        """Return True if a file is a temporary file of an ended process of this run."""
        return temporary_mark(entry.name) in read_marks(self.path / LOCK_FILE) and not entry.is_dir()

    def config(self) -> dict[str, Any]:
        """Return the run's configuration; options that are newer than the run have their defaults.

        Raises:
            UserError: there is no configuration, or the file is not one.
        """
        config = self._read("config.json")
        defaults = TrainConfig().to_json()
        if (
            not isinstance(config, dict)
            or not config.keys() <= defaults.keys()
            or not all(_is_like(value, defaults[name]) for name, value in config.items())
        ):
            raise UserError(f"--resume: {self.path / 'config.json'} is not a run's configuration; use another --out")
        return {**defaults, **config}

    def resumed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the run's configuration with the given options that may change; "auto" keeps the run's value.

        Raises:
            UserError: there is no run here, or an option must not change.
        """
        config = self.config()
        named = {name: value for name, value in given.items() if value != "auto"}
        _refuse_changes(config, {**config, **named})
        return config | named

    def create(self, records: Mapping[str, Any]) -> None:
        """Create the run: write `records`, JSON values by file name, config.json last.

        Raises:
            UserError: the folder is not free, or cannot be written.
            GateError: the disk is full.
        """
        self.check_free()
        self.write_records(records)

    def check_resumable(self, records: Mapping[str, Any]) -> None:
        """Check that the run here has these records, except for the number of epochs.

        Raises:
            UserError: there is no run here, or one with other options or photos.
        """
        config = self.config()
        new = records["config.json"]
        _refuse_changes(config, new)
        if self._read("split.json") != records["split.json"]:
            raise UserError(
                "--resume: the photos are not those that the run began with; restore them or use another --out"
            )

    def adopt(self) -> None:
        """Create the ledger of a run of an earlier version: all files with the names of a run are taken as its own.

        Raises:
            UserError: the ledger cannot be written.
            GateError: the disk is full.
        """
        if not self.ledger.path.exists():
            with self._writing():
                kept = (
                    *self.checkpoints.glob("epoch-*"),
                    *self.samples.glob("epoch-*"),
                    *self.events.glob("samples/*.cgan"),
                )
                files = (*self._fixed_files(), self.held_out_file, *kept)
                self.ledger.begin(file for file in files if file.is_file() and not file.is_symlink())

    def check_own(self) -> None:
        """Check, before anything slow begins, that all files that will be replaced are the run's own.

        Raises:
            UserError: a file is another program's.
        """
        with self._writing():
            for file in self._fixed_files():
                if os.path.lexists(file) and not self.ledger.knows(file):
                    raise OccupiedError(file, "another file")
            look_at(self.events / events.FILE)  # it may be unfinished, but must be a regular file

    def _fixed_files(self) -> tuple[Path, ...]:
        """Return the files that are written again after each epoch, without the event file, which grows."""
        records = (self.path / name for name in sorted(RECORD_FILES))
        checkpoints = (self.training_file, self.generator_file, self.checkpoints / BEST_FILE)
        return (*records, *checkpoints, self.metrics_file, self.curves_file)

    def check_epochs(self, config: TrainConfig, history: list[dict[str, Any]]) -> None:
        """Check that a resumed run can train for the epochs of `config`.

        Raises:
            UserError: it has more epochs already, or its learning rate has begun to fall for another number.
        """
        done, old = len(history), self.config()["epochs"]
        if config.epochs < done:
            raise UserError(f"--epochs {config.epochs}: the run has {done} already; give at least {done}")
        if config.epochs != old and done > min(config.epochs, old) - config.decay_epochs:
            raise UserError(
                f"--epochs {config.epochs}: with --decay-epochs {config.decay_epochs} this run's learning rate "
                f"has begun to fall towards the end of epoch {old}; give --epochs {old} or another --out"
            )

    def load(self, networks: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> dict[str, Any] | None:
        """Load the last finished epoch into networks and optimisers; return its progress, None before the first epoch.

        Raises:
            UserError: the training state is not this run's, or it is missing although epochs are finished.
        """
        if self.training_file.exists():
            progress = load_training(self.training_file, networks, optimizers)
            try:
                _check_progress(progress, self.config()["best_by"])
            except FormatError as error:
                raise UserError(
                    f"--resume: {self.training_file} is not the training state of this run ({error}); restore it, or "
                    f"begin a new run with --init {self.path}"
                ) from error
            return progress
        if self.generator_file.exists() or self.metrics_file.exists():
            raise UserError(
                f"--resume: found finished epochs in {self.path}, but no {self.training_file} to go on from; restore "
                f"it, or begin a new run with --init {self.path}"
            )
        return None

    def save(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Write the training state after an epoch.

        Args:
            tensors: from `cgan.training.checkpoint.training_tensors`.
            progress: JSON values; "history" is the list of each epoch's metrics.
        """
        with self._writing(GateError), self.ledger.atomic_path(self.training_file) as path:
            save_training(path, tensors, progress)

    def keep_held_out(self, gray: NDArray[np.uint8]) -> None:
        """Write held-out photos, N x 1 x size x size, unless they exist; they are the same after every epoch."""
        if not self.held_out_file.exists():
            with self._writing(GateError), self.ledger.atomic_path(self.held_out_file) as path, path.open("wb") as file:
                np.save(file, gray)

    def publish(
        self, generator: Generator, config: TrainConfig, history: list[dict[str, Any]], samples: list[Image.Image]
    ) -> None:
        """Write the files for users after an epoch: checkpoints, metrics, samples, curves, events.

        Args:
            generator: the generator to export.
            config: its configuration.
            history: metrics of all finished epochs.
            samples: sample grids of the last epoch: of the first held-out photos, and of the next.
        """
        epoch = len(history)
        with self._writing(GateError):
            names = [GENERATOR_FILE]
            if best_epoch(history, config.best_by) == epoch:
                names.append(BEST_FILE)
            if config.save_every and epoch % config.save_every == 0:
                names.append(f"epoch-{epoch:04d}.safetensors")
            for name in names:
                with self.ledger.atomic_path(self.checkpoints / name) as path:
                    save_generator(path, generator, config, epoch, history[-1])
            with self.ledger.atomic_path(self.metrics_file) as path:
                path.write_text("".join(json.dumps(_finite(metrics)) + "\n" for metrics in history))
            self.samples.mkdir(exist_ok=True)
            for sheet, file in zip(samples, self._sample_names(epoch), strict=False):
                with self.ledger.atomic_path(file) as path:
                    sheet.save(path, "PNG")
            with self.ledger.atomic_path(self.curves_file) as path:
                save_curves(history, path)
            if self.tensorboard:
                events.write_events(self.events, history, self.ledger)
                events.write_samples(self.events / "samples", history[-1], samples, self.ledger)

    def sample_files(self, epoch: int) -> tuple[Path, ...]:
        """Return the sample grids of an epoch that are there."""
        return tuple(file for file in self._sample_names(epoch) if file.is_file())

    def _sample_names(self, epoch: int) -> tuple[Path, Path]:
        return self.samples / f"epoch-{epoch:04d}.png", self.samples / f"epoch-{epoch:04d}-next.png"

    def write_records(self, records: Mapping[str, Any]) -> None:
        """Write JSON values by file name.

        Raises:
            UserError: they cannot be written.
            GateError: the disk is full.
        """
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            for name, values in records.items():
                with self.ledger.atomic_path(self.path / name) as path:
                    path.write_text(json.dumps(values, indent=2) + "\n")

    def _read(self, name: str) -> Any:
        try:
            return read_json(self.path / name, LARGE_BYTES)
        except (OSError, FormatError) as error:
            begun = self.training_file.exists() or not isinstance(error, FileNotFoundError)
            advice = "restore it, or begin a run with another --out" if begun else "start without --resume"
            raise UserError(f"--resume: {self.path / name} cannot be read ({error}); {advice}") from error

    def _remove_leftovers(self, marks: frozenset[str]) -> None:
        """Remove the temporary files of ended processes."""
        for folder in (self.path, self.checkpoints, self.samples, self.events, self.events / "samples"):
            if folder.is_dir():
                remove_temporaries(folder, marks, self.ledger.has)

    @contextmanager
    def _writing(self, kind: type[UserError] | None = None) -> Iterator[None]:
        """Turn errors of writing into errors of this kind; with None, into the default of `cannot_write`."""
        try:
            yield
        except OccupiedError as error:
            raise (kind or UserError)(
                f"{error.filename}: found what this run did not write, and left it as it is; move it away, then "
                "run the command again, with --resume if the run has begun"
            ) from error
        except OSError as error:
            raise cannot_write(self.path, error, kind) from error


def _check_progress(progress: dict[str, Any], best_by: str) -> None:
    """Check the progress in a training state.

    Raises:
        FormatError: a field is missing or has another type, or the epochs are not 1, 2, 3...
    """
    history = typed_list(typed_field(progress, "history", list), "epoch", dict)
    for number, metrics in enumerate(history, 1):
        if (epoch := typed_field(metrics, "epoch", int)) != number:
            raise FormatError(f"found epoch {epoch} in place {number}")
        typed_field(metrics, "finished_at", float)
        typed_object(typed_field(metrics, "time_shares", dict), "share of", float)
        for name, value in metrics.items():
            if name != "time_shares":
                typed(value.get("value") if isinstance(value, dict) else value, f"metric {name}", float)
    if history:
        best_epoch(history, best_by)
    typed_field(progress, "steps", int)
    typed_object(typed_field(progress, "scaler", dict), "scaler's", float)


def _finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """Replace values that are not finite by None, such as the PSNR of gray photos: JSON has no infinity."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in metrics.items()}


def _is_like(value: Any, default: Any) -> bool:
    """Return True if a value from JSON has an option's type; an int is valid for a float."""
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def _refuse_changes(config: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that a resumed run has the options of the original run.

    Raises:
        UserError: it has other options.
    """
    changed = {key: (config[key], new[key]) for key in new if key not in MAY_CHANGE and config[key] != new[key]}
    if "init_sha256" in changed:
        began = "another model than that" if config["init_sha256"] else "random weights and not with the model"
        raise UserError(f"--resume: the run began with {began} of --init; give what it began with or use another --out")
    if changed:
        diff = ", ".join(f"{key} was {old} and is {now}" for key, (old, now) in changed.items())
        raise UserError(f"--resume: {diff}; leave that out (only --epochs may change) or use another --out")
