"""An ONNX file as one string of bytes that is the whole model. Needs no package, since a base installation has no onnx.

ONNX lets tensors lie in other files, and engines read those wherever they find them. Nothing vouches for them: the
digest of a model covers one file. So such a model is refused, and engines are given the bytes that were checked.
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
"""Fields of onnx.proto by number that lead to tensors, and the kind of message in them."""

_OP_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 4, 13, 14
"""Field numbers, of a node the first, of a tensor the others. A location of 0, the default, is the file itself."""

_MOST_FIELDS = 2**29
"""Field numbers end below."""

_ENGINE_NODES = frozenset({b"EPContext"})
"""Types of nodes of ONNX Runtime that stand for an engine, which may lie in another file."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""


def read_onnx(path: Path) -> bytes:
    """Read an ONNX file, once it is one that holds all of its model.

    Raises:
        UserError: it cannot be read, or see `check_self_contained`.
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
    """Refuse a model of which a part lies outside its file.

    Args:
        content: of the file.
        path: its name, for messages.

    Raises:
        UserError: a tensor or an engine lies in another file, or the content is no ONNX model.
    """
    try:
        found = _outside(content)
    except (IndexError, ValueError) as error:
        raise UserError(f"{path}: not a readable ONNX file ({error}); export it again with cgan-export") from error
    if found:
        raise UserError(
            f"{path}: found {found}, expected a file that holds the whole model, since nothing vouches for others; "
            "make it with cgan-export, or save it as one file with onnx.save(onnx.load(OLD), NEW)"
        )


def _outside(content: bytes) -> str | None:
    """The first part of a model that lies outside its file, for people; None where there is none."""
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
    """Of a varint."""
    start: int
    end: int
    """Where the content of a field of bytes lies."""


def _fields(content: bytes, start: int, end: int) -> Iterator[_Field]:
    """The fields of one protobuf message.

    Raises:
        ValueError: it is none.
        IndexError: it ends too early.
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
            raise ValueError("it is cut off or damaged")
        yield _Field(number, wire, value, position, after)
        position = after


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("found a number of too many bytes")
