"""Arrays of bytes in .npy files. A file is known by its exact header, so nothing in it is parsed."""

import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgan.readers import FormatError, read_limited


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a .npy file of uint8; its length is the same for every first length of a shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def read_npy(path: Path, shape: tuple[int, ...], limit: int) -> NDArray[np.uint8]:
    """Return the array of a .npy file: N, at least 1, x `shape`, uint8.

    Args:
        path: the file.
        shape: of each item.
        limit: largest size of the file in bytes.

    Raises:
        FormatError: it holds something else, is no regular file or larger than the limit.
        OSError: it cannot be read.
    """
    content = read_limited(path, limit)
    length = len(npy_header((1, *shape)))
    count = (len(content) - length) // math.prod(shape)
    if count < 1 or len(content) != length + count * math.prod(shape):
        found = f"{len(content):,} bytes"
    elif content[:length] != npy_header((count, *shape)):
        found = "another header"
    else:
        return np.frombuffer(content, np.uint8, offset=length).reshape(count, *shape)
    raise FormatError(f"found {found}, expected those of some photos of {' x '.join(map(str, shape))} uint8")
