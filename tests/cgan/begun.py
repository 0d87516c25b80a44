"""A run that has just begun, and the records and pictures that it publishes."""

from typing import Any

import torch
from PIL import Image

from cgan.config import TrainConfig
from cgan.networks import Generator

CONFIG = TrainConfig(width=1, size=32, epochs=2, device="cpu", precision="fp32", fid=False, best_by="psnr")
RECORDS: dict[str, Any] = {
    "split.json": {"train": ["a.jpg"], "test": ["b.jpg"], "photos_sha256": "0" * 64},
    "environment.json": {"cgan": "1", "python": "3", "torch": "2", "processes": 1},
    "config.json": CONFIG.to_json(),
}
SHEET = Image.new("RGB", (4, 5), (1, 2, 3))

ENDED = "0a" * 16
"""Mark of a process that has ended."""

LEFT = f".cgan-{ENDED}-0a1b2c3d4e5f.tmp"


def generator(seed: int) -> Generator:
    torch.manual_seed(seed)
    return Generator(width=1)
