"""The requests of `cgan-infer folder` and `color`, and the steps that their runs share."""

import errno
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cgan.errors import FULL_DISK, GateError, UserError, cannot_write
from cgan.files import json_sha256
from cgan.spec import MOST_SIZE
from infer.backends import open_model
from infer.backends.base import Backend
from infer.folder.journal import Journal
from infer.folder.journal_files import check_journals, journal_parts, journal_path
from infer.folder.journal_row import JournalError
from infer.folder.local_folder import LocalFolder
from infer.folder.open_storage import open_source, open_storage
from infer.folder.options import ColoringOptions, FolderOptions
from infer.folder.plan import Plan, check_folders, make_plan
from infer.folder.remote import RemoteFolder
from infer.folder.shard import Shard
from infer.folder.shared_journal import open_shared, read_journal
from infer.folder.storage import JOURNAL_NAME, WORK_FOLDER, Storage, numbered
from infer.photo.formats import SAME, ColorPhotos


@dataclass(frozen=True, kw_only=True)
class ColoringRequest(ColoringOptions):
    """The options that choose the model, its engine and the output format, beside those of colouring."""

    model: Path
    backend: str = "auto"
    provider: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    format: str = SAME

    def resolve(self, backend: Backend, workers: int, photos: int | None) -> FolderOptions:
        """Return the options of a run, with defaults for machine and model.

        Args:
            backend: the entered backend.
            workers: number of threads.
            photos: number of photos, None if unknown.
        """
        # No worker should be idle while another has several photos.
        share = backend.default_batch if photos is None or backend.on_gpu else -(-photos // workers)
        batch_size = self.batch_size or max(1, min(backend.default_batch, share))
        # On a CPU one batch waits for the first idle worker; on a GPU its copies overlap the other's computation.
        streams = 2 if backend.on_gpu else workers + 1
        shared = {field.name: getattr(self, field.name) for field in fields(ColoringOptions)}
        return FolderOptions(batch_size=batch_size, workers=workers, streams=streams, **shared)


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Options of a run on a Ray cluster; None chooses by the machines."""

    address: str | None = None
    """HOST:PORT of the cluster; None for $RAY_ADDRESS, or this machine alone."""
    actors: int | None = None
    """Number of processes."""
    cpus: float | None = None
    """CPUs of each, and GPUs."""
    gpus: float | None = None


@dataclass(frozen=True, kw_only=True)
class FolderRequest(ColoringRequest):
    """The arguments of `cgan-infer folder`."""

    sources: tuple[str, ...]
    """INPUT: a path or an fsspec URL, or several paths."""
    target: str
    """OUTPUT, a path or an fsspec URL."""
    report: Path | None = None
    manifest: bool = False
    """Write the lists of `infer.folder.manifest` into OUTPUT."""
    watch: bool = False
    shard: Shard | None = None
    """The photos to colour; None for all."""
    ray: RayOptions | None = None
    """Colour in the processes of a Ray cluster; None for this process."""
    check_parity: Path | None = None
    """Run to compare the model with, on photos of INPUT, before anything is written."""


def opened_places(request: FolderRequest) -> tuple[Storage, Storage]:
    """Return INPUT and OUTPUT; OUTPUT has the ending of the shard's own files.

    Raises:
        UserError: one of them cannot be opened or searched, or OUTPUT belongs to runs with other shards.
    """
    source, target = open_source(request.sources), open_storage(request.target)
    target.part = request.shard.part if request.shard else ""
    check_folders(source, target)
    try:
        check_journals(target, work_folder(target))
    except OSError as error:
        raise unwritable(target, error) from error
    return source, target


def work_folder(target: Storage) -> Path | None:
    """Return the folder for a run's own files in an OUTPUT, None for a store.

    Raises:
        UserError: the folder or the journal is a link, which could lead to other files.
    """
    if not isinstance(target, LocalFolder):
        return None
    folder = target.path / WORK_FOLDER
    for path in (folder, folder / numbered(JOURNAL_NAME, target.part)):
        if path.is_symlink():
            raise UserError(f"{path}: found a link, expected what a run made there; remove it or choose another OUTPUT")
    return folder


def opened_model(request: ColoringRequest, threads: int) -> Backend:
    """Return the requested model, not entered yet. It uses `threads` CPU threads per run, 0 for its default."""
    return open_model(request.model, request.device, threads, backend=request.backend, provider=request.provider)


def plan_of(
    request: FolderRequest, source: Storage, target: Storage, journal: Journal | None = None, choose: Any = None
) -> Plan:
    """Return the plan of the request; arguments and errors are those of `make_plan`.

    Raises:
        UserError: also if INPUT cannot be searched or the journal cannot be read.
    """
    try:
        known = list(journal.outputs()) if journal else []
        copies = request.color_photos is ColorPhotos.COPY
        return make_plan(source, target, request.format, known, choose, copies, request.shard)
    except JournalError as error:
        raise unwritable(target, error) from error
    except OSError as error:
        if error.errno == errno.EBADMSG:  # the file exists but is not an archive
            raise UserError(f"{source}: cannot be searched ({error.strerror})") from error
        if error.errno in FULL_DISK:  # an archive is unpacked into a temporary file
            raise GateError(f"{source}: cannot be searched ({error.strerror})") from error
        raise UserError(f"{source}: cannot be searched ({error}); check the address and the access") from error


def has_journal(target: Storage) -> bool:
    """Return True if a run has left a journal of OUTPUT.

    Raises:
        UserError: OUTPUT cannot be searched.
    """
    try:
        is_shared = isinstance(target, RemoteFolder) and target.part in journal_parts(target, None)
    except OSError as error:
        raise unwritable(target, error) from error
    return is_shared or journal_path(target.identity, work_folder(target), target.part).exists()


def opened_journal(target: Storage) -> Journal:
    """Open the journal of OUTPUT.

    Raises:
        UserError: the journal cannot be opened, or another run has it open.
    """
    folder = work_folder(target)
    path = journal_path(target.identity, folder, target.part)
    try:
        return open_shared(target) if isinstance(target, RemoteFolder) else Journal(path)
    except OSError as error:
        if folder and error.errno is None:
            error.errno = _error_of_writing(folder)
        raise unwritable(target, error) from error


def copied_journal(target: Storage, part: str, copy: Path) -> Journal | None:
    """Return a copy of the journal of OUTPUT in the folder `copy`, None if there is no journal.

    Raises:
        UserError: the journal cannot be read.
    """
    try:
        return read_journal(target, work_folder(target), part, copy)
    except OSError as error:
        raise unwritable(target, error) from error


def _error_of_writing(folder: Path) -> int | None:
    """Return the errno of writing a file to a folder, None if it can be written: SQLite tells no full disk by errno."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**15))
            file.flush()
    except OSError as error:
        return error.errno
    return None


def unwritable(target: Storage, error: OSError) -> UserError:
    """Return the error for an OUTPUT or a journal that cannot be written."""
    if isinstance(error, JournalError):
        kind = GateError if error.errno in FULL_DISK else UserError
        return kind(f"{error}, or choose another OUTPUT")
    return cannot_write(str(target), error)


def note_on_sidecar(backend: Backend) -> str:
    """Return a note on a model file that no sidecar vouches for; empty for any other model."""
    if backend.sidecar or not backend.path.is_file():
        return ""
    return f"note: no {backend.path.name}.json beside the model, so its content cannot be verified"


def recipe_of(backend: Backend, options: ColoringOptions) -> str:
    """Return the digest of everything that changes the picture: the model and the options."""
    arithmetic = {"arithmetic": backend.arithmetic} if backend.arithmetic else {}
    return json_sha256({"model": backend.digest, **options.recipe(), **arithmetic})


def check_options(request: ColoringRequest, backend: Backend) -> None:
    """Check batch size and render size against the model.

    Raises:
        UserError: the model does not support a size.
    """
    asked, longest, (_, most) = request.batch_size, request.render_longest, backend.batch_range
    if asked and most is not None and asked > most:
        raise UserError(
            f"--batch-size: found {asked}, expected at most {most}, which {backend.path.name} was built for; choose "
            "less, or build it again"
        )
    if longest is None:
        return
    multiple = backend.spec.size_multiple
    if backend.fixed_size:
        raise UserError(
            f"--render-size: {backend.path.name} takes only {backend.fixed_size[0]} x {backend.fixed_size[1]} pixels; "
            "export it with --dynamic-size, or leave the option out"
        )
    if longest > MOST_SIZE:
        raise UserError(f"--render-size: found {longest}, expected at most {MOST_SIZE}; memory grows with its square")
    if longest % multiple:
        raise UserError(f"--render-size: found {longest}, expected a multiple of {multiple}")
    if longest < backend.least_side:
        raise UserError(f"--render-size: found {longest}, expected at least {backend.least_side}")
    if backend.size_range and not backend.size_range[0] <= longest <= backend.size_range[1]:
        least, most = backend.size_range
        raise UserError(f"--render-size: found {longest}, expected {least} to {most}, which the engine was built for")
