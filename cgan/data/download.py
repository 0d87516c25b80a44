"""The word flowers102 in place of a folder: Oxford 102 Flowers in torchvision's layout, downloaded if missing."""

import hashlib
import os
import shutil
import tarfile
import zlib
from http.client import HTTPException
from pathlib import Path

from cgan.data.scan import scan
from cgan.errors import FULL_DISK, GateError, UserError
from cgan.extras import needed
from cgan.files import MARK, place, remove_temporaries, temporary_name
from cgan.marks import Sharing, noted
from cgan.user_folders import cache_folder

FLOWERS102 = "flowers102"
"""The word that stands for the Oxford 102 Flowers photos, which torchvision downloads."""

FLOWERS102_PHOTOS = 8189
"""Photos in the data set."""

ARCHIVE_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz"
ARCHIVE_MD5 = "52808999861908f626f3c1f4e79d11fa"
"""Address and digest as in torchvision.datasets.Flowers102; the archive holds all photos, in the folder jpg."""

MARKS_FILE = ".cgan-marks"
"""Beside the archive; locked while photos are downloaded and unpacked (see `cgan.marks`)."""


def flowers102_folder() -> Path:
    """The folder that the word flowers102 stands for: torchvision's, below `cache_folder()`."""
    return cache_folder() / FLOWERS102 / "flowers-102" / "jpg"


def planned_folder(data: str) -> tuple[Path, int | None]:
    """The folder that `source_folder` will return, and its number of photos; None where they are to be downloaded.

    Raises:
        UserError: what is there holds no photos, or is not the whole data set.
    """
    if data != FLOWERS102:
        return Path(data), len(scan(Path(data)))
    folder = flowers102_folder()
    if not os.path.lexists(folder):
        return folder, None
    check_flowers102(folder)
    return folder, FLOWERS102_PHOTOS


def source_folder(data: str) -> Path:
    """The folder of photos that DATA names: the word flowers102, or else a path.

    Photos of flowers102 that are there are used as they are. Otherwise they are unpacked from 102flowers.tgz in the
    folder above, which torchvision downloads (345 MB) where it is missing; its progress is shown on stderr. All 8,189
    photos are there, not one of torchvision's three parts: the report splits anew. "./flowers102" is a folder of that
    name.

    Raises:
        UserError: the download failed, or what is there is not the whole data set; it is left as it is.
        GateError: the disk is full.
    """
    if data != FLOWERS102:
        return Path(data)
    photos = flowers102_folder()
    if not os.path.lexists(photos):
        try:
            _make(photos)
        except (OSError, RuntimeError, EOFError, tarfile.TarError, zlib.error, HTTPException) as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            kind = GateError if isinstance(error, OSError) and error.errno in FULL_DISK else UserError
            raise kind(
                f"{FLOWERS102} cannot be downloaded into {photos.parent} ({reason}); try again, put {ARCHIVE_URL} "
                "there by hand, or give a folder of photos"
            ) from error
    check_flowers102(photos)
    return photos


def check_flowers102(photos: Path) -> None:
    """Check that a folder holds as many photos as the data set.

    Raises:
        UserError: it does not.
    """
    found = len(scan(photos)) if photos.is_dir() and any(photos.iterdir()) else 0
    if found != FLOWERS102_PHOTOS:
        raise UserError(
            f"{photos}: found {found} photos, expected the {FLOWERS102_PHOTOS} of {FLOWERS102}; move this folder away "
            "to have it made again, or give it as DATA to train on what it holds"
        )


def _make(photos: Path) -> None:
    """Download the archive where it is missing, and unpack it."""
    base = photos.parent
    archive = base / ARCHIVE_URL.rpartition("/")[2]
    base.mkdir(parents=True, exist_ok=True)
    with noted(base / MARKS_FILE, Sharing.IN_TURN, lambda marks: _remove_left(base, marks)):
        if os.path.lexists(photos):  # another process was first
            return
        if not os.path.lexists(archive):
            _download(archive)
        _check_digest(archive, archive, "move it away to have it downloaded again")
        _unpack(archive, photos)


def _download(archive: Path) -> None:
    """Have torchvision download the archive; it takes its name when it is whole."""
    with needed(FLOWERS102, "train"):
        from torchvision.datasets.utils import download_url
    temporary = archive.with_name(temporary_name())
    try:
        download_url(ARCHIVE_URL, str(temporary.parent), temporary.name)
        _check_digest(temporary, ARCHIVE_URL, f"try again, or put the published file into {archive.parent} by hand")
        place(temporary, archive, frozenset())
    finally:
        temporary.unlink(missing_ok=True)


def _check_digest(archive: Path, name: object, advice: str) -> None:
    """Refuse an archive that is not the published one.

    Raises:
        UserError: that; with the name that the user knows it by, and what to do.
    """
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != ARCHIVE_MD5:
        raise UserError(f"{name}: found the MD5 digest {found}, expected {ARCHIVE_MD5}; {advice}")


def _unpack(archive: Path, photos: Path) -> None:
    """Unpack into a folder of this process; the photos take their place when all of them are there."""
    folder = _unpacked(photos.parent, MARK)
    try:
        folder.mkdir()
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        os.sync()  # or a power cut could leave empty photos
        (folder / photos.name).rename(photos)
    finally:
        if folder.is_dir():
            shutil.rmtree(folder)


def _unpacked(base: Path, mark: str) -> Path:
    """The folder into which the process of a mark unpacks; no other program's has such a name."""
    return base / f".cgan-{mark}.unpacked"


def _remove_left(base: Path, marks: frozenset[str]) -> None:
    """Remove what ended processes left in the middle of a download."""
    remove_temporaries(base, marks)
    for folder in (_unpacked(base, mark) for mark in marks):
        if folder.is_dir():
            shutil.rmtree(folder)
