"""Make docs/fine-tuning.jpg: gray photos, coloured by the packaged model, by one trained on from it, and as they were.

    python -m docs.fine_tuning PHOTOS RUN

PHOTOS: the folder of the packaged model's training photos (infer/models/MODEL_CARD.md). RUN: a run that began with that
model. The photos are the first of each kind of flower in docs/held-out.jpg.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from docs.held_out import COMMAND, PHOTOGRAPHERS, SIDE

TARGET = Path(__file__).parent / "fine-tuning.jpg"
NUMBERS = list(PHOTOGRAPHERS)[::4]


def draw(photos: Path, run: Path) -> None:
    """Draw a row each of gray photos, of both models' pictures and of the photos themselves."""
    real = [next(photos.rglob(f"{number}_*.jpg")) for number in NUMBERS]
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / row for row in ("gray", "before", "after")]
        gray, *colored = folders
        gray.mkdir()
        for path in real:
            Image.open(path).convert("L").save(gray / f"{path.stem}.png")
        for folder, model in zip(colored, ("flowers", run), strict=True):
            subprocess.run([*COMMAND, "folder", gray, folder, "--model", model, "--quiet"], check=True)
        rows = [*([folder / f"{path.stem}.png" for path in real] for folder in folders), real]
        sheet = Image.new("RGB", (len(real) * SIDE, len(rows) * SIDE))
        for row, paths in enumerate(rows):
            for column, path in enumerate(paths):
                sheet.paste(Image.open(path).convert("RGB").resize((SIDE, SIDE)), (column * SIDE, row * SIDE))
    sheet.save(TARGET, quality=90)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
