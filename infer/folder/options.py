"""What a folder run is asked for, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infer.folder.plan import Job, Plan
from infer.photo.decode import MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class ColoringOptions:
    """How photos are coloured, as the user asked for it."""

    quality: int = 95
    """Of JPEG and WebP."""
    resolution: str = "original"
    """"original", or "model" for the network's own output."""
    render_longest: int | None = None
    """Longest side at which a model of dynamic size sees a photo, aspect kept; its own size, square, when None."""
    overwrite: bool = False
    """Whether outputs that are there are made again."""
    checksum: bool = False
    """Whether inputs are told apart by content; otherwise by size and time of the last change."""
    max_failures: int | None = None
    """Stop after more failures than this."""
    max_pixels: int = MAX_PIXELS

    def recipe(self) -> dict[str, Any]:
        """The options that change the picture, which the journal compares."""
        return {"quality": self.quality, "resolution": self.resolution, "render_longest": self.render_longest}


@dataclass(frozen=True, kw_only=True)
class FolderOptions(ColoringOptions):
    """How a run colours photos, with what the machine and the model suggest where the user left it open."""

    batch_size: int
    workers: int
    """Threads that decode, run the model and encode."""
    streams: int = 1
    """Batches given to the model at a time; no more than `workers` of them run. On a CPU, runs of one thread each
    waste no time on waiting for each other, which the threads of a single run do."""


@dataclass
class Stage:
    """Time that all threads together spent in one stage."""

    files: int = 0
    seconds: float = 0.0


@dataclass
class Outcome:
    """What became of the jobs of a run."""

    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Name and reason."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """What a user should know of files that are done."""
    run_notes: list[str] = field(default_factory=list)
    """What a user should know of the run."""
    stopped: str | None = None
    """Why the run ended before its last file, or None."""
    seconds: float = 0.0
    stages: dict[str, Stage] = field(default_factory=dict)

    def add(self, later: "Outcome", plan: Plan) -> None:
        """Count a further run, over the jobs of `plan`; a file that came through in it has no longer failed."""
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

    @property
    def settled(self) -> int:
        """Files that are done, skipped or failed."""
        return self.done + self.skipped + len(self.failed)


@dataclass(frozen=True)
class Event:
    """One file was settled."""

    job: Job
    state: str
    """"done", "skipped" or "failed"."""
    reason: str = ""


OnEvent = Callable[[Event, Outcome], None]
