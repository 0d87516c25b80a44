"""ONNX files that hold the whole model. The package onnx is not needed: a base installation lacks it.

ONNX allows tensors in external files, and engines read these unchecked, although a model's digest covers one file. A
model with external data is refused, and engines are given the bytes that were checked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cgan.errors import UserError

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

_OP_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 4, 13, 14
"""Field numbers: the first of a node, the others of a tensor. The default location, 0, is the file itself."""

_MOST_FIELDS = 2**29
"""Field numbers are below this."""

_ENGINE_NODES = frozenset({b"EPContext"})
"""ONNX Runtime's node types of compiled engines, which may be in another file."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""


def read_onnx(path: Path) -> bytes:
    """Return the bytes of an ONNX file, checked to hold the whole model.

    Raises:
        UserError: it cannot be read, or `check_self_contained` refuses it.
    """
    try:
        content = path.read_bytes()
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
    try:
        found = _outside(content)
    except (IndexError, ValueError) as error:
        raise UserError(f"{path}: not a readable ONNX file ({error}); export it again with cgan-export") from error
    if found:
        raise UserError(
            f"{path}: found {found}, expected a file that holds the whole model, because a digest covers one file; "
            "make it with cgan-export, or save it as one file with onnx.save(onnx.load(OLD), NEW)"
        )


def _outside(content: bytes) -> str | None:
    """Return a description of the first part of a model that is outside its file; None if there is none."""
    graphs = 0
    messages = [("model", 0, len(content))]
    while messages:
        kind, start, end = messages.pop()
        children = _MESSAGES.get(kind, {})
        for field in _fields(content, start, end):
            if field.number in children and field.wire == _BYTES:
                messages.append((children[field.number], field.start, field.end))
                graphs += children[field.number] == "graph"
            elif kind == "tensor" and (
                field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and field.value)
            ):
                return "a tensor whose data lie in another file"
            elif kind == "node" and field.number == _OP_TYPE and content[field.start : field.end] in _ENGINE_NODES:
                return "an engine in place of a graph, which may lie in another file"
    if not graphs:
        raise ValueError("it has no graph")
    return None


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
            raise ValueError("it is truncated or damaged")
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
