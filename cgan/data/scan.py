"""Photo files below a folder."""

import os
from pathlib import Path

from cgan.errors import UserError
from cgan.formats import PHOTO_FORMATS


def check_folder(folder: Path) -> None:
    """Check that a folder is one.

    Raises:
        UserError: it is missing, or a file.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: found {what}, expected a folder that holds photos")


def scan(folder: Path) -> list[Path]:
    """Return the photo files below `folder`, sorted by path; links to folders are not followed.

    Raises:
        UserError: the folder is missing or holds no photos, or a folder below it cannot be searched.
    """
    check_folder(folder)

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be searched ({error.strerror}), and photos in it would be missing; "
            "make it readable or move it elsewhere"
        ) from error

    walked = os.walk(folder, onerror=refuse)
    found = (Path(root) / name for root, _, names in walked for name in names if not name.startswith("."))
    # is_file() excludes FIFOs, which would block, and broken links
    paths = [path for path in found if path.suffix.lower() in PHOTO_FORMATS and path.is_file()]
    if not paths:
        raise UserError(
            f"{folder}: found no photos ({', '.join(PHOTO_FORMATS)}) in it or below it; links to folders are not "
            "followed"
        )
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())
