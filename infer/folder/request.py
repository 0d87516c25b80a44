"""What `cgan-infer folder` is asked for, and what a run and a dry run both make of it."""

import errno
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cgan.errors import FULL_DISK, GateError, UserError, cannot_write
from cgan.files import json_sha256
from infer.backends import open_model
from infer.backends.base import Backend
from infer.folder.journal import Journal, JournalError
from infer.folder.local_folder import LocalFolder
from infer.folder.options import ColoringOptions, FolderOptions
from infer.folder.plan import Plan, make_plan
from infer.folder.storage import JOURNAL_NAME, WORK_FOLDER, Storage

MOST_RENDER = 4096
"""Largest --render-size; models are trained at a thirtieth of it."""


@dataclass(frozen=True, kw_only=True)
class FolderRequest(ColoringOptions):
    """What `cgan-infer folder` was asked for."""

    source: str
    """Folder or fsspec URL."""
    target: str
    model: Path
    backend: str = "auto"
    provider: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    format: str = "same"
    report: Path | None = None
    watch: bool = False
    check_parity: Path | None = None
    """Run that the model has to equal on photos of INPUT before anything is written."""

    def resolve(self, backend: Backend, workers: int, photos: int | None) -> FolderOptions:
        """The options of a run.

        Args:
            backend: entered.
            workers: threads.
            photos: in the run, None where they are not known yet.
        """
        # No worker should be without a batch while another has several photos.
        share = backend.default_batch if photos is None or backend.on_gpu else -(-photos // workers)
        batch_size = self.batch_size or max(1, min(backend.default_batch, share))
        # On a CPU one that waits, for the worker that is ready first; on a GPU one whose copies overlap the other.
        streams = 2 if backend.on_gpu else workers + 1
        shared = {field.name: getattr(self, field.name) for field in fields(ColoringOptions)}
        return FolderOptions(batch_size=batch_size, workers=workers, streams=streams, **shared)


def work_folder(target: Storage) -> Path | None:
    """Where runs keep their own files in an OUTPUT, None in a store.

    Raises:
        UserError: a link is in its place, which could lead to files of others.
    """
    if not isinstance(target, LocalFolder):
        return None
    folder = target.path / WORK_FOLDER
    for path in (folder, folder / JOURNAL_NAME):
        if path.is_symlink():
            raise UserError(f"{path}: found a link, expected what a run made there; remove it or choose another OUTPUT")
    return folder


def opened_model(request: FolderRequest, threads: int) -> Backend:
    """The model that was asked for, not entered yet; a run of it takes `threads` CPU threads, 0 its own choice."""
    return open_model(request.model, request.device, threads, backend=request.backend, provider=request.provider)


def plan_of(
    request: FolderRequest, source: Storage, target: Storage, journal: Journal | None = None, choose: Any = None
) -> Plan:
    """The plan of the request; arguments and errors are those of `make_plan`.

    Raises:
        UserError: also where INPUT cannot be searched or the journal cannot be read.
    """
    try:
        known = list(journal.outputs()) if journal else []
        return make_plan(source, target, request.format, known, choose)
    except JournalError as error:
        raise unwritable(target, error) from error
    except OSError as error:
        if error.errno == errno.EBADMSG:  # found, and no archive
            raise UserError(f"{source}: cannot be searched ({error.strerror})") from error
        raise UserError(f"{source}: cannot be searched ({error}); check the address and the access") from error


def opened_journal(path: Path | None, target: Storage, shown: Path | None = None) -> Journal:
    """The journal at `path`, called `shown` in messages.

    Raises:
        UserError: it cannot be opened, or another run holds it.
    """
    try:
        return Journal(path, shown)
    except OSError as error:
        raise unwritable(target, error) from error


def unwritable(target: Storage, error: OSError) -> UserError:
    """What to tell where OUTPUT or its journal cannot be written."""
    if isinstance(error, JournalError):
        kind = GateError if error.errno in FULL_DISK else UserError
        return kind(f"{error}, or choose another OUTPUT")
    return cannot_write(str(target), error)


def recipe_of(backend: Backend, options: ColoringOptions) -> str:
    """Digest of everything that changes the picture: the model and the options."""
    arithmetic = {"arithmetic": backend.arithmetic} if backend.arithmetic else {}
    return json_sha256({"model": backend.digest, **options.recipe(), **arithmetic})


def check_options(request: FolderRequest, backend: Backend) -> None:
    """Refuse sizes that the model does not take.

    Raises:
        UserError: a batch or a render size of which that holds.
    """
    asked, longest, (_, most) = request.batch_size, request.render_longest, backend.batch_range
    if asked and most is not None and asked > most:
        raise UserError(
            f"--batch-size: found {asked}, expected at most {most}, which {backend.path.name} was built for; choose "
            "less or build it again"
        )
    if longest is None:
        return
    multiple = backend.spec.size_multiple
    if backend.fixed_size:
        raise UserError(
            f"--render-size: {backend.path.name} takes {backend.fixed_size[0]} x {backend.fixed_size[1]} pixels alone; "
            "export it with --dynamic-size, or leave the option out"
        )
    if longest > MOST_RENDER:
        raise UserError(f"--render-size: found {longest}, expected at most {MOST_RENDER}; memory grows with its square")
    if longest % multiple:
        raise UserError(f"--render-size: found {longest}, expected a multiple of {multiple}")
    if longest < backend.least_side:
        raise UserError(f"--render-size: found {longest}, expected at least {backend.least_side}")
    if backend.size_range and not backend.size_range[0] <= longest <= backend.size_range[1]:
        least, most = backend.size_range
        raise UserError(f"--render-size: found {longest}, expected {least} to {most}, which the engine was built for")
