"""Where files that can be made again are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where what can be made again is kept: $CGAN_CACHE, or cgan in the user's cache folder."""
    if folder := os.environ.get("CGAN_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cgan"
