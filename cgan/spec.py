"""The contract that every artefact carries: what a model takes, what it gives, where it came from.

A checkpoint, an ONNX file and an engine all hold one `ModelSpec`; whoever consumes the file reads the
spec from it and refuses what it cannot honour. Beside a deployable file lies a `Sidecar` that vouches
for its bytes. The module also holds what all three packages need to keep that contract: `UserError`,
content digests, and writing a file whole or not at all. It imports neither torch nor numpy, because
`infer` imports it: of `cgan` only this module and `cgan.command`.
"""

import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

SCHEMA_VERSION = 1
LATER_FIELDS = {"blocks": 1, "dynamic_size": False, "input_blur": 0.0}
"""Fields that contracts of this schema did not have at first, and what models were then."""

METADATA_KEY = "cgan.model_spec"
"""Key under which the JSON form lies in safetensors metadata and in ONNX metadata_props."""

SIZE_MULTIPLE = 16
"""The U-Net halves its input four times, so height and width are multiples of 2**4."""

LUMA_REC601 = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601-7, section 2.5.1); what Pillow's mode "L" uses."""

COLOR_SPACES = ("rgb", "hsv", "ycbcr")
PRECISIONS = ("fp32", "fp16", "int8")

INPUT_CONTRACT = {
    "name": "gray",
    "shape": ["N", 1, "H", "W"],
    "dtype": "float32",
    "range": [0, 1],
    "meaning": "Rec.601 luma",
}
OUTPUT_CONTRACT = {
    "name": "rgb",
    "shape": ["N", 3, "H", "W"],
    "dtype": "float32",
    "range": [0, 1],
    "meaning": "sRGB",
}


PHOTO_FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""Suffixes of the files that count as photos, with Pillow's name of what they hold. No other format is ever
decoded, because some of Pillow's decoders start other programs."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a request that was right when it began: exit code 1 rather than 2."""


class UserError(Exception):
    """Something the user can put right: what was found, what was expected, what to do next.

    The commands print it as one line and exit with `exit_code`: 2, the request itself was wrong.
    """

    exit_code = 2


class GateError(UserError):
    """The work ran and its result failed a check, or a file could not be written: exit code 1."""

    exit_code = 1


def cannot_write(path: Path | str, error: OSError, kind: type[UserError] | None = None) -> UserError:
    """The error to raise where `path` could not be written; unless given, a GateError if the disk is full or broken."""
    kind = kind or (GateError if error.errno in FULL_DISK else UserError)
    return kind(f"{path}: cannot be written ({error}); make room or permission there, or choose another place")


class ChangedFileError(UserError):
    """A file's bytes are not those that its sidecar vouches for."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model takes and gives, and which training it came from.

    Input is always `gray`, N x 1 x H x W float32 in [0, 1], Rec.601 luma; output is always `rgb`,
    N x 3 x H x W float32 in [0, 1], sRGB, whatever colour space the model was trained in.
    """

    model: str
    """Name of the network architecture, "unet"."""
    color_space: str
    """Colour space of the training target; one of COLOR_SPACES."""
    render_size: int
    """Height and width in pixels at which the model was trained."""
    base_width: int
    """Channels of the first convolution block."""
    parameters: int
    """Trainable parameters of the generator."""
    precision: str = "fp32"
    """Arithmetic of the artefact; one of PRECISIONS."""
    config_sha256: str
    """Digest of the training configuration's canonical JSON."""
    weights_sha256: str
    """Digest of the generator's weights in the checkpoint; see `cgan.checkpoint.weights_digest`."""
    blocks: int = 1
    """Convolution blocks at each scale of the generator."""
    input_blur: float = 0.0
    """Standard deviation in pixels of the blur that the network gives its input; it is part of the file."""
    dynamic_size: bool = False
    """Whether the artefact takes any height and width in multiples of `size_multiple`, or only the render size."""
    created_with: dict[str, str] = field(default_factory=dict)
    """Library versions that wrote the artefact."""
    size_multiple: int = SIZE_MULTIPLE
    """Height and width have to be multiples of this."""
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema != SCHEMA_VERSION:
            raise UserError(
                f"model contract has schema {self.schema!r}, this version reads {SCHEMA_VERSION}; "
                "export the model again or install the matching version"
            )
        if self.color_space not in COLOR_SPACES:
            raise UserError(f"model contract names colour space {self.color_space!r}, not one of {COLOR_SPACES}")
        if self.precision not in PRECISIONS:
            raise UserError(f"model contract names precision {self.precision!r}, not one of {PRECISIONS}")
        if self.base_width < 1 or self.blocks < 1 or self.parameters < 1:
            counts = f"base width {self.base_width}, {self.blocks} blocks and {self.parameters} parameters"
            raise UserError(f"model contract has {counts}, expected at least 1 of each")
        if not 0 <= self.input_blur < float("inf"):
            raise UserError(f"model contract has an input blur of {self.input_blur} pixels, expected 0 or more")
        if self.size_multiple < 1 or self.render_size < 1 or self.render_size % self.size_multiple:
            raise UserError(
                f"model contract has render size {self.render_size}, not a multiple of {self.size_multiple}"
            )

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values, with the input and output contract spelled out."""
        return {**asdict(self), "input": INPUT_CONTRACT, "output": OUTPUT_CONTRACT}

    @classmethod
    def from_json(cls, values: object, source: str | os.PathLike[str]) -> Self:
        """The spec from its JSON form.

        Args:
            values: what `to_json` gave.
            source: where it was read, for messages.

        Raises:
            UserError: not a spec, another schema, or a contract that this version cannot honour.
        """
        if not isinstance(values, dict):
            raise UserError(f"{source}: model contract is not a JSON object; export the model again")
        data = dict(values)
        if data.get("schema") != SCHEMA_VERSION:
            raise UserError(
                f"{source}: model contract has schema {data.get('schema')!r}, this version reads "
                f"{SCHEMA_VERSION}; export the model again or install the matching version"
            )
        for side, expected in (("input", INPUT_CONTRACT), ("output", OUTPUT_CONTRACT)):
            if data.pop(side, None) != expected:
                raise UserError(f"{source}: the model's {side} is not the one this version knows: {expected}")
        known = {f.name: f.type for f in fields(cls)}
        data = {**LATER_FIELDS, **data}
        if data.keys() != known.keys():
            raise UserError(
                f"{source}: model contract has fields {sorted(data)}, expected {sorted(known)}; export the model again"
            )
        for name, kind in known.items():
            expected_type = kind if isinstance(kind, type) else dict
            if type(data[name]) is not expected_type:  # an int field takes no bool
                raise UserError(f"{source}: model contract field {name} is {data[name]!r}; export the model again")
        return cls(**data)

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], source: str | os.PathLike[str]) -> Self:
        """The spec from string metadata (safetensors header, ONNX metadata_props).

        Raises:
            UserError: there is no spec in it, so this project did not write the file.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise UserError(
                f"{source}: found no model contract, so this project did not write it; "
                "make the file with cgan-train or cgan-export"
            )
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"{source}: model contract is not JSON ({error}); export the model again") from error
        return cls.from_json(values, source)

    def to_metadata(self) -> dict[str, str]:
        """The spec as string metadata."""
        return {METADATA_KEY: canonical_json(self.to_json())}


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What lies beside a deployable file FILE as FILE.json and vouches for it."""

    spec: ModelSpec
    file_sha256: str
    verification: dict[str, Any]
    """How the artefact was compared with the trained model, and the numbers."""
    build: dict[str, Any] = field(default_factory=dict)
    """How the file was made and what it needs: of an engine its flavour, TensorRT version, targets, profiles, flags."""

    def to_json(self) -> dict[str, Any]:
        """The sidecar as JSON values."""
        return {
            "spec": self.spec.to_json(),
            "file_sha256": self.file_sha256,
            "verification": self.verification,
            "build": self.build,
        }


def sidecar_path(artefact: Path) -> Path:
    """Where the sidecar of an artefact lies: model.onnx -> model.onnx.json."""
    return artefact.with_name(artefact.name + ".json")


def write_sidecar(artefact: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of `artefact`, whole or not at all."""
    with atomic_path(sidecar_path(artefact)) as path:
        path.write_text(json.dumps(sidecar.to_json(), indent=2) + "\n")


def read_sidecar(artefact: Path) -> Sidecar | None:
    """The sidecar of an artefact, once the artefact's bytes are those that it vouches for.

    Returns:
        The sidecar, or None where there is none: then nothing vouches for the file.

    Raises:
        ChangedFileError: the file is not the one the sidecar was written for.
        UserError: the sidecar cannot be read.
    """
    path = sidecar_path(artefact)
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        sidecar = Sidecar(
            spec=ModelSpec.from_json(data["spec"], path),
            file_sha256=str(data["file_sha256"]),
            verification=dict(data["verification"]),
            build=dict(data.get("build", {})),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a readable sidecar ({error!r}); export the model again") from error
    found = file_sha256(artefact)
    if found != sidecar.file_sha256:
        raise ChangedFileError(
            f"{artefact}: changed since its export: found sha256 {found[:16]}..., its sidecar vouches for "
            f"{sidecar.file_sha256[:16]}...; export the model again"
        )
    return sidecar


def cache_folder() -> Path:
    """Where what can be made again is kept: $CGAN_CACHE, or cgan in the user's cache folder."""
    if folder := os.environ.get("CGAN_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cgan"


def canonical_json(values: object) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def json_sha256(values: object) -> str:
    """Digest of the canonical JSON of `values`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes, 64 hexadecimal digits, read in chunks.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends without an exception.

    The content is flushed to disk before the rename, so `path` holds the old file or the whole new
    one at every moment, even across a power cut; after an exception nothing is left behind.

    Raises:
        OSError: `path` is a folder, a device or another thing that no file should replace.
    """
    check_replaceable(path)
    temporary = path.with_name(f"{_TEMPORARY[0]}{secrets.token_hex(6)}{_TEMPORARY[1]}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Check that there is nothing at `path`, or a regular file.

    Raises:
        OSError: there is something else.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def check_writable(path: Path) -> None:
    """Check that a file can be written at `path`, before anything slow begins.

    Raises:
        UserError: it cannot.
        GateError: the disk is full or broken.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path}: found no folder {path.parent}; make it, or choose another place")
    try:
        check_replaceable(path)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def replaces_nothing_else(path: Path, keys: frozenset[str]) -> bool:
    """Whether a JSON file with these keys may take this name: nothing is there, or an empty file, or one with them."""
    try:
        text = path.read_text() if path.is_symlink() or path.exists() else ""
        values = json.loads(text) if text else dict.fromkeys(keys)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and keys <= values.keys()


def remove_temporaries(folder: Path) -> None:
    """Remove what a kill in the middle of `atomic_path` left in a folder that no other command writes to."""
    for entry in folder.iterdir():
        if is_temporary(entry):
            entry.unlink()


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `atomic_path` made; where no command runs, a kill left it."""
    return path.name.startswith(_TEMPORARY[0]) and path.name.endswith(_TEMPORARY[1]) and not path.is_dir()


_TEMPORARY = (".cgan-", ".tmp")
