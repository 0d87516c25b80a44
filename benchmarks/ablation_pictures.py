"""Pictures of an ablation that may be shown: photos of one's own, coloured by each row."""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.quality import color_all
from cgan.data.scan import scan
from cgan.errors import UserError
from cgan.files import atomic_path

SIDE = 128
"""Height and width of a picture."""


def draw_strip(run: Path, photos: Path, target: Path) -> None:
    """Draw the photos side by side, as the last checkpoint of a run colours them; nothing if `target` is there.

    Args:
        run: folder of a run of cgan-train.
        photos: folder of photos, which are squashed to SIDE x SIDE.
        target: JPEG file.

    Raises:
        UserError: the run cannot be exported.
    """
    if target.exists():
        return
    pictures = [Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for path in scan(photos)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from export.cli import main; main()", str(run), "--checkpoint", "last"]
        done = subprocess.run([*command, "--out", folder], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{run}: {done.stderr.strip().splitlines()[-1].removeprefix('error: ')}")
        colored = color_all(pictures, Path(folder), next(Path(folder).glob("*.onnx")))
    strip = Image.new("RGB", (SIDE * len(colored), SIDE))
    for i, picture in enumerate(colored):
        strip.paste(picture, (SIDE * i, 0))
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as path:
        strip.save(path, "JPEG", quality=90)
