"""Small photos to train on, and runs of the smallest networks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgan.config import TrainConfig
from cgan.data.prepared import Photos, prepare
from cgan.training.distributed import World
from cgan.training.loop import setup
from cgan.training.run_state import Run

BASE = TrainConfig(width=2, size=32, epochs=1, batch_size=4, test_fraction=0.25, fid=False, best_by="psnr")
CONFIG = replace(BASE, device="cpu", precision="fp32")

Start = Callable[..., Run]


@pytest.fixture(scope="module")
def photos(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """The 12 photos of `photo_folder` at 32 pixels: 9 train, 3 are held out."""
    return prepare(photo_folder, 32, tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def start(tmp_path: Path, photos: Photos) -> Start:
    """`start(name, **options)`: a new run in tmp_path / name."""

    def new(name: str = "run", resume: bool = False, world: World | None = None, **options: Any) -> Run:
        return setup(tmp_path / name, replace(CONFIG, **options), photos, resume, world)

    return new
