"""A photo on its way through a folder run."""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from pathlib import Path

from infer.folder.plan import Job
from infer.photo.decode import Floats, Photo
from infer.photo.encode import Encoded


@dataclass(eq=False)
class Item:
    """A photo under way."""

    job: Job
    replaces: Collection[str] | None = ()
    """SHA-256 of the contents that its output may replace; None stands for any."""
    content: Path | Encoded | None = None
    """The photo's file, and later the output's."""
    pixels: int = 0
    photo: Photo | None = None
    gray: Floats | None = None
    colors: Floats | None = None
    notes: tuple[str, ...] = ()
    size: int = 0
    """Of the output, in bytes."""
    digest: str = ""
    """SHA-256 of the output."""

    @property
    def weight(self) -> int:
        """Pixels, of which about 8 bytes each are held."""
        return self.pixels

    @property
    def effort(self) -> int:
        """Pixels of the photo, or of what the network sees, whichever are more."""
        return max(self.pixels, self.gray.size if self.gray is not None else 0)

    @property
    def batch_key(self) -> Hashable:
        """Shape of what the network sees."""
        return self.gray.shape if self.gray is not None else None
