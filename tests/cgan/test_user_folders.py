"""Folders of caches and state. Their environment variables are tested with the prepared cache and the journal."""

import pathlib
from collections.abc import Callable

import platformdirs
import pytest

from cgan.user_folders import cache_folder, state_folder


@pytest.mark.parametrize("folder", [cache_folder, state_folder])
def test_a_user_without_a_home_is_told(folder: Callable[[], pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CGAN_CACHE", raising=False)
    for name in ("user_cache_path", "user_state_path"):
        monkeypatch.setattr(platformdirs, name, lambda *_, **__: pathlib.Path("~/.cache/cgan"))
    with pytest.raises(RuntimeError, match="no home folder"):
        folder()
