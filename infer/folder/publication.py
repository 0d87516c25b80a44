"""Publication of one file in a store, without replacing a file that no run wrote."""

import contextlib
import errno
import hashlib
import posixpath
from collections.abc import Collection
from typing import Any, NamedTuple

from cgan.files import OccupiedError, temporary_name
from infer.folder.filesystems import AZURE, OBJECT_STORES, S3, has_own_mv, kind_of, protocols_of

ATOMIC_PROTOCOLS = OBJECT_STORES | {"memory"}
"""Protocols whose objects appear when the upload is complete; with others the file is renamed or copied."""

REFUSED = errno.EINVAL
"""errno of s3fs for the answer 412 of S3 to a conditional write."""


class _Object(NamedTuple):
    """An object in a store."""

    sha256: str
    tag: str
    """ETag of the content, empty if the store has none."""


class Publication:
    """One file to publish; arguments and errors are those of `Storage.publish`.

    Args:
        is_new: nothing had the name when the store was listed, so a conditional write comes before any look.
    """

    def __init__(
        self,
        files: Any,
        name: str,
        path: str,
        content: bytes,
        replaces: Collection[str] | None,
        is_new: bool = False,
    ) -> None:
        self.files, self.name, self.path, self.content, self.replaces = files, name, path, content, replaces
        self.is_new = is_new
        self.sha256 = hashlib.sha256(content).hexdigest()

    def publish(self) -> None:
        """Write the file unless it already has this content."""
        if protocols_of(self.files) & ATOMIC_PROTOCOLS:
            self._upload()
        else:
            self._rename()

    def is_refused(self) -> bool:
        """Try to write over an object under the condition that there is none; return True if the store refuses."""
        if not protocols_of(self.files) & ATOMIC_PROTOCOLS:
            return False
        try:
            self.files.pipe_file(self.path, self.content, **self._condition(None))
        except OSError as error:
            return error.errno == REFUSED or isinstance(error, FileExistsError)
        return False

    def _upload(self) -> None:
        """Upload the file as one object, atomically."""
        if self.replaces is None:
            self.files.pipe_file(self.path, self.content)
            return
        before = None if self.is_new else self._look()
        if not self._may_replace(before):
            return
        try:
            self.files.pipe_file(self.path, self.content, **self._condition(before))
        except Exception:
            # The condition was refused, with an error of the store's own, or the response to the upload was lost.
            after = self._look()
            if after and self.is_new:
                self.is_new = False
                self._upload()
                return
            if after and after != before and self._may_replace(after):
                raise OccupiedError(self.name, "another file") from None
            if after and after.sha256 == self.sha256:
                return
            raise

    def _condition(self, before: _Object | None) -> dict[str, Any]:
        """Return arguments for a conditional write, with which the store refuses to replace any other object."""
        protocols = protocols_of(self.files)
        if before is None:
            return {"overwrite": False} if protocols & AZURE else {"mode": "create"}
        if before.tag and protocols & S3:
            return {"IfMatch": before.tag, "chunksize": max(1, len(self.content))}  # in one part, which has conditions
        return {}

    def _rename(self) -> None:
        """Upload under a temporary name, check the final name, then rename."""
        temporary = posixpath.join(posixpath.dirname(self.path), temporary_name())
        try:
            self.files.pipe_file(temporary, self.content)
            if self.replaces is not None and not self._may_replace(self._look()):
                self.files.rm_file(temporary)
            elif has_own_mv(self.files):
                self.files.mv(temporary, self.path)
            else:
                self.files.cp_file(temporary, self.path)
                self.files.rm_file(temporary)
        except BaseException:
            with contextlib.suppress(Exception):
                self.files.rm_file(temporary)
            raise

    def _look(self) -> _Object | None:
        """Read the object of the final name without caches; None if there is none."""
        self.files.invalidate_cache(posixpath.dirname(self.path))
        try:
            found = self.files.info(self.path)
            if kind_of(found) != "file":
                raise OccupiedError(self.name, f"a {kind_of(found)}")
            content = self.files.cat_file(self.path)
        except FileNotFoundError:
            return None
        return _Object(hashlib.sha256(content).hexdigest(), str(found.get("ETag") or ""))

    def _may_replace(self, found: _Object | None) -> bool:
        """Return True if the file must be written, False if the object already has its content.

        Raises:
            OccupiedError: the object may not be replaced.
        """
        assert self.replaces is not None
        if found and found.sha256 != self.sha256 and found.sha256 not in self.replaces:
            raise OccupiedError(self.name, "another file")
        return not found or found.sha256 != self.sha256
