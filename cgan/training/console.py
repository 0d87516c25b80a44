"""Training on a terminal: a bar for the epoch in work, a row of a table for each finished one, at 80 columns."""

import math
import time
from typing import Any

from cgan.progress import Progress
from cgan.text import say

COLUMNS = {
    "L1": 6,
    "held out": 8,
    "PSNR dB": 7,
    "colour": 6,
    "D right": 7,
    "FID": 7,
    "img/s": 6,
    "left": 7,
}
"""Heading and width of the columns behind the epoch: L1 of training and held-out photos, PSNR, colourfulness, accuracy
of the discriminator, FID, speed, time to the end of the run."""


class TrainingConsole:
    """Progress of a training run, and a row after each epoch.

    Args:
        epochs: epochs of the whole run.
        quiet: print nothing.
    """

    def __init__(self, epochs: int, quiet: bool) -> None:
        self.epochs = epochs
        self.quiet = quiet
        self._progress = Progress(quiet)
        self._began, self._done_before = time.monotonic(), 0
        self._epoch, self._epoch_began, self._first = 0, 0.0, 0
        """Epoch in work, when its first photos were done, and how many."""
        self._columns: list[str] = []
        """Headings of the table; empty until it begins."""

    def __enter__(self) -> "TrainingConsole":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()

    def say(self, *lines: str) -> None:
        """Print lines to standard error, unless --quiet."""
        if not self.quiet:
            self._progress.close()
            say(*lines)

    def prepared(self, done: int, total: int) -> None:
        """Show how many photos are decoded into the cache."""
        label = "preparing photos"
        self._progress.update(done, total, f"{label}  {done}/{total}", label)
        if done == total:
            self._progress.close()  # warnings about the photos follow

    def begin(self, done: int) -> None:
        """Start the clock of the time left; `done` epochs were finished before."""
        self._began, self._done_before = time.monotonic(), done

    def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
        """Show how far an epoch is, the time left, and its mean losses: L1, and the discriminator's as D."""
        label = f"epoch {epoch}/{self.epochs}"
        named = {"L1": losses.get("l1"), "D": losses.get("discriminator_loss")}
        shown = [f"{name} {value:.4f}" for name, value in named.items() if value is not None]
        now, left = time.monotonic(), f"run {self._left(epoch - 1 + done / total)} left"
        if epoch != self._epoch:
            self._epoch, self._epoch_began, self._first = epoch, now, done
        else:
            left += f", epoch {_interval((now - self._epoch_began) / (done - self._first) * (total - done))}"
        self._progress.update(
            done, total, "  ".join([label, f"{done}/{total}", *shown, left]), label, "  ".join([label, *shown, left])
        )

    def evaluating(self, epoch: int, total: int) -> None:
        """Show that the photos of an epoch are done and the held-out ones are measured."""
        label = f"epoch {epoch}/{self.epochs}"
        self._progress.update(total, total, f"{label}  evaluating", label, f"{label}  evaluating")

    def epoch_done(self, metrics: dict[str, Any]) -> None:
        """Print the row of an epoch; before the first one, the headings and the figures that stay the same."""
        found = metrics.get("test_fid") or metrics.get("test_frechet_distance")
        if not self._columns:
            measured = {"D right": "test_discriminator_accuracy" in metrics, "FID": bool(found)}
            self._columns = [name for name in COLUMNS if measured.get(name, True)]
            psnr, colors = _decibels(metrics["test_gray_psnr"]), metrics["test_real_colorfulness"]
            headings = {name: name for name in self._columns}
            self.say(f"held-out photos: PSNR of gray {psnr} dB, colourfulness of real {colors:.1f}")
            if found and "test_fid" not in metrics:
                headings["FID"] = "Fréchet"
                self.say(f"Fréchet: {found['metric']}")
            self.say(self._row("epoch", headings))
        accuracy = metrics.get("test_discriminator_accuracy")
        cells = {
            "L1": f"{metrics['train_l1']:.4f}",
            "held out": f"{metrics['test_l1']:.4f}",
            "PSNR dB": _decibels(metrics["test_psnr"]),
            "colour": f"{metrics['test_colorfulness']:.1f}",
            "D right": "" if accuracy is None else f"{accuracy:.0%}",
            "FID": f"{found['value']:.2f}" if found else "",
            "img/s": f"{metrics['images_per_second']:.1f}",
            "left": self._left(metrics["epoch"]),
        }
        self.say(self._row(f"{metrics['epoch']}/{self.epochs}", cells))

    def _row(self, epoch: str, cells: dict[str, str]) -> str:
        first = max(len("epoch"), len(f"{self.epochs}/{self.epochs}"))
        return "  ".join([f"{epoch:>{first}}", *(f"{cells[name]:>{COLUMNS[name]}}" for name in self._columns)])

    def _left(self, done: float) -> str:
        """Return the time to the end of the run after `done` epochs, if epochs take as long as before."""
        return _interval((time.monotonic() - self._began) / (done - self._done_before) * (self.epochs - done))


def _interval(seconds: float) -> str:
    """Return a time as [h:]mm:ss."""
    from tqdm import tqdm

    return tqdm.format_interval(seconds)


def _decibels(psnr: float) -> str:
    """Return a PSNR as text; equal pictures have no finite one."""
    return f"{psnr:.2f}" if math.isfinite(psnr) else "none"
