"""The data set Oxford 102 Flowers in torchvision's layout, downloaded if it is missing."""

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
from cgan.text import counted
from cgan.user_folders import cache_folder

FLOWERS102 = "flowers102"
"""Name of the data set, given as DATA in place of a folder."""

FLOWERS102_PHOTOS = 8189
"""Photos in the data set."""

ARCHIVE_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz"
ARCHIVE_MD5 = "52808999861908f626f3c1f4e79d11fa"
"""URL and digest as in torchvision.datasets.Flowers102; the archive holds all photos, in the folder jpg."""

MARKS_FILE = ".cgan-marks"
"""File of marks beside the archive; locked while photos are downloaded and unpacked (see `cgan.marks`)."""


def flowers102_folder() -> Path:
    """Return the folder of the data set in torchvision's layout, below `cache_folder()`."""
    return cache_folder() / FLOWERS102 / "flowers-102" / "jpg"


def planned_folder(data: str) -> tuple[Path, int | None]:
    """Return the folder that `source_folder` will return, and its number of photos; None if they must be downloaded.

    Raises:
        UserError: the folder holds no photos, or not the whole data set.
    """
    if data != FLOWERS102:
        return Path(data), len(scan(Path(data)))
    folder = flowers102_folder()
    if not os.path.lexists(folder):
        return folder, None
    check_flowers102(folder)
    return folder, FLOWERS102_PHOTOS


def source_folder(data: str) -> Path:
    """Return the folder of photos that DATA names: the data set flowers102, or else a path.

    Photos of flowers102 are used if they are there. Otherwise they are unpacked from 102flowers.tgz in the parent
    folder; if the archive is missing, torchvision downloads it (345 MB) and shows its progress on stderr. The folder
    holds all 8,189 photos, without torchvision's division into three parts. "./flowers102" is a folder of that name.

    Raises:
        UserError: the download failed, or the folder holds another number of photos; it is left as it is.
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
        UserError: it holds another number.
    """
    found = len(scan(photos)) if photos.is_dir() and any(photos.iterdir()) else 0
    if found != FLOWERS102_PHOTOS:
        raise UserError(
            f"{photos}: found {counted(found, 'photo')}, expected the {FLOWERS102_PHOTOS} of {FLOWERS102}; move "
            "this folder away and run the command again, or give it as DATA to train on its photos"
        )


def _make(photos: Path) -> None:
    """Download the archive if it is missing, and unpack it."""
    base = photos.parent
    archive = base / ARCHIVE_URL.rpartition("/")[2]
    base.mkdir(parents=True, exist_ok=True)
    with noted(base / MARKS_FILE, Sharing.IN_TURN, lambda marks: _remove_left(base, marks)):
        if os.path.lexists(photos):  # another process was first
            return
        if not os.path.lexists(archive):
            _download(archive)
        _check_digest(archive, archive, "move it away to download it again")
        _unpack(archive, photos)


def _download(archive: Path) -> None:
    """Download the archive with torchvision under a temporary name, and rename it when its digest is right."""
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
    """Check that an archive is the published one.

    Args:
        archive: the file.
        name: its name or URL, for the message.
        advice: what to do, for the message.

    Raises:
        UserError: it has another digest.
    """
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != ARCHIVE_MD5:
        raise UserError(f"{name}: found the MD5 digest {found}, expected {ARCHIVE_MD5}; {advice}")


def _unpack(archive: Path, photos: Path) -> None:
    """Unpack into a folder of this process, and rename that folder when it holds all photos."""
    folder = _unpacked(photos.parent, MARK)
    try:
        folder.mkdir()
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        os.sync()  # otherwise a power cut can leave empty photos
        (folder / photos.name).rename(photos)
    finally:
        if folder.is_dir():
            shutil.rmtree(folder)


def _unpacked(base: Path, mark: str) -> Path:
    """Return the folder into which the process of a mark unpacks."""
    return base / f".cgan-{mark}.unpacked"


def _remove_left(base: Path, marks: frozenset[str]) -> None:
    """Remove the temporary files and folders that ended processes left."""
    remove_temporaries(base, marks)
    for folder in (_unpacked(base, mark) for mark in marks):
        if folder.is_dir():
            shutil.rmtree(folder)
