"""ONNX files, held against their contracts. The package onnx is not needed: a base installation lacks it.

ONNX allows tensors in external files, and engines read these unchecked, although a model's digest covers one file. A
model with external data is refused, and engines are given the bytes that were checked. Nothing is allocated by what a
file claims: a graph of another input, output or number of weights than its contract's is refused before it is loaded.
"""

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from cgan.errors import UserError
from cgan.readers import FormatError, read_limited
from cgan.spec import INPUT_CONTRACT, OUTPUT_CONTRACT, ModelSpec, Precision

MOST_BYTES = 2**31 - 1
"""Largest ONNX file: protobuf reads no larger message."""

WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of most weights in a file of each precision."""

OTHER_PARAMETERS = 0.1
"""Share of a model's parameters by which its convolution kernels may differ from them: batch norm is at most 3% and is
folded into the biases; the kernel of the blur and constants of the colour space are no parameters."""

_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Fields of onnx.proto that lead to tensors: for each type of message, the field number and the type in the field."""

_METADATA, _INPUT, _OUTPUT, _OP_TYPE = 14, 11, 12, 4
"""Field numbers: of a model, of a graph twice, of a node."""

_DIMS, _EXTERNAL_DATA, _DATA_LOCATION = 1, 13, 14
"""Field numbers of a tensor. The default location, 0, is the file itself."""

_FLOAT = 1
"""Element type float32."""

_MOST_FIELDS = 2**29
"""Field numbers are below this."""

_ENGINE_NODES = frozenset({b"EPContext"})
"""ONNX Runtime's node types of compiled engines, which may be in another file."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""


def read_onnx(path: Path) -> bytes:
    """Return the bytes of an ONNX file, checked to hold the whole model.

    Raises:
        UserError: it cannot be read, has more than MOST_BYTES, or `check_self_contained` refuses it.
    """
    try:
        content = read_limited(path, MOST_BYTES)
    except FormatError as error:
        raise UserError(f"{path}: {error}; name an ONNX file") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); name another file, or export it again with cgan-export"
        ) from error
    check_self_contained(content, path)
    return content


def check_self_contained(content: bytes, path: Path) -> None:
    """Check that a model is in one file.

    Args:
        content: bytes of the file.
        path: its name, for messages.

    Raises:
        UserError: a tensor or an engine is in another file, or the content is not an ONNX model.
    """
    _whole(content, path)


def read_contract(content: bytes, path: Path) -> ModelSpec:
    """Return the contract in an ONNX file, after a check that the file holds the model of this contract.

    Args:
        content: bytes of the file.
        path: its name, for messages.

    Raises:
        UserError: the content is no self-contained ONNX model or has no valid contract; or its input, its output or
            the number of its weights is not the contract's.
    """
    found = _whole(content, path)
    spec = ModelSpec.from_metadata(found.metadata, path)
    side: int | None = None if spec.dynamic_size else spec.render_size
    for tensors, contract, height in ((found.inputs, INPUT_CONTRACT, side), (found.outputs, OUTPUT_CONTRACT, None)):
        if len(tensors) != 1 or not tensors[0].fulfils(contract, height):
            sides = "H x W" if height is None else f"{height} x {height}"
            which = "inputs" if tensors is found.inputs else "outputs"
            shown = "; ".join(map(str, tensors[:3])) or "none"
            raise UserError(
                f"{path}: found as {which} {shown}, expected by its contract {contract['name']}, float32 N x "
                f"{_channels(contract)} x {sides}; export it again"
            )
    if abs(found.kernels - spec.parameters) > OTHER_PARAMETERS * spec.parameters:
        raise UserError(
            f"{path}: found convolutions of {found.kernels} weights, expected about the {spec.parameters} of its "
            "contract; export it again"
        )
    if found.kernels * WEIGHT_BYTES[spec.precision] > len(content):
        raise UserError(
            f"{path}: found {len(content)} bytes, too few for {found.kernels} weights in {spec.precision}; "
            "export it again"
        )
    return spec


def _whole(content: bytes, path: Path) -> "_Contents":
    try:
        found = _contents(content)
    except (IndexError, ValueError) as error:
        raise UserError(
            f"{path}: not an ONNX file, or a damaged one ({error}); copy it, or export it again with cgan-export"
        ) from error
    if found.outside:
        raise UserError(
            f"{path}: found {found.outside}, expected a file that holds the whole model, because a digest covers one "
            "file; make it with cgan-export, or save it as one file with onnx.save(onnx.load(OLD), NEW)"
        )
    return found


def _channels(contract: dict[str, Any]) -> int:
    """Return the channels in INPUT_CONTRACT or OUTPUT_CONTRACT."""
    channels: int = contract["shape"][1]
    return channels


class _Value(NamedTuple):
    """An input or output of a graph."""

    name: str
    element_type: int
    shape: tuple[int | str, ...] | None
    """Symbolic dimensions by their names; None if unknown."""

    def fulfils(self, contract: dict[str, Any], side: int | None) -> bool:
        """Return True for the name and channels of a contract, any batch size, and height and width of `side`.

        Args:
            contract: INPUT_CONTRACT or OUTPUT_CONTRACT.
            side: None for symbolic sizes of an input, and any size of an output.
        """
        if self.name != contract["name"] or self.element_type != _FLOAT or len(self.shape or ()) != 4:
            return False
        assert self.shape is not None
        batch, channels, *sides = self.shape
        fixed = [isinstance(one, int) for one in sides]
        fits = sides == [side, side] if side else contract is OUTPUT_CONTRACT or not any(fixed)
        return isinstance(batch, str) and channels == _channels(contract) and fits

    def __str__(self) -> str:
        shape = "unknown shape" if self.shape is None else reprlib.repr(self.shape)
        return f"{reprlib.repr(self.name)}, type {self.element_type}, {shape}"


@dataclass
class _Contents:
    """Facts about a model."""

    graphs: int = 0
    outside: str | None = None
    """Description of a part that is outside the file; None if there is none."""
    metadata: dict[str, str] = field(default_factory=dict)
    inputs: list[_Value] = field(default_factory=list)
    outputs: list[_Value] = field(default_factory=list)
    """Of the main graph."""
    kernels: int = 0
    """Values in all tensors of four dimensions."""


def _contents(content: bytes) -> _Contents:
    """Return the facts about a model.

    Raises:
        ValueError: the content is not an ONNX model.
        IndexError: it is truncated.
    """
    found = _Contents()
    messages = [("model", 0, len(content), True)]
    while messages:
        kind, start, end, main = messages.pop()
        children = _MESSAGES.get(kind, {})
        dims: list[int] = []
        for part in _fields(content, start, end):
            if part.number in children and part.wire == _BYTES:
                child = children[part.number]
                messages.append((child, part.start, part.end, main and kind == "model" and part.number == 7))
                found.graphs += child == "graph"
            elif kind == "tensor":
                if part.number == _DIMS:
                    dims += _integers(content, part)
                if part.number == _EXTERNAL_DATA or (part.number == _DATA_LOCATION and part.value):
                    found.outside = "a tensor whose data lie in another file"
            elif kind == "node" and part.number == _OP_TYPE and content[part.start : part.end] in _ENGINE_NODES:
                found.outside = "an engine in place of a graph, which may lie in another file"
            elif kind == "model" and part.number == _METADATA and part.wire == _BYTES:
                entry = dict(_texts(content, part))
                found.metadata[entry.get(1, "")] = entry.get(2, "")
            elif kind == "graph" and main and part.number in (_INPUT, _OUTPUT) and part.wire == _BYTES:
                (found.inputs if part.number == _INPUT else found.outputs).append(_value(content, part))
        if len(dims) == 4:
            found.kernels += prod(dims)
    if not found.graphs:
        raise ValueError("it has no graph")
    return found


def _integers(content: bytes, part: "_Field") -> Iterator[int]:
    """Yield the integers of a repeated field, packed or not."""
    if part.wire == _VARINT:
        yield part.value
    position = part.start
    while part.wire == _BYTES and position < part.end:
        value, position = _varint(content, position)
        yield value


def _texts(content: bytes, part: "_Field") -> Iterator[tuple[int, str]]:
    """Yield number and text of each text field of a message."""
    for one in _fields(content, part.start, part.end):
        if one.wire == _BYTES:
            yield one.number, content[one.start : one.end].decode(errors="replace")


def _value(content: bytes, part: "_Field") -> _Value:
    """Return a ValueInfoProto: name 1, type 2, its tensor 1, of that element type 1, shape 2, dimensions 1."""
    name = dict(_texts(content, part)).get(1, "")
    element_type, shape = 0, None
    for tensor in _inside(content, part, 2, 1):
        for one in _fields(content, tensor.start, tensor.end):
            element_type = one.value if one.number == 1 else element_type
        for found in _inside(content, tensor, 2):
            shape = tuple(_dimension(content, one) for one in _inside(content, found, 1))
    return _Value(name, element_type, shape)


def _dimension(content: bytes, part: "_Field") -> int | str:
    """Return the length of a dimension, or its name; empty where it has neither."""
    for one in _fields(content, part.start, part.end):
        if one.number == 1 and one.wire == _VARINT:
            return one.value
        if one.number == 2 and one.wire == _BYTES:
            return content[one.start : one.end].decode(errors="replace")
    return ""


def _inside(content: bytes, part: "_Field", *numbers: int) -> Iterator["_Field"]:
    """Yield the messages in a message that a path of field numbers leads to."""
    for one in _fields(content, part.start, part.end):
        if one.number == numbers[0] and one.wire == _BYTES:
            yield from _inside(content, one, *numbers[1:]) if numbers[1:] else (one,)


class _Field(NamedTuple):
    number: int
    wire: int
    value: int
    """Value of a varint; 0 for other wire types."""
    start: int
    end: int
    """Position of the content."""


def _fields(content: bytes, start: int, end: int) -> Iterator[_Field]:
    """Yield the fields of one protobuf message.

    Raises:
        ValueError: it is not a protobuf message.
        IndexError: it is truncated.
    """
    position = start
    while position < end:
        key, position = _varint(content, position)
        number, wire, value = key >> 3, key & 7, 0
        if wire == _VARINT:
            value, after = _varint(content, position)
        elif wire == _BYTES:
            length, position = _varint(content, position)
            after = position + length
        elif wire in (_FIXED64, _FIXED32):
            after = position + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError(f"found wire type {wire}")
        if not 0 < number < _MOST_FIELDS or after > end:
            raise ValueError("found a field beyond its message")
        yield _Field(number, wire, value, position, after)
        position = after


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return a varint and the position after it."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("found a varint of too many bytes")
