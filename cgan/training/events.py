"""The TensorBoard event files of a run, written with TensorBoard's RecordWriter.

torch's SummaryWriter cannot be used: at each start it opens a new file, named for host, process and time, and writes
into it unconditionally. A run keeps one file of a fixed name for its metrics, and one for each epoch's sample grids. It
appends only to bytes that it wrote itself, and a resumed run writes equal bytes for equal metrics.
"""

import hashlib
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

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


def write_samples(folder: Path, metrics: dict[str, Any], samples: Sequence[Image.Image], ledger: Ledger) -> None:
    """Write the sample grids of an epoch as an event file of its own, because a file with all of them would be read
    again after each epoch.

    Args:
        folder: folder of the files; TensorBoard shows it as a run. It is created if it is missing.
        metrics: metrics of the epoch.
        samples: up to two grids: of the first held-out photos, and of the next.
        ledger: the files that the run wrote.

    Raises:
        OccupiedError: the file there was not written by the run.
        OSError: the file cannot be written.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = []
    for name, sheet in zip(("first", "next"), samples, strict=False):
        file = io.BytesIO()
        sheet.save(file, "JPEG", quality=90)  # a tenth of the PNG in samples/
        picture = Summary.Image(
            height=sheet.height, width=sheet.width, colorspace=3, encoded_image_string=file.getvalue()
        )
        values.append(Summary.Value(tag=f"samples/{name}", image=picture))
    folder.mkdir(parents=True, exist_ok=True)
    with ledger.atomic_path(folder / f"events.out.tfevents.{metrics['epoch']:07d}.cgan") as path:
        path.write_bytes(_file([(metrics, Summary(value=values))]))


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the finite numbers among the metrics of an epoch by their tags: test_l1 is l1/test."""
    return {
        _tag(name): scalar(value)
        for name, value in {**metrics, **_shares(metrics)}.items()
        if name not in NOT_CURVES and value is not None and math.isfinite(scalar(value))
    }


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
    """Return the metrics of the epochs as an event file: equal bytes for equal metrics."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    def summary(metrics: dict[str, Any]) -> Any:
        return Summary(value=[Summary.Value(tag=tag, simple_value=v) for tag, v in scalars(metrics).items()])

    return _file([(metrics, summary(metrics)) for metrics in history])


def _file(epochs: list[tuple[dict[str, Any], Any]]) -> bytes:
    """Return an event file with the summary of each epoch, at the epoch's number and end."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    for metrics, summary in epochs:
        event = Event(wall_time=metrics["finished_at"], step=metrics["epoch"], summary=summary)
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _shares(metrics: dict[str, Any]) -> dict[str, float]:
    return {f"time_{name}": share for name, share in metrics["time_shares"].items()}


def _tag(name: str) -> str:
    """Return the tag of a metric: test_l1 -> l1/test, so that TensorBoard groups training and held-out photos."""
    kind, _, rest = name.partition("_")
    return f"{rest}/{kind}" if kind in ("train", "test", "time") else name
