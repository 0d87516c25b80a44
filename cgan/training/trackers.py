"""Trackers of experiments beside the files of a run: MLflow and Weights & Biases, through their own libraries.

Their own environment variables choose server, experiment and project. Nothing is sent anywhere unless they, or an
earlier login, name a server.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cgan.extras import needed
from cgan.text import say


class Tracker(Protocol):
    """One run in a tracker. Its constructor finds the library; nothing is recorded before `begin`."""

    def begin(self, name: str, config: Mapping[str, Any]) -> None:
        """Begin to record.

        Args:
            name: name of the run.
            config: its hyper-parameters.
        """

    def log(self, epoch: int, values: Mapping[str, float], samples: Sequence[Path]) -> None:
        """Record an epoch, counted from 1: its metrics, and the files of its sample grids."""

    def end(self, finished: bool) -> None:
        """Close the run, which has ended well or not."""


class Mlflow:
    """A run in MLflow; without MLFLOW_TRACKING_URI it stays in files of the current folder."""

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        with needed("--track mlflow", "mlflow"):
            import mlflow
        self._mlflow: Any = mlflow

    def begin(self, name: str, config: Mapping[str, Any]) -> None:
        """Start a run and record its parameters."""
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_params({key: value for key, value in config.items() if value != ""})

    def log(self, epoch: int, values: Mapping[str, float], samples: Sequence[Path]) -> None:
        """Record metrics at a step, and sample grids as artefacts."""
        self._mlflow.log_metrics(dict(values), step=epoch)
        for path in samples:
            self._mlflow.log_artifact(str(path), "samples")

    def end(self, finished: bool) -> None:
        """End the run."""
        self._mlflow.end_run("FINISHED" if finished else "FAILED")


class Wandb:
    """A run in Weights & Biases; offline unless the user has logged in or WANDB_MODE says otherwise."""

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
        with needed("--track wandb", "wandb"):
            import wandb
        self._wandb: Any = wandb
        self._run: Any = None

    def begin(self, name: str, config: Mapping[str, Any]) -> None:
        """Start a run with its configuration."""
        chosen = "WANDB_MODE" in os.environ or self._wandb.api.api_key
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cgan"),
            name=name,
            config=dict(config),
            mode=None if chosen else "offline",
        )

    def log(self, epoch: int, values: Mapping[str, float], samples: Sequence[Path]) -> None:
        """Record metrics and sample grids at a step."""
        self._run.log({**values, "samples": [self._wandb.Image(str(path)) for path in samples]}, step=epoch)

    def end(self, finished: bool) -> None:
        """Finish the run."""
        self._run.finish(exit_code=0 if finished else 1)


TRACKERS: dict[str, Callable[[], Tracker]] = {"mlflow": Mlflow, "wandb": Wandb}
"""By the names of --track, without tensorboard, whose files are those of the run (`cgan.training.events`)."""


@contextmanager
def tracking(
    trackers: Mapping[str, Tracker], name: str, config: Mapping[str, Any]
) -> Iterator[Callable[[int, Mapping[str, float], Sequence[Path]], None]]:
    """Begin a run in each tracker, and end it after the block; yield `Tracker.log` of all of them.

    Training is worth more than its record: a tracker that fails is named in a warning, and gets nothing more.

    Args:
        trackers: trackers by their names.
        name: as of `Tracker.begin`.
        config: as of `Tracker.begin`.
    """
    working = dict(trackers)

    def call(method: str, *arguments: Any) -> None:
        for key, tracker in list(working.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # of a library that is not known here
                del working[key]
                say(f"warning: --track {key}: {method} failed ({error!r}); training goes on without this tracker")

    call("begin", name, config)
    try:
        yield lambda *arguments: call("log", *arguments)
    except BaseException:
        call("end", False)
        raise
    call("end", True)
