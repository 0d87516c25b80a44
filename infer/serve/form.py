"""The photo in a multipart form. Starlette's own parser writes large parts to temporary files."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from cgan.photo_limits import check_time
from cgan.text import shown

FIELD = "photo"
"""Name of the only part of a form."""

PIECE = 2**18
"""Bytes that are parsed between two checks of the time."""


class FormError(Exception):
    """The body is no form with one photo; the message is the reason."""


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary of a multipart form, None for other types.

    Raises:
        FormError: the type names no boundary, or one that is too long.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, section 5.1.1
        raise FormError(f"found a boundary of {len(boundary)} characters, expected 1 to 70; send a proper form")
    return boundary


class _Form:
    """Callbacks of the parser, which collect the only part."""

    def __init__(self) -> None:
        self.photo = bytearray()
        self.names: list[str] = []
        self.ended = False
        self._field, self._value = bytearray(), bytearray()

    def part_begins(self) -> None:
        if self.names:
            raise FormError(f"found more than one part, expected {FIELD} alone; options go into the query")
        self.names.append("")

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_ends(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self.names[-1] = options.get(b"name", b"").decode("utf-8", "replace")
        self._field, self._value = bytearray(), bytearray()

    def headers_end(self) -> None:
        if self.names[-1] != FIELD:
            raise FormError(
                f"found a part with the name {shown(self.names[-1])}, expected {FIELD}; curl: -F photo=@FILE"
            )

    def data(self, data: bytes, start: int, end: int) -> None:
        self.photo += data[start:end]

    def ends(self) -> None:
        self.ended = True


def photo_in_form(body: bytearray, boundary: bytes) -> bytes:
    """Return the content of the part `photo`, the only one of a form.

    Args:
        body: the whole form.
        boundary: of `boundary_of`.

    Raises:
        FormError: it is no such form.
        LimitError: the time of the photo is over.
    """
    form = _Form()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.part_begins,
            "on_header_field": form.header_field,
            "on_header_value": form.header_value,
            "on_header_end": form.header_ends,
            "on_headers_finished": form.headers_end,
            "on_part_data": form.data,
            "on_end": form.ends,
        },
    )
    try:
        for start in range(0, len(body), PIECE):
            check_time()
            parser.write(bytes(body[start : start + PIECE]))
    except FormParserError as error:
        raise FormError(f"found a damaged form ({error}); send it as curl -F does") from error
    if not form.ended:
        raise FormError("found a form without its end, expected a photo in it; send all of it")
    if not form.names:
        raise FormError(f"found a form without a part, expected {FIELD}; curl: -F {FIELD}=@FILE")
    return bytes(form.photo)
