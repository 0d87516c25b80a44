"""Models by name from the Hugging Face Hub: hf://owner/name[@revision][/FILE].

A model and its sidecar come into the cache of huggingface_hub, where they stay usable without a network. That package
also reads HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cgan.errors import ChangedFileError, GateError, UserError
from cgan.extras import needed
from cgan.files import file_sha256
from cgan.readers import FormatError, read_json, typed_field
from cgan.spec import sidecar_path
from cgan.text import counted, say, shown, told_apart

SCHEME = "hf://"

SUFFIXES = (".onnx", ".plan")
"""Suffixes of files that are models if they have a sidecar. A plan, which is executable content, has to be named."""

SECONDS = 10.0
"""Longest wait for the answer to a question about a repository."""

SHOWN_DIGITS = 12
"""Digits of a commit in messages."""

IN_CACHE = re.compile(r"/models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})/(.+)$")
"""A file in the cache of huggingface_hub: owner, name, commit, path in the repository."""

Note = Callable[[str], object]
"""Takes a note for the user, one line."""


def say_note(text: str) -> None:
    """Print a note."""
    say(f"note: {text}")


@dataclass(frozen=True)
class HubAddress:
    """A place on the Hub."""

    given: str
    """As the user wrote it."""
    repository: str
    """Such as "owner/name"."""
    revision: str | None
    """Branch, tag or commit; None for the main branch."""
    file: str
    """Path in the repository; empty for its only model."""

    @classmethod
    def parse(cls, given: str) -> "HubAddress":
        """Return the parts of an address.

        Raises:
            UserError: it is no address of a model repository, or the package of the Hub is missing.
        """
        use_library()
        from huggingface_hub import parse_hf_uri
        from huggingface_hub.errors import HfUriError

        try:
            parts = parse_hf_uri(given)
        except HfUriError:
            parts = None
        if parts is None or parts.type != "model":
            raise UserError(
                f"{shown(given)}: found no address of a model, expected hf://owner/name, "
                "hf://owner/name@revision or hf://owner/name/FILE.onnx"
            )
        return cls(given, parts.id, parts.revision, parts.path_in_repo)

    def at(self, commit: str, file: str) -> str:
        """Return the address of a file in a commit."""
        return f"{SCHEME}{self.repository}@{commit}/{file}"


def use_library() -> None:
    """Import huggingface_hub without its telemetry and progress bars.

    Raises:
        UserError: it is not installed.
    """
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")  # read when it is imported
    with needed("a model on the Hub", "hub", "give a file"):
        import huggingface_hub  # noqa: F401


def download(given: str, note: Note = say_note) -> Path:
    """Return the path of a model of the Hub in the cache, with its sidecar beside it; download what is missing.

    Args:
        given: hf://owner/name[@revision][/FILE].
        note: told if the Hub cannot be asked, so that the cached revision may not be the newest.

    Raises:
        ChangedFileError: the model has another digest than its sidecar names.
        UserError: there is no such repository, revision or model, or no right to read it.
        GateError: the Hub cannot be reached or fails, and the cache has no such model.
    """
    address = HubAddress.parse(given)
    with hub_errors(given):
        path = _downloaded(address, note)
    _check_digest(given, path)
    return path


def origin(path: Path) -> str | None:
    """Return the address, with the commit, of a file in the cache of the Hub; None for any other file."""
    found = IN_CACHE.search(path.as_posix())
    return "{}{}/{}@{}/{}".format(SCHEME, *found.groups()) if found else None


def _downloaded(address: HubAddress, note: Note) -> Path:
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    repository = address.repository
    try:
        info = HfApi().model_info(repository, revision=address.revision, timeout=SECONDS)
    except OfflineModeIsEnabled:
        return _cached(address, "HF_HUB_OFFLINE is set", note)
    except httpx2.TransportError:
        return _cached(address, "the Hub cannot be reached", note)
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return _cached(address, f"the Hub answers {error.response.status_code}", note)
    file = _chosen(address, {sibling.rfilename for sibling in info.siblings or ()})
    # With the revision, so that the cache knows later which commit it is.
    sidecar = Path(hf_hub_download(repository, f"{file}.json", revision=address.revision))
    path = Path(hf_hub_download(repository, file, revision=info.sha))
    if sidecar.parent != path.parent:
        raise GateError(f"{address.given}: changed while it was downloaded; repeat the command")
    return path


def _cached(address: HubAddress, why: str, note: Note) -> Path:
    """Return the model of the last revision that was downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    only = [address.file, f"{address.file}.json"] if address.file else None
    try:
        folder = Path(
            snapshot_download(address.repository, revision=address.revision, local_files_only=True, allow_patterns=only)
        )
    except LocalEntryNotFoundError:
        raise GateError(
            f"{address.given}: {why}, and the cache does not have it; download it once with a network"
        ) from None
    file = _chosen(address, {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()})
    note(f"{address.given}: {why}; revision {folder.name[:SHOWN_DIGITS]} of the cache is used, unchecked")
    return folder / file


def _chosen(address: HubAddress, files: Collection[str]) -> str:
    """Return the model that is meant.

    Raises:
        UserError: it is not there, or the address names none of several.
    """
    models = sorted(file for file in files if file.endswith(SUFFIXES) and f"{file}.json" in files)
    safe = [file for file in models if file.endswith(SUFFIXES[0])]
    if address.file in models:
        return address.file
    if len(safe) == 1 and not address.file:
        return safe[0]
    if not models:
        raise UserError(f"{address.given}: found no model with a sidecar, expected FILE.onnx and FILE.onnx.json")
    if address.file:
        raise UserError(f"{address.given}: found no such model with a sidecar, expected one of {shown(models)}")
    raise UserError(
        f"{address.given}: found {counted(len(safe), 'ONNX file')} with a sidecar, expected one; name the model, "
        f"{address.given}/FILE: {shown(models)}"
    )


def _check_digest(given: str, path: Path) -> None:
    try:
        expected = typed_field(read_json(sidecar_path(path)), "file_sha256", str)
    except FormatError as error:
        raise UserError(f"{given}: its sidecar cannot be read ({error}); ask its owner to export it again") from error
    if (found := file_sha256(path)) != expected:
        one, other = told_apart(found, expected)
        raise ChangedFileError(
            f"{given}: found sha256 {one}, its sidecar names {other}; ask its owner for files of one export, or remove "
            f"{path.parent} if its copy there is damaged"
        )


@contextmanager
def hub_errors(given: str) -> Iterator[None]:
    """Turn errors of huggingface_hub in the block into one line. Its own messages have many, with addresses.

    Raises:
        UserError: there is no such repository or revision, or no right to use it.
        GateError: the Hub cannot be reached, or fails.
    """
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{given}: found terms that its owner asks to accept; accept them on its page") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{given}: found no such repository, or no right to see it; check the name, or log in with hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{given}: found no such revision; check its name") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(f"{given}: the Hub refuses this token ({status}); log in with hf auth login") from error
        raise GateError(f"{given}: the Hub answers {status}; try again later") from error
    except (httpx2.HTTPError, errors.OfflineModeIsEnabled, errors.XetDownloadError) as error:
        raise GateError(f"{given}: the Hub cannot be reached ({type(error).__name__}); try again later") from error
    except (errors.EntryNotFoundError, errors.FileMetadataError) as error:
        raise GateError(f"{given}: found no such file on the Hub, or a damaged answer; try again later") from error
