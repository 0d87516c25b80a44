"""Make docs/held-out.jpg: held-out photos in gray, as the packaged model colours them, and as they were.

python docs/held_out.py PHOTOS

PHOTOS: the folder of the training photos (infer/models/MODEL_CARD.md).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

COMMAND = [sys.executable, "-c", "from infer.cli import main; main()"]
TARGET = Path(__file__).parent / "held-out.jpg"
SIDE, COLUMNS = 128, 10
PHOTOGRAPHERS = {
    "105806915": "Paul Reynolds",
    "12891819633": "Pavlina Jane",
    "22873310415": "maf04",
    "2812442552": "Tony Fischer",
    "13560152823": "Irene Grassi",
    "14053397367": "Janice Marie Foote",
    "15297244181": "Gunilla G",
    "19613308325": "Susanne Nilsson",
    "13264214185": "Patrik Nygren",
    "2414954629": "Lori Branham",
    "2607130050": "momo",
    "3742155164": "William Murphy",
    "14460081668": "Forsaken Fotos",
    "147804446": "bongo vongo",
    "14932787983": "Kristine Paulus",
    "14955545254": "Nick",
    "11746276": "Dan Kamminga",
    "12163418275": "Debbie Long",
    "2834890466": "Vince Alongi",
    "5546723510": "DncnH",
}
"""By the photo's number on Flickr, all CC BY 2.0: of each kind of flower the first four held-out photos, sorted by
number, whose photographers were at hand."""


def draw(photos: Path) -> None:
    """Draw three rows for each ten photos: gray, coloured and real."""
    real = [next(photos.rglob(f"{number}_*.jpg")) for number in PHOTOGRAPHERS]
    with tempfile.TemporaryDirectory() as folder:
        gray, colored = Path(folder) / "gray", Path(folder) / "colored"
        gray.mkdir()
        for path in real:
            Image.open(path).convert("L").save(gray / f"{path.stem}.png")
        subprocess.run([*COMMAND, "folder", gray, colored, "--quiet"], check=True)
        rows = [
            [gray / f"{path.stem}.png" for path in real],
            [colored / f"{path.stem}.png" for path in real],
            real,
        ]
        sheet = Image.new("RGB", (COLUMNS * SIDE, len(real) // COLUMNS * len(rows) * SIDE))
        for row, paths in enumerate(rows):
            for i, path in enumerate(paths):
                block, column = divmod(i, COLUMNS)
                picture = Image.open(path).convert("RGB").resize((SIDE, SIDE))
                sheet.paste(picture, (column * SIDE, (block * len(rows) + row) * SIDE))
    sheet.save(TARGET, quality=90)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
