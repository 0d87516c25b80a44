"""The contract of every artefact: its input, its output and its provenance.

A checkpoint, an ONNX file and an engine each hold one `ModelSpec`; a program that uses the file reads the spec and
refuses what it does not support. A deployable file has a `Sidecar` beside it, with the digest of its bytes. The module
imports neither torch nor numpy, because `infer` imports it.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from cgan.checkpoint_record import CheckpointRecord
from cgan.errors import ChangedFileError, UserError
from cgan.files import atomic_path, canonical_json, file_sha256
from cgan.readers import FormatError, parse_json, read_json, typed_field, typed_object
from cgan.text import counted, shown, told_apart

SCHEMA_VERSION = 1
LATER_FIELDS = {"blocks": 1, "dynamic_size": False, "input_blur": 0.0}
"""Fields that were added to this schema later, and their values in older contracts."""

METADATA_KEY = "cgan.model_spec"
"""Key of the JSON form in safetensors metadata and in ONNX metadata_props."""

MODEL_NAME = "unet"
"""The only network architecture."""

ENCODER_MULTIPLES = (1, 2, 4, 8, 16)
"""Channels of the U-Net's encoder scales, in base widths."""

SIZE_MULTIPLE = 2 ** (len(ENCODER_MULTIPLES) - 1)
"""The U-Net halves its input four times, so height and width are multiples of 16."""

MOST_WIDTH = 512
"""Largest base width: 3.7 billion parameters, whose training takes 60 GB for weights, gradients and Adam alone."""

MOST_BLOCKS = 64
"""Most convolution blocks at a scale: 649 convolutions, far more than a U-Net without residuals can learn with."""

MOST_SIZE = 4096
"""Largest height and width in pixels: a convolution of base width 32 then gives 2 GiB for each photo."""

MOST_BATCH = 2**16
"""Largest batch, in training and later: more photos than most data sets have, and no engine gains from so many."""

LEAST_BLUR, MOST_BLUR = 0.1, 8.0
"""Range of the input blur's standard deviation in pixels. A smaller one changes no pixel; the kernel of the largest has
49 pixels a side, more than the smallest photo."""

MOST_CONTRACT = 2**16
"""Most characters of a contract as text; one has about 900."""

LUMA_REC601 = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601-7, section 2.5.1); what Pillow's mode "L" uses."""

LUMA_FIXED_POINT = tuple(round(weight * 2**16) for weight in LUMA_REC601)
"""LUMA_REC601 in units of 2**-16, as Pillow computes mode "L": 19595, 38470, 7471."""

ColorSpaceName = Literal["rgb", "hsv", "ycbcr"]
COLOR_SPACES: tuple[ColorSpaceName, ...] = get_args(ColorSpaceName)

COLOR_CHANNELS: dict[ColorSpaceName, int] = {"rgb": 3, "hsv": 2, "ycbcr": 2}
"""Channels that a generator predicts in each colour space; the gray input has the third one."""

Precision = Literal["fp32", "fp16", "int8"]
"""Arithmetic of an artefact."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

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


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Input, output and provenance of a model.

    Input is always `gray`, N x 1 x H x W float32 in [0, 1], Rec.601 luma; output is always `rgb`,
    N x 3 x H x W float32 in [0, 1], sRGB, in every colour space of training.
    """

    model: str
    """Name of the network architecture, MODEL_NAME."""
    color_space: ColorSpaceName
    """Colour space of the training target."""
    render_size: int
    """Height and width in pixels at which the model was trained."""
    base_width: int
    """Channels of the first convolution block, 1 to MOST_WIDTH."""
    parameters: int
    """Trainable parameters of the generator: `generator_parameters`."""
    precision: Precision = "fp32"
    """Arithmetic of the artefact."""
    config_sha256: str
    """Digest of the training configuration's canonical JSON."""
    weights_sha256: str
    """Digest of the generator's weights in the checkpoint; see `cgan.training.checkpoint.weights_digest`."""
    blocks: int = 1
    """Convolution blocks at each scale of the generator."""
    input_blur: float = 0.0
    """Standard deviation in pixels of the blur that is the network's first layer; 0 for none."""
    dynamic_size: bool = False
    """True if the artefact takes all multiples of `size_multiple` as height and width, not only the render size."""
    created_with: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that wrote the artefact."""
    size_multiple: int = SIZE_MULTIPLE
    """Height and width must be multiples of this."""
    schema: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema != SCHEMA_VERSION:
            raise UserError(
                f"model contract has schema {self.schema!r}, this version reads {SCHEMA_VERSION}; "
                "export the model again or install the matching version"
            )
        choices = {"model": (MODEL_NAME,), "color_space": COLOR_SPACES, "precision": PRECISIONS}
        for name, known in choices.items():
            self._check(name, getattr(self, name) in known, f"one of {', '.join(known)}")
        self._check("base_width", 1 <= self.base_width <= MOST_WIDTH, f"1 to {MOST_WIDTH}")
        self._check("blocks", 1 <= self.blocks <= MOST_BLOCKS, f"1 to {MOST_BLOCKS}")
        self._check("size_multiple", self.size_multiple == SIZE_MULTIPLE, str(SIZE_MULTIPLE))
        fits = 1 <= self.render_size <= MOST_SIZE and self.render_size % SIZE_MULTIPLE == 0
        self._check("render_size", fits, f"a multiple of {SIZE_MULTIPLE} up to {MOST_SIZE}")
        blurs = self.input_blur == 0 or LEAST_BLUR <= self.input_blur <= MOST_BLUR
        self._check("input_blur", blurs, f"0, or {LEAST_BLUR:g} to {MOST_BLUR:g} pixels")
        count = generator_parameters(self.color_space, self.base_width, self.blocks)
        self._check(
            "parameters",
            self.parameters == count,
            f"{count} of base width {self.base_width}, {counted(self.blocks, 'block')}",
        )

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            found = shown(getattr(self, name))
            raise UserError(f"model contract has {name} {found}, expected {expected}; export the model again")

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width of the artefact's input in pixels; None if it is of dynamic size."""
        return None if self.dynamic_size else (self.render_size, self.render_size)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values, with the contracts of input and output."""
        return {**asdict(self), "input": INPUT_CONTRACT, "output": OUTPUT_CONTRACT}

    @classmethod
    def from_json(cls, values: object, source: str | os.PathLike[str]) -> Self:
        """Return the spec from its JSON form.

        Args:
            values: from `to_json`.
            source: the file that they were read from, for messages.

        Raises:
            UserError: not a spec, another schema, or a contract that this version does not support.
        """
        if not isinstance(values, dict):
            raise UserError(f"{source}: model contract is {shown(values)}, expected an object; export the model again")
        data = dict(values)
        if data.get("schema") != SCHEMA_VERSION:
            raise UserError(
                f"{source}: model contract has schema {shown(data.get('schema'))}, this version reads "
                f"{SCHEMA_VERSION}; export the model again or install the matching version"
            )
        for side, expected in (("input", INPUT_CONTRACT), ("output", OUTPUT_CONTRACT)):
            if data.pop(side, None) != expected:
                raise UserError(
                    f"{source}: the model's {side} is not the one that this version knows: {expected}; export the "
                    "model again"
                )
        known = {f.name: f.type for f in fields(cls)}
        data = {**LATER_FIELDS, **data}
        if data.keys() != known.keys():
            wrong = shown(sorted(data.keys() ^ known.keys()))
            raise UserError(f"{source}: model contract lacks or adds the fields {wrong}; export the model again")
        for name, kind in known.items():
            expected_type = kind if isinstance(kind, type) else str if get_origin(kind) is Literal else dict
            if type(data[name]) is not expected_type:  # an int field takes no bool
                found = shown(data[name])
                raise UserError(f"{source}: model contract field {name} is {found}; export the model again")
        for name in ("config_sha256", "weights_sha256"):
            if not re.fullmatch("[0-9a-f]{64}", data[name]):
                found = shown(data[name])
                raise UserError(f"{source}: model contract has {name} {found}, expected 64 hexadecimal digits")
        try:
            typed_object(data["created_with"], "version", str)
        except FormatError as error:
            raise UserError(f"{source}: model contract: {error}; export the model again") from error
        try:
            return cls(**data)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], source: str | os.PathLike[str]) -> Self:
        """Return the spec from string metadata (safetensors header, ONNX metadata_props).

        Raises:
            UserError: there is no spec in them, so this project did not write the file.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise UserError(
                f"{source}: found no model contract, so this project did not write it; "
                "make the file with cgan-train or cgan-export"
            )
        if len(text) > MOST_CONTRACT:
            raise UserError(
                f"{source}: model contract has {len(text)} characters, expected at most {MOST_CONTRACT}; "
                "export the model again"
            )
        try:
            values = parse_json(text)
        except FormatError as error:
            raise UserError(f"{source}: model contract cannot be read: {error}; export the model again") from error
        return cls.from_json(values, source)

    def to_metadata(self) -> dict[str, str]:
        """Return the spec as string metadata."""
        return {METADATA_KEY: canonical_json(self.to_json())}


def generator_parameters(color_space: ColorSpaceName, width: int, blocks: int) -> int:
    """Return the number of parameters of `cgan.networks.Generator`, without building it.

    Args:
        color_space: colour space that it predicts.
        width: channels of its first convolution block.
        blocks: convolution blocks at each scale.
    """

    def layer(kernel: int, channels_in: int, channels_out: int) -> int:
        """Return the parameters of a convolution without bias and of the batch norm after it."""
        return kernel**2 * channels_in * channels_out + 2 * channels_out

    channels = [width * multiple for multiple in ENCODER_MULTIPLES]
    top, bottom, out = channels[0], channels[-1], COLOR_CHANNELS[color_space]
    count = layer(3, 1, top) + (blocks - 1) * layer(3, top, top) + blocks * layer(3, bottom, bottom)
    for small, large in pairwise(channels):
        count += layer(4, small, large) + blocks * layer(3, large, large)
        count += layer(4, 2 * large, large // 2) + blocks * layer(3, large // 2, large // 2)
    return count + 2 * top * out + out


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The file FILE.json beside a deployable file FILE: contract, digest and verification."""

    spec: ModelSpec
    file_sha256: str
    verification: dict[str, Any]
    """The comparison of the artefact with the trained model: method and figures."""
    build: dict[str, Any] = field(default_factory=dict)
    """Provenance and requirements of the file; for an engine flavour, TensorRT version, targets, profiles, flags."""

    def to_json(self) -> dict[str, Any]:
        """Return the sidecar as JSON values."""
        return {
            "spec": self.spec.to_json(),
            "file_sha256": self.file_sha256,
            "verification": self.verification,
            "build": self.build,
        }


def sidecar_path(artefact: Path) -> Path:
    """Return the path of an artefact's sidecar: model.onnx -> model.onnx.json."""
    return artefact.with_name(artefact.name + ".json")


def write_sidecar(artefact: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of `artefact`, whole or not at all."""
    with atomic_path(sidecar_path(artefact)) as path:
        path.write_text(json.dumps(sidecar.to_json(), indent=2) + "\n")


def read_sidecar(artefact: Path, digest: str | None = None) -> Sidecar | None:
    """Return the sidecar of an artefact, after a check of the artefact's digest.

    Args:
        artefact: the file beside the sidecar.
        digest: SHA-256 of the artefact's bytes; None to read the file.

    Returns:
        The sidecar; None if there is none, so that nothing is known of the file.

    Raises:
        ChangedFileError: the artefact has another digest than the sidecar names.
        UserError: the sidecar cannot be read.
    """
    path = sidecar_path(artefact)
    if not path.exists():
        return None
    try:
        data = read_json(path)
        build = typed_field(data, "build", dict, {})
        if build.get("checkpoint") is not None:
            CheckpointRecord.from_json(artefact, build["checkpoint"])
        sidecar = Sidecar(
            spec=ModelSpec.from_json(typed_field(data, "spec", dict), path),
            file_sha256=typed_field(data, "file_sha256", str),
            verification=typed_field(data, "verification", dict),
            build=build,
        )
    except (OSError, FormatError) as error:
        raise UserError(f"{path}: not a readable sidecar ({error}); export the model again") from error
    found = file_sha256(artefact) if digest is None else digest
    if found != sidecar.file_sha256:
        one, other = told_apart(found, sidecar.file_sha256)
        raise ChangedFileError(
            f"{artefact}: changed since its export: found sha256 {one}, its sidecar names {other}; export the model "
            "again"
        )
    return sidecar
