"""TensorBoard events of a run."""

import io
import math
from pathlib import Path
from typing import Any

from cgan.figures import scalar
from cgan.files import atomic_path

FILE = "events.out.tfevents.0.cgan"
"""TensorBoard finds event files by the middle of this name."""

NOT_CURVES = frozenset({"epoch", "finished_at", "time_shares"})


def write_events(folder: Path, history: list[dict[str, Any]]) -> None:
    """Bring the event file up to date with the finished epochs; the step of an event is its epoch.

    TensorBoard follows a file that grows, so the last epoch is appended where the file holds exactly those before it;
    otherwise, as after a kill in the middle of it, the file is written anew.

    Args:
        folder: where the event file lies; made where it is missing.
        history: metrics of all finished epochs, with the time at which each ended in "finished_at".

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    path = folder / FILE
    before, last = _records(history[:-1], header=True), _records(history[-1:], header=False)
    if path.exists() and path.read_bytes() == before:
        with path.open("ab") as file:
            file.write(last)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(before + last)


def _records(history: list[dict[str, Any]], header: bool) -> bytes:
    """The epochs as TensorBoard's records, equal bytes for equal metrics."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    if header:
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
    """test_l1 -> l1/test, so that TensorBoard draws training and held-out photos in one group."""
    kind, _, rest = name.partition("_")
    return f"{rest}/{kind}" if kind in ("train", "test", "time") else name
