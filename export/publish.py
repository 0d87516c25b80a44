"""Publication of an artefact and its sidecar under their final names, without replacing unknown files."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cgan.errors import GateError, UserError, cannot_write
from cgan.files import OccupiedError, atomic_path, look_at, place, read_regular
from cgan.readers import SMALL_BYTES, FormatError, parse_json, typed_field
from cgan.spec import ModelSpec, Sidecar, sidecar_path

FAILED_SUFFIX = ".failed"
"""Appended to the name of an artefact that failed its gate and was kept: no command opens a file of this name."""

Digests = frozenset[str]
"""sha256 of what lay at a name when an export began; empty where nothing did."""


@dataclass
class Publication:
    """An artefact under its temporary name. It replaces only files that were at its name when the export began."""

    target: Path
    temporary: Path
    """File to write."""
    artefact_before: Digests
    sidecar_before: bytes | None
    sidecar: bytes | None = None
    """As it was written."""

    def vouch_for(self, sidecar: Sidecar) -> None:
        """Write the sidecar as the last step before the artefact gets its name.

        A kill after it leaves an artefact that is refused, never one without a sidecar.

        Raises:
            OccupiedError: another artefact or sidecar came there meanwhile.
        """
        if _digests_at(self.target) != self.artefact_before:
            raise OccupiedError(self.target, "another file")
        content = (json.dumps(sidecar.to_json(), indent=2) + "\n").encode()
        self._write_sidecar(content, self.sidecar_before)
        self.sidecar = content

    def take_back(self) -> None:
        """Restore the earlier sidecar after the artefact did not get its name."""
        if self.sidecar is not None and self.sidecar_before is not None:
            self._write_sidecar(self.sidecar_before, self.sidecar)
        elif self.sidecar is not None and _digests_at(sidecar_path(self.target)) == _digests(self.sidecar):
            sidecar_path(self.target).unlink()
        self.sidecar = None

    def _write_sidecar(self, content: bytes, before: bytes | None) -> None:
        with atomic_path(sidecar_path(self.target), _digests(before)) as path:
            path.write_bytes(content)


@contextmanager
def publishing(
    target: Path, spec: ModelSpec, overwrite: bool = False, keep_failed: bool = False
) -> Iterator[Publication]:
    """Yield a publication; the artefact gets its name when the block ends without an exception.

    Args:
        target: its name.
        spec: its contract.
        overwrite: replace what lies there now, also if it is another model.
        keep_failed: keep it as NAME.failed where the block raises a GateError.

    Raises:
        UserError: another model has the name, or came there meanwhile; or the name cannot be taken.
        GateError: the disk is full.
    """
    if target.is_dir():
        raise UserError(
            f"{target}: found a folder of that name, expected none or a file; remove it or choose another --out"
        )
    failed = target.with_name(target.name + FAILED_SUFFIX)
    try:
        artefact, sidecar = _digests_at(target), read_regular(sidecar_path(target), SMALL_BYTES)
        if not overwrite and not _is_export_of(spec, artefact, sidecar):
            raise OccupiedError(target, "another model")
        if keep_failed and _digests_at(failed):
            raise UserError(f"{failed}: found an earlier one; move it away, or leave out --keep-failed")
        target.parent.mkdir(parents=True, exist_ok=True)
        publication = Publication(target, target, artefact, sidecar)
        try:
            with atomic_path(target, artefact) as publication.temporary:
                try:
                    yield publication
                except GateError:
                    if keep_failed and publication.temporary.exists():
                        place(publication.temporary, failed, frozenset())
                    raise
        except BaseException:
            publication.take_back()
            raise
    except OccupiedError as error:
        raise UserError(
            f"{error.filename}: found another model of that name, expected none or an export of the same weights; "
            "choose another --out, or replace it with --overwrite"
        ) from error
    except OSError as error:
        raise cannot_write(target.parent, error) from error


def _is_export_of(spec: ModelSpec, artefact: Digests, sidecar: bytes | None) -> bool:
    """Return True if only an earlier export of the same weights has the name: its sidecar, and its file or none."""
    if sidecar is None:
        return not artefact
    try:
        values = parse_json(sidecar)
        weights = typed_field(typed_field(values, "spec", dict), "weights_sha256", str)
        return weights == spec.weights_sha256 and artefact <= {typed_field(values, "file_sha256", str)}
    except FormatError:
        return False


def _digests_at(path: Path) -> Digests:
    found = look_at(path)
    return frozenset({found.sha256}) if found else frozenset()


def _digests(content: bytes | None) -> Digests:
    return frozenset() if content is None else frozenset({hashlib.sha256(content).hexdigest()})
