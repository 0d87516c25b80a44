"""Opening of INPUT and OUTPUT from a local path or an fsspec URL such as s3://bucket/photos."""

import re
from collections.abc import Sequence
from pathlib import Path

from cgan.errors import UserError
from infer.folder.credentials import HIDDEN
from infer.folder.local_folder import LocalFiles, LocalFolder
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


def open_source(places: Sequence[str]) -> Storage:
    """Return the photos for a path or an fsspec URL, or for several local files and folders.

    Raises:
        UserError: as `open_storage`, a path cannot be accessed, or there are several with a URL among them.
    """
    sources = [open_storage(place) for place in places]
    paths = [source.path for source in sources if isinstance(source, LocalFolder)]
    try:
        if len(places) == 1:
            return LocalFiles(paths) if paths and paths[0].is_file() else sources[0]
        if len(paths) == len(places):
            return LocalFiles(paths)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be accessed ({error.strerror}); give permission to read it"
        ) from error
    url = next(source for source in sources if not isinstance(source, LocalFolder))
    raise UserError(f"{url}: found a URL among several inputs, expected it alone; colour it by a command of its own")


def is_url(place: str) -> bool:
    """Return True for a URL: a scheme of two letters or more before "://", or several with "::" between them."""
    schemes, separator, _ = place.partition("://")
    return bool(separator) and all(SCHEME.fullmatch(scheme) for scheme in schemes.split("::"))
