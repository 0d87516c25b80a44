"""The TensorBoard event file of a run, written with TensorBoard's RecordWriter.

torch's SummaryWriter cannot be used: at each start it opens a new file, named for host, process and time, and writes
into it unconditionally. A run keeps one file of a fixed name. It appends only to bytes that it wrote itself, and a
resumed run writes equal bytes for equal metrics.
"""

import hashlib
import io
import math
import os
from pathlib import Path
from typing import Any

from cgan.files import append, open_regular
from cgan.training.figures import scalar
from cgan.training.ledger import Ledger

FILE = "events.out.tfevents.0.cgan"
"""TensorBoard finds event files by "tfevents" in their names."""

NOT_CURVES = frozenset({"epoch", "finished_at", "time_shares"})
"""Metrics that are not scalars over epochs."""


def write_events(folder: Path, history: list[dict[str, Any]], ledger: Ledger) -> None:
    """Bring the event file up to date with the finished epochs; the step of an event is its epoch.

    TensorBoard follows a growing file, so missing events are appended, also after a kill during an append. A file of
    the run with another beginning is written again.

    Args:
        folder: folder of the event file; created if it is missing.
        history: metrics of all finished epochs, with the time of their end in "finished_at".
        ledger: the files that the run wrote.

    Raises:
        OccupiedError: the file there was not written by the run.
        OSError: the file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    path = folder / FILE
    content = _records(history)
    if not _appended(path, content, ledger):
        with ledger.atomic_path(path) as temporary:
            temporary.write_bytes(content)


def _appended(path: Path, content: bytes, ledger: Ledger) -> bool:
    """Append the missing end of the content to the event file; return False if the file does not begin like it."""
    descriptor = open_regular(path, os.O_RDWR | os.O_APPEND)
    if descriptor is None:
        return False
    with open(descriptor, "r+b", buffering=0) as file:  # noqa: PTH123
        found = file.read(len(content) + 1)
        # A run's file is never shorter than its first record; an empty file is a prefix of any content.
        if len(found) < len(_records([])) or not content.startswith(found):
            return False
        ledger.add(path, hashlib.sha256(content).hexdigest())
        append(descriptor, content[len(found) :])
    return True


def _records(history: list[dict[str, Any]]) -> bytes:
    """Return the epochs as records of an event file: equal bytes for equal metrics."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    for metrics in history:
        values = [
            Summary.Value(tag=_tag(name), simple_value=scalar(value))
            for name, value in {**metrics, **_shares(metrics)}.items()
            if name not in NOT_CURVES and value is not None and math.isfinite(scalar(value))
        ]
        event = Event(wall_time=metrics["finished_at"], step=metrics["epoch"], summary=Summary(value=values))
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _shares(metrics: dict[str, Any]) -> dict[str, float]:
    return {f"time_{name}": share for name, share in metrics["time_shares"].items()}


def _tag(name: str) -> str:
    """Return the tag of a metric: test_l1 -> l1/test, so that TensorBoard groups training and held-out photos."""
    kind, _, rest = name.partition("_")
    return f"{rest}/{kind}" if kind in ("train", "test", "time") else name
