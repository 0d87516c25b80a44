"""A photo in the pipeline of a folder run."""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from pathlib import Path

from infer.folder.plan import Job
from infer.folder.scheduler import Way
from infer.photo.decode import Floats, Photo
from infer.photo.encode import Encoded
from infer.photo.formats import ColorPhotos


@dataclass(eq=False)
class Item:
    """A photo with the results of the stages that it has passed."""

    job: Job
    replaces: Collection[str] | None = ()
    """SHA-256 digests of contents that the output may replace; None for any content."""
    copy_replaces: Collection[str] | None = ()
    """The same of an unchanged copy, if it has a name of its own."""
    copy_refusal: str = ""
    """Why no copy can be written, empty if it can."""
    content: Path | Encoded | None = None
    """File or content of the input before decoding, content of the output after encoding."""
    mode: int = 0o666
    """Permission bits of the input, which the output gets where they are stricter."""
    pixels: int = 0
    memory: int = 0
    """Pixels of the photo, and the bytes of memory that it takes from decoding to encoding, once it is fetched."""
    spent: float = 0.0
    """Seconds that its stages have taken, of those that --timeout bounds."""
    until: float | None = None
    """Time at which the limit is reached, None outside of such a stage."""
    color: ColorPhotos | None = None
    """What is done with the photo if it is a decoded colour photo, None if it is gray."""
    photo: Photo | None = None
    gray: Floats | None = None
    """Input of the network, 1 x h x w in [0, 1]."""
    colors: Floats | None = None
    """Output of the network, 3 x h x w in [0, 1]."""
    notes: tuple[str, ...] = ()
    size: int = 0
    """Size of the output in bytes."""
    digest: str = ""
    """SHA-256 of the output."""

    @property
    def output(self) -> str:
        """Path of the output relative to OUTPUT."""
        return self.job.copy if self.is_copied_apart else self.job.output

    @property
    def is_copied_apart(self) -> bool:
        """True for a copy that has a name of its own."""
        return self.color is ColorPhotos.COPY and bool(self.job.copy)

    @property
    def way(self) -> Way:
        """The stage after decoding."""
        return {ColorPhotos.SKIP: Way.END, ColorPhotos.COPY: Way.PUBLISH}.get(
            self.color or ColorPhotos.RECOLOR, Way.RUN
        )

    @property
    def fetch_weight(self) -> int:
        """Size of the input in bytes, for its content or what is read of it."""
        return self.job.size

    @property
    def weight(self) -> int:
        """Memory in bytes."""
        return self.memory

    @property
    def effort(self) -> int:
        """Length of the work in pixels: those of the photo or of the network's input, whichever are more."""
        return max(self.pixels, self.gray.size if self.gray is not None else 0)

    @property
    def batch_key(self) -> Hashable:
        """Shape of the network's input."""
        return self.gray.shape if self.gray is not None else None
