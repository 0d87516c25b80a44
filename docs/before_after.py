"""Make docs/before-after.png: gray photos above, the same photos coloured by the packaged model below.

python docs/before_after.py [PHOTO ...]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

COMMAND = [sys.executable, "-c", "from infer.cli import main; main()"]
ROOT = Path(__file__).parent.parent
PHOTOS = [ROOT / "examples" / name for name in ("dandelions.jpg", "flower.jpg", "mountains.tif")]
HEIGHT = 240


def row(paths: list[Path]) -> Image.Image:
    """Return the pictures side by side, scaled to one height."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    pictures = [p.resize((round(p.width * HEIGHT / p.height), HEIGHT), Image.Resampling.LANCZOS) for p in pictures]
    sheet = Image.new("RGB", (sum(p.width for p in pictures), HEIGHT))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet


def draw(photos: list[Path], target: Path) -> None:
    """Colour the photos and save both rows."""
    with tempfile.TemporaryDirectory() as folder:
        source, colored = Path(folder) / "gray", Path(folder) / "colored"
        source.mkdir()
        for photo in photos:
            Image.open(photo).convert("L").save(source / f"{photo.stem}.png")
        subprocess.run([*COMMAND, "folder", source, colored, "--quiet"], check=True)
        rows = [row([part / f"{photo.stem}.png" for photo in photos]) for part in (source, colored)]
    sheet = Image.new("RGB", (rows[0].width, 2 * HEIGHT))
    for number, picture in enumerate(rows):
        sheet.paste(picture, (0, number * HEIGHT))
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    draw([Path(argument) for argument in sys.argv[1:]] or PHOTOS, ROOT / "docs" / "before-after.png")
