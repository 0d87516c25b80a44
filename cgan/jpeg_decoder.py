"""Pillow's JPEG decoder with detection of missing data, which libjpeg paints gray silently.

libjpeg warns of missing data, and simplejpeg raises its warnings as errors. So one pass proves that most files are
complete. The others are decoded a second time, by Pillow's decoder, which finds out what they lack.

libjpeg decodes data in pieces and pauses at the end of a piece. Each scan is fed without the marker that follows it,
then with padding: a few bytes more than libjpeg reads ahead. One of three things happens.

- libjpeg ends: it has all rows.
- It consumes each further byte at once, in search of a marker: the scan is complete.
- It leaves bytes until they are enough for the next block: the scan lacks data.

Padding can also decode as a block or two. A scan that was unfinished at the end of its data is therefore decoded a
second time with inverted padding. If the scan lacks a single bit, the two pictures differ.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFile

from cgan.jpeg_scans import ARITHMETIC, Layout, Scan, has_stray_restarts, layout_of
from cgan.photo_limits import check_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

JPEG_CODEC = "cgan_jpeg"
"""Name under which `JpegDecoder` is registered with Pillow."""

NO_END = "the end marker is missing; every pixel is there"

STRAY_RESTARTS = "restart markers are out of place, and pixels before them are missing"

SURPLUS = "data are left over after its last pixels; it may be damaged"

MAY_HAVE_HOLE = "zeros may replace a part of its image data"

END = b"\xff\xd9"

READ_AHEAD = bytes.fromhex("b2 4d 96 69 a5 5a d1 2e")
"""Padding of the length of libjpeg's bit buffer, which libjpeg may fill before it decodes."""

OPPOSITE = bytes(255 - byte for byte in READ_AHEAD)
"""Inverted padding: the first bit that a scan lacks gives another Huffman code or value than with READ_AHEAD."""

HOLE = bytes(32)
"""The shortest run of zero bytes that is examined. In an intact file it encodes a flat area."""

ONES = 0.4
"""Least share of ones in bits that look random."""

LEVELS = 8
"""Brightness levels in one bin: in dark areas, blocks of equal coefficients have slightly different means."""

SPACES = {"L": "GRAY", "RGB": "RGB"}
"""Modes that simplejpeg decodes like Pillow, and its names for them."""

ONE_PASS_WORK = 2**28
"""Largest product of pixels and scans that is decoded in one call, which no time limit interrupts: some seconds."""

NOISE = bytes(8) + bytes((37 * i * i + 11 * i) % 251 for i in range(4096))
"""Padding of arithmetic-coded data. An encoder may leave zeros out at the end, and decoders assume them; this padding
differs from zeros."""


READ_WHOLE = 2**16
"""Bytes up to which a progressive file is decoded whole: that is faster than a search for its scans."""

PADDING_COUNT = 512
"""Repetitions of the padding for `decode_whole`: 4,096 bytes."""


class MissingPixelsError(OSError):
    """A file lacks some of its photo's pixels; the message says why."""


class JpegDecoder(ImageFile.PyDecoder):
    """Pillow's JPEG decoder with detection of missing data. Its first argument is a list that receives notes."""

    _pulls_fd = True
    im: Any

    def decode(self, buffer: "Image.DecoderInput") -> tuple[int, int]:
        """Decode the file. Returns -1 and Pillow's error code; raises MissingPixelsError and LimitError."""
        assert self.fd is not None
        data = self.fd.read()
        layout = layout_of(data)
        if layout.frame is None or not layout.scans:
            raise MissingPixelsError("the file ends before its pixels")
        if layout.lacks_restarts():
            raise MissingPixelsError("restart markers are missing, and the pixels between them")
        if layout.lacks_scans():
            raise MissingPixelsError("scans are missing: the picture is incomplete or coarse")
        if self._decoded_at_once(data, layout):
            return -1, 0
        if has_stray_restarts(data, layout):
            raise MissingPixelsError(STRAY_RESTARTS)
        code = self._arithmetic(data, layout) if layout.frame.kind in ARITHMETIC else self._huffman(data, layout)
        if not layout.ended:
            self.args[0].append(NO_END)
        return -1, code

    def _decoded_at_once(self, data: bytes, layout: Layout) -> bool:
        """Decode in one pass, if that proves that no pixels are missing."""
        assert layout.frame is not None
        if self.mode not in SPACES or self.im.size != (layout.frame.width, layout.frame.height):
            return False
        pixels = _at_once(data, layout, SPACES[self.mode])
        if pixels is not None:
            self.set_as_raw(pixels.data)  # type: ignore[arg-type]  # any buffer will do
        return pixels is not None

    def _huffman(self, data: bytes, layout: Layout) -> int:
        feed = _Feed(self._decoder(self.im), data)
        doubtful: dict[int, bytes] = {}
        assert layout.frame is not None
        for number, scan in enumerate(layout.scans, 1):
            surplus = feed.ends_before(scan.end)
            if not feed.is_finished_at(scan.end):
                doubtful[scan.end] = OPPOSITE
            if not feed.is_whole():
                count = len(layout.scans)
                raise MissingPixelsError(f"scan {number} of {count} ends early" if count > 1 else self._rows())
            if self._has_hole(data, scan, doubtful):
                raise MissingPixelsError("zeros replace a part of its image data")
            if surplus and SURPLUS not in self.args[0]:
                self.args[0].append(SURPLUS)
        feed.give_to(len(data))
        feed.give(END)
        if doubtful and self._depends_on_what_follows(data, doubtful):
            raise MissingPixelsError("the file ends before all of its pixels")
        if any(self._may_have_hole(data, layout, scan) for scan in layout.scans):
            self.args[0].append(MAY_HAVE_HOLE)
        return feed.code or 0

    def _depends_on_what_follows(self, data: bytes, doubtful: dict[int, bytes]) -> bool:
        """Decode again with other padding at the ends of some scans; return True if the picture differs."""
        places = sorted(doubtful)
        pieces = [data[begin:end] + doubtful[end] for begin, end in zip([0, *places], places, strict=False)]
        other = self._blank()
        self._decoder(other.im).decode(b"".join(pieces) + data[places[-1] :] + END)
        return other.tobytes() != other._new(self.im).tobytes()

    def _has_hole(self, data: bytes, scan: Scan, doubtful: dict[int, bytes]) -> bool:
        """Return True if zeros replace data of a scan. In an intact file they are flat blocks at any place but the end.

        If the scan seems to end before the zeros, their position is added to `doubtful`.
        """
        zeros = data.find(HOLE, scan.begin, scan.end)
        if zeros < 0:
            return False
        end = next((place for place in scan.restarts if place > zeros), scan.end)
        if self._fed(data, zeros).is_whole():
            doubtful[zeros] = READ_AHEAD  # READ_AHEAD begins with a one
            return False  # the zeros follow the last block
        if _end_of_zeros(data, zeros, end) - zeros > scan.longest_zeros or not self._fed(data, end).is_whole():
            return True
        return self._fed(data, 0).ends_before(end)

    def _may_have_hole(self, data: bytes, layout: Layout, scan: Scan) -> bool:
        """Return True if a scan that refines block means has zeros where the means vary and its other bits look random.

        In an intact file such zeros are in mostly flat areas, or anywhere in a photo that was a coarser JPEG before.
        """
        frame = layout.frame
        assert frame is not None
        zeros = data.find(HOLE, scan.begin, scan.end) if scan.refines_means else -1
        if zeros < 0 or next(iter(frame.sampling)) not in scan.components:
            return False
        end = _end_of_zeros(data, zeros, scan.end)
        rest = data[scan.begin : zeros] + data[end : scan.end]
        if len(rest) < len(HOLE) // 2 or int.from_bytes(rest).bit_count() < ONES * 8 * len(rest):
            return False
        units = scan.units_at(frame, data, zeros, end)
        scale = -(-frame.width // self.im.size[0])
        width, height = (max(side // scale, 1) for side in frame.unit_size(scan.components))
        means = self._blank()._new(self.im).convert("L").reduce((width, height)).tobytes()
        levels = Counter(mean // LEVELS for mean in means[units.start : units.stop])
        return bool(levels) and max(levels.values()) < levels.total() / 2

    def _arithmetic(self, data: bytes, layout: Layout) -> int:
        """Decode arithmetic-coded data twice, with different padding: libjpeg takes such data only in one piece."""
        end, other = layout.scans[-1].end, self._blank()
        code = int(self._decoder(self.im).decode(data[:end] + END)[1])
        self._decoder(other.im).decode(data[:end] + NOISE + END)
        if other.tobytes() != other._new(self.im).tobytes():
            raise MissingPixelsError("the file ends before all of its pixels")
        return code

    def _rows(self) -> str:
        box = self.im.getbbox()  # rows that were not decoded are zero
        return f"the file ends after {(box[3] if box else 0) / self.state.ysize:.0%} of its rows"

    def _blank(self) -> Image.Image:
        return Image.new(self.mode, self.im.size)

    def _decoder(self, target: Any) -> Any:
        decoder = Image._getdecoder(self.mode, "jpeg", self.args[1:])
        decoder.setimage(target, self.state.extents())
        return decoder

    def _fed(self, data: bytes, end: int) -> "_Feed":
        """Return a decoder of a scratch picture that was fed the data up to `end`."""
        feed = _Feed(self._decoder(self._blank().im), data)
        feed.give_to(end)
        return feed


def gray_at_once(data: bytes) -> "Array | None":
    """Return the luma of a JPEG that is not CMYK, H x W x 1 uint8, if one pass proves that no pixels are missing.

    None means that it has to be decoded by `JpegDecoder`, which says what is missing, if anything is.
    """
    layout = layout_of(data)
    return None if layout.is_incomplete() else _at_once(data, layout, SPACES["L"])


def _at_once(data: bytes, layout: Layout, space: str) -> "Array | None":
    """Decode in one pass; return None if libjpeg warns, or if a pass without warnings proves nothing."""
    import simplejpeg

    frame = layout.frame
    assert frame is not None
    if frame.kind in ARITHMETIC or len(layout.scans) * frame.width * frame.height > ONE_PASS_WORK:
        return None
    if any(data.find(HOLE, scan.begin, scan.end) >= 0 for scan in layout.scans):
        return None  # zeros are valid codes
    check_time()
    try:
        pixels: Array = simplejpeg.decode_jpeg(data, space, strict=True)
    except ValueError:
        return None
    return pixels


def decode_whole(data: bytes, decode: Callable[[bytes], "Array"], notes: list[str]) -> "Array":
    """Decode a JPEG with a library that fills in missing data silently.

    Args:
        data: the file.
        decode: function of that library.
        notes: list to which a note is appended if the end marker is missing.

    Raises:
        MissingPixelsError: the file lacks data: what follows its last scan changes the picture.
    """
    layout = layout_of(data)
    if layout.is_incomplete():
        raise MissingPixelsError("scans or restart markers are missing, and the pixels of them")
    if has_stray_restarts(data, layout):
        raise MissingPixelsError(STRAY_RESTARTS)
    end = layout.scans[-1].end
    values = decode(data[:end] + PADDING_COUNT * READ_AHEAD + END)
    check_time()
    if (values != decode(data[:end] + PADDING_COUNT * OPPOSITE + END)).any():
        raise MissingPixelsError("the file ends before all of its pixels")
    if not layout.ended:
        notes.append(NO_END)
    return values


def decode_reduced(data: bytes, size: tuple[int, int], side: int, progressive: bool) -> Image.Image:
    """Return a JPEG in RGB at a half, a quarter or an eighth of its size, which leaves most of the work out.

    Args:
        data: the file, of which no pixels are missing.
        size: width and height.
        side: least side of the result in pixels, unless the photo is smaller.
        progressive: whether it is; in a large file, its first scan with the means of all blocks is enough.
    """
    if progressive and len(data) > READ_WHOLE:
        scan = layout_of(data).scans[0]
        data = data[: scan.end] if len(scan.components) > 1 else data
    scale = next(scale for scale in (8, 4, 2, 1) if scale == 1 or min(size) >= scale * side)
    image = Image.new("RGB", (-(-size[0] // scale), -(-size[1] // scale)))
    decoder: Any = Image._getdecoder("RGB", "jpeg", ("RGB", ""), (scale, 0))
    decoder.setimage(image.im, (0, 0, *image.size))
    decoder.decode(data + END)
    return image


def _end_of_zeros(data: bytes, begin: int, end: int) -> int:
    return end - len(data[begin:end].lstrip(b"\0"))


class _Feed:
    """One of Pillow's decoders, and the bytes of a file that it was fed."""

    def __init__(self, decoder: Any, data: bytes) -> None:
        self.decoder = decoder
        self.data = memoryview(data)
        self.given = 0
        self.waiting = b""
        """Bytes that the decoder has not consumed."""
        self.code: int | None = None
        """Pillow's error code after the decoder has ended; None before."""

    def give_to(self, end: int) -> None:
        """Feed the file's bytes up to `end`."""
        self.give(self.data[self.given : end])
        self.given = end

    def give(self, piece: bytes | memoryview) -> None:
        """Feed bytes to the decoder."""
        if self.code is not None:
            return
        check_time()
        piece = self.waiting + bytes(piece) if self.waiting else piece
        taken, code = self.decoder.decode(piece)
        if taken < 0:
            self.waiting, self.code = b"", code
        else:
            self.waiting = bytes(piece[taken:])

    def takes(self, byte: bytes | memoryview) -> bool:
        """Feed a byte; return True if the decoder consumes it at once, and all bytes before it."""
        self.give(byte)
        return not self.waiting

    def ends_before(self, end: int) -> bool:
        """Feed the bytes up to `end`; return True if the scan ends two bytes or more before it."""
        # The decoder does not consume a byte of 0xFF alone.
        probed = next((i for i in range(end - 4, end - 12, -1) if 0xFF not in self.data[i : i + 2]), None)
        if probed is None or probed <= self.given:
            return False
        self.give_to(probed)
        taken = [self.takes(self.data[i : i + 1]) for i in (probed, probed + 1)]
        self.given += len(taken)
        return all(taken)

    def is_finished_at(self, end: int) -> bool:
        """Feed the bytes up to `end` and a zero byte; return True if the decoder consumes both: the scan is over."""
        last = end - 2 if self.data[end - 2] == 0xFF else end - 1  # a stuffed byte is not consumed alone
        if last >= self.given:
            self.give_to(last)
        rest, self.given = self.data[self.given : end], end
        return self.takes(rest) and self.takes(b"\0")

    def is_whole(self) -> bool:
        """Feed padding at the end of a scan; return True if the scan is complete."""
        self.give(READ_AHEAD)
        # The first of the two may complete a block that the decoder was waiting for.
        return self.takes(b"\0") and self.takes(b"\0")


Image.register_decoder(JPEG_CODEC, JpegDecoder)
