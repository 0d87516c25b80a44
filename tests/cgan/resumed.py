"""Configurations of the tests of `--resume`, and what may differ between a resumed run and one that never stopped."""

from dataclasses import replace
from typing import Any

from cgan.config import TrainConfig

BASE = TrainConfig(
    width=2, size=32, epochs=3, batch_size=4, test_fraction=0.25, lr=0.002, device="cpu", precision="fp32"
)
CONFIG = replace(BASE, discriminator="patch", fid=False, best_by="l1", save_every=1)

EVERYTHING: dict[str, Any] = {
    "color_space": "ycbcr",
    "gan_loss": "wasserstein",
    "gradient_penalty": 10.0,
    "spectral_norm": True,
    "ema": 0.9,
    "flip": True,
    "crop": 0.5,
    "sharpness": 2.0,
    "exposure": 1.5,
    "input_blur": 0.7,
    "warmup_epochs": 1,
    "decay_epochs": 2,
}
"""Options with a state or with random choices."""

TIMES = {"images_per_second", "time_shares", "finished_at"}
