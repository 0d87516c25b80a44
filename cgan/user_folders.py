"""The user's own folders for files of this project, where the platform keeps such files."""

import os
from pathlib import Path

import platformdirs

APPLICATION = "cgan"


def cache_folder() -> Path:
    """Return the folder for files that can be made again: $CGAN_CACHE, or on Linux ~/.cache/cgan.

    Raises:
        RuntimeError: the user has no home folder.
    """
    if folder := os.environ.get("CGAN_CACHE"):
        return Path(folder)
    return _absolute(platformdirs.user_cache_path(APPLICATION, appauthor=False))


def state_folder() -> Path:
    """Return the folder for records that outlive a command: on Linux ~/.local/state/cgan.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return _absolute(platformdirs.user_state_path(APPLICATION, appauthor=False))


def _absolute(folder: Path) -> Path:
    """Return the folder; without a home folder platformdirs leaves "~" in its name."""
    if not folder.is_absolute():
        raise RuntimeError(f"{folder}: the user has no home folder; set HOME")
    return folder
