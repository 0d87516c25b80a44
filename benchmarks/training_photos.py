"""Folders of links to the photos that the packaged models are trained and judged on.

python -m benchmarks.training_photos FLOWERS102 LARGE FLOWERS128 OUT

FLOWERS102: photos of Oxford 102 Flowers. LARGE: photos of it, by the same names, that are judged at their own size.
FLOWERS128: the 3,890 photos of five kinds of flowers that earlier packaged models were trained on.

OUT/train is what to train on. Out of it stay, for no run to see: OUT/held-out-102 (every photo of Oxford 102 Flowers
whose digest says so, about 5%), OUT/held-out-128 (the 389 photos held out from all packaged models), and the photos
whose names are in LARGE.
"""

import sys
from pathlib import Path

from cgan.data.scan import scan
from cgan.data.split import split
from cgan.files import file_sha256

SHARE = 20
"""One photo of so many is held out."""


def link_photos(flowers102: Path, large: Path, flowers128: Path, out: Path) -> None:
    """Make the folders, with a symbolic link to each photo."""
    judged_large = {path.name for path in scan(large)}
    for path in scan(flowers102):
        if path.name not in judged_large:
            held_out = int(file_sha256(path), 16) % SHARE == 0
            _link(path, flowers102, out / ("held-out-102" if held_out else "train/flowers102"))
    paths = scan(flowers128)
    parts = split(tuple(file_sha256(path) for path in paths), 0.1, 0)
    for folder, indices in (("train/flowers128", parts.train), ("held-out-128", parts.test)):
        for i in indices:
            _link(paths[i], flowers128, out / folder)


def _link(path: Path, photos: Path, folder: Path) -> None:
    """Link a photo of `photos` at the same place below `folder`."""
    link = folder / path.relative_to(photos)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path.resolve())


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    link_photos(*map(Path, sys.argv[1:]))
