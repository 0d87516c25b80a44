"""A photo in the pipeline of a folder run."""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from pathlib import Path

from infer.folder.plan import Job
from infer.photo.decode import Floats, Photo
from infer.photo.encode import Encoded


@dataclass(eq=False)
class Item:
    """A photo with the results of the stages that it has passed."""

    job: Job
    replaces: Collection[str] | None = ()
    """SHA-256 digests of contents that the output may replace; None for any content."""
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
