"""Opening of INPUT and OUTPUT from a local path or an fsspec URL such as s3://bucket/photos."""

import re
from pathlib import Path

from cgan.errors import UserError
from infer.folder.credentials import HIDDEN
from infer.folder.local_folder import LocalFile, LocalFolder
from infer.folder.storage import Storage

CACHES = re.compile(r"(?:(?:simplecache|filecache|blockcache|cached)(?:://[^:]*)?::)+")
"""Prefixes of fsspec's caches. They are removed, because each photo is read only once."""

BROKEN_URL = re.compile(
    r"(?:^|::)([A-Za-z][A-Za-z0-9+.-]+):/(?!/)|^([A-Za-z][A-Za-z0-9+.-]+):[^/:]+:[^/]*@"
    r"|(?:^|::)(s?ftp|ssh|https?|smb|webdavs?):///"
)
"""URLs without exactly two slashes. A password in them would not be hidden, and could become the name of a folder."""

NO_PATH = re.compile(r"(?:[A-Za-z][A-Za-z0-9+-]+::)*(?:(?:file|local|simplecache|filecache|blockcache|cached)://)?")
"""URLs of this machine or of caches that name nothing. As a path they would be the current folder, or a new one."""

SCHEME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+-]+")
"""Scheme of a URL, at least two characters, so that a drive letter is not one."""


def open_storage(place: str) -> Storage:
    """Return the folder for a path or an fsspec URL.

    Raises:
        UserError: the path is empty, or the URL is invalid or cannot be opened.
    """
    if not place:
        raise UserError("found an empty path for INPUT or OUTPUT, expected a folder; write . for the current one")
    if is_url(place):
        place = CACHES.sub("", place, count=1) if CACHES.match(place) else place
    if broken := BROKEN_URL.search(place):
        name = next(filter(None, broken.groups()))
        raise UserError(
            f"{name}:{HIDDEN}: found no URL, expected {name}://HOST/...; for a folder of this name, put ./ before it"
        )
    if NO_PATH.fullmatch(place):
        raise UserError(f"{place}: found no path in it, expected one, such as file:///FOLDER or s3://BUCKET/FOLDER")
    if place.startswith("file://"):
        return LocalFolder(Path(place.removeprefix("file://")))
    if not is_url(place):
        return LocalFolder(Path(place))
    from infer.folder.remote import RemoteFolder  # needs fsspec, an extra

    folder = RemoteFolder(place)
    return folder.on_this_machine or folder


def open_source(place: str) -> Storage:
    """Return the photos for a path or an fsspec URL: a folder, or a single local file.

    Raises:
        UserError: as `open_storage`, or the path cannot be accessed.
    """
    source = open_storage(place)
    try:
        return LocalFile(source.path) if isinstance(source, LocalFolder) and source.path.is_file() else source
    except OSError as error:
        raise UserError(f"{place}: cannot be accessed ({error.strerror}); give permission to read it") from error


def is_url(place: str) -> bool:
    """Return True for a URL: a scheme of two letters or more before "://", or several with "::" between them."""
    schemes, separator, _ = place.partition("://")
    return bool(separator) and all(SCHEME.fullmatch(scheme) for scheme in schemes.split("::"))
