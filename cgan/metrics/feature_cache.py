"""A cache of the features of FID and KID on disk."""

import hashlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cgan.files import json_sha256
from cgan.metrics.features import FeatureNetwork, library_versions
from cgan.text import counted

CACHE_NAME = "features.sqlite"
TABLE = "sealed_features"
"""Not the name in earlier versions, whose rows had no digest."""
DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""Errors of a damaged database; one in whose message SQLite quotes bytes that are no text is a UnicodeDecodeError."""

CACHE_TIMEOUT = 60.0
"""Seconds that a process waits for another one to write."""


class FeatureCache:
    """A cache of features on disk; the key is the content of the picture and the fingerprint of the network.

    Several threads and processes can use it at once, and it can be deleted at any time. If it cannot be read or
    written, features are computed without it, and `note` says so. Each row has a digest of itself and its key; a
    damaged row is computed again.

    Args:
        folder: folder of the file CACHE_NAME.
        network: the feature network.
        device: where the network runs. Features of CPU and GPU differ in their last bits and have different keys.
    """

    def __init__(self, folder: Path, network: FeatureNetwork, device: torch.device) -> None:
        self.path = folder / CACHE_NAME
        self.network = network
        self.device = device
        self.hits = 0
        """Number of pictures found in the cache."""
        self.note: str | None = None
        """A note if features are not kept, or if some were damaged."""
        self._damaged = 0
        where = {"versions": library_versions(), "device": device.type}
        self._prefix = bytes.fromhex(json_sha256({**network.fingerprint, **where}))
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=CACHE_TIMEOUT, check_same_thread=False)
            self._database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (key BLOB PRIMARY KEY, row BLOB, sha256 BLOB)")
        except (OSError, *DATABASE_ERRORS) as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._database:
            self._database.close()

    def extract(self, pictures: Tensor) -> Tensor:
        """Return features as `FeatureNetwork.extract` does, but on the CPU in float32, from the cache if possible."""
        prefix = self._prefix + repr(tuple(pictures.shape[1:])).encode()
        keys = [hashlib.sha256(prefix + picture.contiguous().numpy().tobytes()).digest() for picture in pictures]
        rows = self._find(keys)
        missing = [i for i, row in enumerate(rows) if row is None]
        if missing:
            found = self.network.extract(pictures[missing], self.device).float().cpu()
            for i, row in zip(missing, found, strict=True):
                rows[i] = row
            self._keep([keys[i] for i in missing], found)
        return torch.stack([row for row in rows if row is not None])

    def _find(self, keys: Sequence[bytes]) -> list[Tensor | None]:
        size = self.network.dimensions * np.dtype(np.float32).itemsize

        def row(database: sqlite3.Connection, key: bytes) -> Tensor | None:
            found = database.execute(f"SELECT row, sha256 FROM {TABLE} WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            content, sha256 = found
            if not isinstance(content, bytes) or len(content) != size or sha256 != _row_digest(key, content):
                self._damaged += 1
                return None
            return torch.from_numpy(np.frombuffer(content, np.float32).copy())

        with self._lock:
            try:
                rows = [row(self._database, key) if self._database else None for key in keys]
            except DATABASE_ERRORS as error:
                self._give_up(error)
                rows = [None] * len(keys)
            self.hits += sum(row is not None for row in rows)
            if self._damaged and self._database:
                damaged = counted(self._damaged, "picture")
                self.note = f"{self.path}: features of {damaged} were damaged and computed again"
        return rows

    def _keep(self, keys: Sequence[bytes], features: Tensor) -> None:
        rows = [row.numpy().tobytes() for row in features]
        values = [(key, row, _row_digest(key, row)) for key, row in zip(keys, rows, strict=True)]
        with self._lock:
            if self._database is None:
                return
            try:
                with self._database:
                    self._database.executemany(f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?)", values)
            except DATABASE_ERRORS as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Continue without the cache."""
        self.close()
        self._database = None
        self.note = (
            f"{self.path}: features are not kept there ({error}), so the next command computes them again; "
            "delete the file, make room or permission there, or set CGAN_CACHE to another folder"
        )


def _row_digest(key: bytes, row: bytes) -> bytes:
    return hashlib.sha256(key + row).digest()
