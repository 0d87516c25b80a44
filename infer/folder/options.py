"""Options and outcome of a folder run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cgan.photo_limits import MAX_PIXELS, MAX_SECONDS
from infer.folder.plan import Job, Plan
from infer.photo.formats import QUALITY, ColorPhotos, ProfileUse, Resolution


@dataclass(frozen=True, kw_only=True)
class ColoringOptions:
    """Options of the user for colouring photos."""

    quality: int = QUALITY
    """Quality of JPEG and WebP, 1 to 100."""
    strength: float = 1.0
    """Factor of chroma, 0 to 2."""
    resolution: Resolution = Resolution.ORIGINAL
    render_longest: int | None = None
    """Longest side of the input of a model of dynamic size, aspect kept; None for the model's own square size."""
    profile: ProfileUse = ProfileUse.CONVERT
    color_photos: ColorPhotos = ColorPhotos.RECOLOR
    """Handling of photos that are in colour already."""
    mark: bool = True
    """Say in the XMP of outputs that a model has coloured them."""
    overwrite: bool = False
    """Make existing outputs again, and replace files that no run wrote."""
    checksum: bool = False
    """Recognise changed inputs by content instead of size and time of the last change."""
    max_failures: int | None = None
    """Number of failed files above which the run stops; None for no limit."""
    max_pixels: int = MAX_PIXELS
    """Largest number of pixels of a photo."""
    timeout: float = MAX_SECONDS
    """Longest time in seconds in which a photo is opened, decoded and encoded; 0 for no limit."""

    def recipe(self) -> dict[str, Any]:
        """Return the options that change the output, for the digest in the journal."""
        return {
            "quality": self.quality,
            "strength": self.strength,
            "resolution": self.resolution,
            "render_longest": self.render_longest,
            "profile": self.profile,
            "color_photos": self.color_photos,
            "mark": self.mark,
        }


@dataclass(frozen=True, kw_only=True)
class FolderOptions(ColoringOptions):
    """Options of a run, with defaults for machine and model filled in."""

    batch_size: int
    """Photos per batch."""
    workers: int
    """Threads that decode, run the model and encode."""
    streams: int = 1
    """Batches that are submitted to the model at a time; at most `workers` of them run. On a CPU, parallel runs of one
    thread each are faster than one run of several threads, which wait for each other."""


@dataclass
class Stage:
    """Time that all threads together spent in one stage."""

    files: int = 0
    seconds: float = 0.0


@dataclass
class Outcome:
    """Outcome of a run."""

    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons by name."""
    missing: set[str] = field(default_factory=set)
    """Names of the failed photos that were no longer there."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """Notes on files that are done or skipped, by name."""
    run_notes: list[str] = field(default_factory=list)
    """Notes on the run."""
    stopped: str | None = None
    """Why the run ended before its last file, None if it did not."""
    seconds: float = 0.0
    stages: dict[str, Stage] = field(default_factory=dict)

    def add(self, later: "Outcome", plan: Plan) -> None:
        """Add the outcome of a later run over the jobs of `plan`, which replaces their earlier failures."""
        self.done += later.done
        self.skipped += later.skipped
        for job in plan.jobs:
            self.failed.pop(job.name, None)
        self.failed.update(later.failed)
        self.notes.update(later.notes)
        self.run_notes.extend(note for note in later.run_notes if note not in self.run_notes)
        self.stopped = self.stopped or later.stopped
        for name, stage in later.stages.items():
            whole = self.stages.setdefault(name, Stage())
            whole.files += stage.files
            whole.seconds += stage.seconds

    def color_photos(self) -> int:
        """Return the number of colour photos, whatever was done with them."""
        known = {choice.note for choice in ColorPhotos}
        return sum(not known.isdisjoint(notes) for notes in self.notes.values())

    @property
    def settled(self) -> int:
        """Number of files that are done, skipped or failed."""
        return self.done + self.skipped + len(self.failed)


class State(StrEnum):
    """State that a file was settled in."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """One file was settled."""

    job: Job
    state: State
    reason: str = ""
    """Why the file failed, or was skipped without an output; empty otherwise."""
    output: str | None = None
    """Path relative to OUTPUT of the output that the file has, or should have; None if it needs none."""


OnEvent = Callable[[Event, Outcome], None]
