"""Pillow's JPEG decoder, made to notice data that are missing, which libjpeg paints gray without a word.

libjpeg takes data in pieces and stops where a piece ends. Each scan is given to it without the marker that follows, and
then a few bytes more than it may read ahead. Three things can come of this. It ends: it has all rows. It takes each
further byte at once, looking for a marker: the scan is whole. Or it lets bytes lie until they suffice for the next
block: the scan lacks data.
"""

from typing import Any

from PIL import Image, ImageFile

from cgan.jpeg_scans import ARITHMETIC, Layout, Scan, layout_of

JPEG_CODEC = "cgan_jpeg"
"""Name of `JpegDecoder` among Pillow's decoders."""

NO_END = "the end marker is missing; every pixel is there"

SURPLUS = "data are left over after its last pixels; it may be damaged"

END = b"\xff\xd9"

READ_AHEAD = b"\xff\x00" * 8
"""Eight bytes of ones, as many as libjpeg's bit buffer holds: it may want them beyond those that it decodes. No Huffman
code is of ones alone, so that missing blocks cannot be made of them."""

HOLE = bytes(32)
"""So many zero bytes in a row are looked into; by right they are only in pictures with flat areas."""

NOISE = bytes(128) + bytes((37 * i * i + 11 * i) % 251 for i in range(4096))
"""Continues arithmetic-coded data, from whose end zeros are left out by right, otherwise than the zeros that are
implied."""


class MissingPixelsError(OSError):
    """A file lacks some of its photo's pixels; the message is the reason."""


class JpegDecoder(ImageFile.PyDecoder):
    """Pillow's JPEG decoder, fed so that missing data show. Its first argument is a list to which notes are added."""

    _pulls_fd = True
    im: Any

    def decode(self, buffer: "Image.DecoderInput") -> tuple[int, int]:
        """Decode the file. Returns -1 and Pillow's error code; raises MissingPixelsError."""
        assert self.fd is not None
        data = self.fd.read()
        layout = layout_of(data)
        if layout.frame is None or not layout.scans:
            raise MissingPixelsError("the file ends before its pixels")
        if layout.lacks_restarts():
            raise MissingPixelsError("restart markers are missing, and the pixels between them")
        if layout.lacks_scans():
            raise MissingPixelsError("scans are missing: the picture is there in part, or coarsely")
        code = self._arithmetic(data, layout) if layout.frame.kind in ARITHMETIC else self._huffman(data, layout)
        if not layout.ended:
            self.args[0].append(NO_END)
        return -1, code

    def _huffman(self, data: bytes, layout: Layout) -> int:
        feed = _Feed(self._decoder(self.im), data)
        for number, scan in enumerate(layout.scans, 1):
            surplus = feed.ends_before(scan.end)
            feed.give_to(scan.end)
            if not feed.is_whole():
                count = len(layout.scans)
                raise MissingPixelsError(f"scan {number} of {count} ends early" if count > 1 else self._rows())
            if self._has_hole(data, scan):
                raise MissingPixelsError("zeros replace a part of its image data")
            if surplus and SURPLUS not in self.args[0]:
                self.args[0].append(SURPLUS)
        feed.give_to(len(data))
        feed.give(END)
        return feed.code or 0

    def _has_hole(self, data: bytes, scan: Scan) -> bool:
        """Whether zeros replace data of a scan. Blocks of zeros by right are flat, and the scan ends with its data."""
        zeros = data.find(HOLE, scan.begin, scan.end)
        if zeros < 0:
            return False
        end = next((place for place in scan.restarts if place > zeros), scan.end)
        if self._fed(data, zeros).is_whole():
            return False  # they follow the last block
        if not (scan.zeros_are_flat and self._fed(data, end).is_whole()):
            return True
        return self._fed(data, 0).ends_before(end)

    def _arithmetic(self, data: bytes, layout: Layout) -> int:
        """Such data are taken in one piece only, so that the picture is made twice, with two continuations."""
        end, other = layout.scans[-1].end, self._blank()
        code = int(self._decoder(self.im).decode(data[:end] + END)[1])
        self._decoder(other.im).decode(data[:end] + NOISE + END)
        if other.tobytes() != other._new(self.im).tobytes():
            raise MissingPixelsError("the file ends before all of its pixels")
        return code

    def _rows(self) -> str:
        box = self.im.getbbox()  # rows that are not decoded are zeros
        return f"the file ends after {(box[3] if box else 0) / self.state.ysize:.0%} of its rows"

    def _blank(self) -> Image.Image:
        return Image.new(self.mode, self.im.size)

    def _decoder(self, target: Any) -> Any:
        decoder = Image._getdecoder(self.mode, "jpeg", self.args[1:])
        decoder.setimage(target, self.state.extents())
        return decoder

    def _fed(self, data: bytes, end: int) -> "_Feed":
        """A decoder to a picture that is not kept, given the data as far as `end`."""
        feed = _Feed(self._decoder(self._blank().im), data)
        feed.give_to(end)
        return feed


class _Feed:
    """One of Pillow's decoders, and what it was given of a file."""

    def __init__(self, decoder: Any, data: bytes) -> None:
        self.decoder = decoder
        self.data = memoryview(data)
        self.given = 0
        self.waiting = b""
        """Bytes that it has not taken."""
        self.code: int | None = None
        """Pillow's error code, once it has ended."""

    def give_to(self, end: int) -> None:
        """Give it the file's bytes as far as `end`."""
        self.give(self.data[self.given : end])
        self.given = end

    def give(self, piece: bytes | memoryview) -> None:
        """Give it some bytes more."""
        if self.code is not None:
            return
        piece = self.waiting + bytes(piece) if self.waiting else piece
        taken, code = self.decoder.decode(piece)
        if taken < 0:
            self.waiting, self.code = b"", code
        else:
            self.waiting = bytes(piece[taken:])

    def takes(self, byte: bytes | memoryview) -> bool:
        """Whether it takes a byte at once, and all before it."""
        self.give(byte)
        return not self.waiting

    def ends_before(self, end: int) -> bool:
        """Whether its scan ends two bytes or more before `end`; it is given no more than the file's bytes to there."""
        # A byte of 0xFF is not taken alone.
        probed = next((i for i in range(end - 4, end - 12, -1) if 0xFF not in self.data[i : i + 2]), None)
        if probed is None or probed <= self.given:
            return False
        self.give_to(probed)
        taken = [self.takes(self.data[i : i + 1]) for i in (probed, probed + 1)]
        self.given += len(taken)
        return all(taken)

    def is_whole(self) -> bool:
        """Whether it wants no more of the scan that ends here."""
        self.give(READ_AHEAD)
        # The first of two may be the last one that it was waiting for.
        return self.takes(b"\0") and self.takes(b"\0")


Image.register_decoder(JPEG_CODEC, JpegDecoder)
