"""Make docs/gallery.md and docs/gallery/: held-out photos and the examples in gray, coloured, and as they were.

    python -m docs.gallery PHOTOS

PHOTOS: the folder of the packaged model's training photos (infer/models/MODEL_CARD.md). The photos are all of those in
docs/held-out.jpg and the examples, so none was chosen by its looks. A photo counts as a failure by its mean CIEDE2000.
"""

import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from docs.held_out import COMMAND, PHOTOGRAPHERS

DOCS = Path(__file__).parent
EXAMPLES = {
    "dandelions.jpg": "Clemens Engelhardt, CC0 1.0",
    "flower.jpg": "vultilion (Flickr 6056698931), CC BY 2.0",
    "mountains.tif": "Aitzol Berasategi, CC BY 4.0",
    "temple.webp": "danielbuechele (Flickr 6061409035), CC BY 2.0",
}
"""Authors and licences, as in examples/README.md."""
FAILURES = 6
"""Number of held-out photos that are shown as failures: those with the largest error."""
NOT_FLOWERS = ("mountains.tif", "temple.webp")
HEIGHT = 180

HEAD = """# Gallery

Photos that the model in the package was not trained on, coloured by `cgan-infer folder` with its defaults: gray,
coloured, real. None was chosen by its looks: they are the held-out photos of the [model card](model-card.md) and the
examples. The number is the mean CIEDE2000 between coloured and real, {mean:.1f} on average of these.
`python -m docs.gallery PHOTOS` makes this page.
"""
GROUPS = {
    "Flowers": "",
    "Failures": f"The {FAILURES} held-out photos with the largest error, and what is no flower. Violets often\n"
    "come out pink; the colours of other things are guesses.",
    "Examples": "The other photos in `examples/`, whose real colours are not in the repository.",
}
FOOT = """
## Credits

The held-out photos are from Flickr and licensed [CC BY 2.0](https://creativecommons.org/licenses/by/2.0/); they were
scaled, turned gray and coloured anew. The number in each caption is the photo's on Flickr.
"""


@dataclass(frozen=True)
class Entry:
    """A photo of the gallery."""

    name: str
    source: Path
    credit: str
    real: bool
    """The source has the real colours."""


def entries(photos: Path) -> list[Entry]:
    """Return the held-out photos below a folder, in the order of their numbers, and the examples."""
    held_out = [
        Entry(number, next(photos.rglob(f"{number}_*.jpg")), f"{author}, {number}", True)
        for number, author in sorted(PHOTOGRAPHERS.items())
    ]
    return held_out + [
        Entry(name.partition(".")[0], DOCS.parent / "examples" / name, credit, False)
        for name, credit in EXAMPLES.items()
    ]


def error(colored: Image.Image, real: Image.Image) -> float:
    """Return the mean CIEDE2000 of two RGB pictures of one size."""
    return float(deltaE_ciede2000(rgb2lab(np.asarray(colored)), rgb2lab(np.asarray(real))).mean())


def strip(pictures: list[Image.Image]) -> Image.Image:
    """Return the pictures side by side at one height, with white between them."""
    scaled = [picture.resize((round(picture.width * HEIGHT / picture.height), HEIGHT)) for picture in pictures]
    sheet = Image.new("RGB", (sum(picture.width + 6 for picture in scaled) - 6, HEIGHT), "white")
    left = 0
    for picture in scaled:
        sheet.paste(picture, (left, 0))
        left += picture.width + 6
    return sheet


def draw(chosen: list[Entry], target: Path) -> dict[str, float]:
    """Colour the photos and write NAME.webp of each into a folder.

    Returns:
        The mean CIEDE2000 of each photo whose real colours are known.
    """
    errors = {}
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        gray, colored = Path(name) / "gray", Path(name) / "colored"
        gray.mkdir()
        for entry in chosen:
            Image.open(entry.source).convert("L").save(gray / f"{entry.name}.png")
        subprocess.run([*COMMAND, "folder", gray, colored, "--quiet"], check=True)
        for entry in chosen:
            pictures = [Image.open(folder / f"{entry.name}.png").convert("RGB") for folder in (gray, colored)]
            if entry.real:
                pictures.append(Image.open(entry.source).convert("RGB"))
                errors[entry.name] = error(*pictures[1:])
            strip(pictures).save(target / f"{entry.name}.webp", quality=82, method=6)
    return errors


def page(chosen: list[Entry], errors: dict[str, float]) -> str:
    """Return the page about the photos, failures apart."""
    worst = sorted(errors, key=errors.__getitem__)[-FAILURES:]
    groups: dict[str, list[Entry]] = {name: [] for name in GROUPS}
    for entry in chosen:
        failed = entry.name in worst or entry.source.name in NOT_FLOWERS
        groups["Failures" if failed else "Flowers" if entry.real else "Examples"].append(entry)
    parts = [HEAD.format(mean=statistics.mean(errors.values()))]
    for name, group in groups.items():
        parts.append(f"\n## {name}\n" + (f"\n{GROUPS[name]}\n" if GROUPS[name] else ""))
        parts += (_figure(entry, errors.get(entry.name)) for entry in group)
    return "".join(parts) + FOOT


def _figure(entry: Entry, difference: float | None) -> str:
    sides = "gray, coloured" + (", real" if entry.real else "")
    measured = f"; CIEDE2000 {difference:.1f}" if difference is not None else ""
    return f"\n![{entry.name}: {sides}](gallery/{entry.name}.webp)\n*{entry.credit}{measured}*\n"


def main() -> None:
    """Draw the photos and write the page."""
    chosen = entries(Path(sys.argv[1]))
    (DOCS / "gallery.md").write_text(page(chosen, draw(chosen, DOCS / "gallery")))


if __name__ == "__main__":
    main()
