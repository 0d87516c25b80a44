"""INPUT and OUTPUT from what the user wrote: a path of this machine, or an fsspec URL such as s3://bucket/photos."""

import re
from pathlib import Path

from cgan.errors import UserError
from infer.folder.credentials import HIDDEN
from infer.folder.local_folder import LocalFile, LocalFolder
from infer.folder.storage import Storage

CACHES = re.compile(r"(?:(?:simplecache|filecache|blockcache|cached)(?:://[^:]*)?::)+")
"""fsspec's caches, before what they cache. Each photo is read once, so they are left out."""

BROKEN_URL = re.compile(
    r"(?:^|::)([A-Za-z][A-Za-z0-9+.-]+):/(?!/)|^([A-Za-z][A-Za-z0-9+.-]+):[^/:]+:[^/]*@"
    r"|(?:^|::)(s?ftp|ssh|https?|smb|webdavs?):///"
)
"""A URL with other slashes than two, whose password would not be found, or be in the name of a folder that is made."""

SCHEME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+-]+")


def open_storage(place: str) -> Storage:
    """The folder for a path or an fsspec URL.

    Raises:
        UserError: a URL that cannot be opened with what is installed.
    """
    if not place:
        raise UserError("found an empty path for INPUT or OUTPUT, expected a folder; . is the current one")
    if is_url(place):
        place = CACHES.sub("", place, count=1) if CACHES.match(place) else place
    if broken := BROKEN_URL.search(place):
        name = next(filter(None, broken.groups()))
        raise UserError(f"{name}:{HIDDEN}: found no URL, expected {name}://HOST/...; to name a folder put ./ before it")
    if place.startswith("file://"):
        return LocalFolder(Path(place.removeprefix("file://")))
    if not is_url(place):
        return LocalFolder(Path(place))
    from infer.folder.remote import RemoteFolder  # needs fsspec, an extra

    folder = RemoteFolder(place)
    return folder.on_this_machine or folder


def open_source(place: str) -> Storage:
    """The photos for a path or an fsspec URL: those of a folder, or a single file of this machine.

    Raises:
        UserError: as `open_storage`.
    """
    source = open_storage(place)
    try:
        return LocalFile(source.path) if isinstance(source, LocalFolder) and source.path.is_file() else source
    except OSError as error:
        raise UserError(f"{place}: cannot be looked at ({error.strerror}); give permission to read it") from error


def is_url(place: str) -> bool:
    """Return True for a URL: a scheme of two letters or more before "://", or several with "::" between them."""
    schemes, separator, _ = place.partition("://")
    return bool(separator) and all(SCHEME.fullmatch(scheme) for scheme in schemes.split("::"))
