"""Scans of a JPEG: their positions and contents, read from its markers (ITU-T T.81, table B.1)."""

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from cgan.photo_limits import LimitError, check_time

RST0 = 0xD0
DHT, EOI, SOS, DQT, DRI = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD
FRAMES = frozenset(range(0xC0, 0xD0)) - {DHT, 0xC8, 0xCC}  # JPG and DAC
LOSSLESS = frozenset({0xC3, 0xCB})
PROGRESSIVE = frozenset({0xC2, 0xCA})
ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB})
BARE = frozenset({0x01, 0xD8})
"""TEM and SOI, which have no segment."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker that ends entropy-coded data; other bytes of 0xFF are fill bytes before it, stuffed or restart markers. The
pattern leaves fill bytes out, because a search for any number of them takes the square of their number."""

RESTART = re.compile(rb"\xff[\xd0-\xd7]")

COEFFICIENTS = 64

MAX_SCANS = 200
"""Largest number of scans. libjpeg passes over the whole picture in each one; encoders write about ten, and one scan
for each bit of each band that they use comes to less than a hundred."""

MEANS = 2048
"""Range of the dequantised DC coefficient, which is eight times a block's mean."""

AC_TABLES, SIXTEEN_ZEROS = 0x10, 0xF0
"""Class of the Huffman tables of AC coefficients, and their symbol for 16 zero coefficients."""


@dataclass(frozen=True)
class Frame:
    """A frame header: size and components of a picture."""

    kind: int
    """Its marker byte."""
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]
    """Horizontal and vertical sampling factors of each component."""
    steps: dict[int, int]
    """Index of each component's quantisation table."""

    def units(self, components: tuple[int, ...]) -> int:
        """Return the number of minimum coded units in a scan of some components (T.81, A.2)."""
        block = 1 if self.kind in LOSSLESS else 8
        most_h, most_v = self._most()
        if len(components) > 1:
            return -(-self.width // (block * most_h)) * -(-self.height // (block * most_v))
        h, v = self.sampling[components[0]]  # its own blocks, without the padding blocks of the last unit
        return -(-self.width * h // (block * most_h)) * -(-self.height * v // (block * most_v))

    def blocks(self, components: tuple[int, ...]) -> dict[int, int]:
        """Return the blocks of each component in a minimum coded unit of a scan."""
        if len(components) == 1:
            return {components[0]: 1}
        return {component: math.prod(self.sampling[component]) for component in components}

    def unit_size(self, components: tuple[int, ...]) -> tuple[int, int]:
        """Return width and height in pixels of a minimum coded unit of a scan."""
        most_h, most_v = self._most()
        h, v = self.sampling[components[0]] if len(components) == 1 else (1, 1)
        return 8 * most_h // h, 8 * most_v // v

    def _most(self) -> tuple[int, int]:
        return max(h for h, _ in self.sampling.values()), max(v for _, v in self.sampling.values())


@dataclass(frozen=True)
class Scan:
    """A scan: its header and the position of its entropy-coded data."""

    begin: int
    end: int
    """Position of the next marker, or the end of the data."""
    components: tuple[int, ...]
    first: int
    last: int
    """First and last coefficient, 0 to 63; in lossless pictures the predictor and 0."""
    low_bit: int
    """Number of low bits of each coefficient that later scans hold."""
    restarts: Sequence[int]
    """Positions of restart markers."""
    interval: int
    """Minimum coded units between restart markers; 0 without markers."""
    refines_means: bool
    """True if the scan holds one more bit of each DC coefficient."""
    longest_zeros: float
    """Longest run of zero bytes that can be blocks under the scan's Huffman tables.

    The code of zeros must end a block, unless the scan has no AC coefficients: otherwise all coefficients of a block
    are equal, and no picture has such blocks side by side. If the code of zeros lowers the DC coefficient, a long run
    leaves the range of DC coefficients.
    """

    def bits_between(self, data: bytes, begin: int, end: int) -> int:
        """Return the number of data bits between two positions, without stuffed bytes."""
        return 8 * (end - begin - data.count(b"\xff\x00", begin, end))

    def units_at(self, frame: Frame, data: bytes, begin: int, end: int) -> range:
        """Return the minimum coded units with all bits between two positions of a scan that refines means."""
        passed = [place for place in self.restarts if place < begin]
        origin = passed[-1] + 2 if passed else self.begin
        size = sum(frame.blocks(self.components).values())
        first = len(passed) * self.interval
        before, known = self.bits_between(data, origin, begin), self.bits_between(data, origin, end)
        return range(first - -before // size, first + known // size)


@dataclass
class Layout:
    """Frame and scans of a picture, as far as the data go."""

    frame: Frame | None = None
    scans: list[Scan] = field(default_factory=list)
    ended: bool = False
    """True if the end marker was found."""

    def is_incomplete(self) -> bool:
        """Return True if markers show that pixels are missing: no frame, too few scans or restart markers."""
        return self.frame is None or not self.scans or self.lacks_restarts() or self.lacks_scans()

    def lacks_scans(self) -> bool:
        """Return True if bits of some coefficients are in no scan."""
        if self.frame is None:
            return True
        if self.frame.kind not in PROGRESSIVE:
            return not self.frame.sampling.keys() <= {component for scan in self.scans for component in scan.components}
        left = {(component, i): 1 for component in self.frame.sampling for i in range(COEFFICIENTS)}
        for scan in self.scans:
            band = range(scan.first, scan.last + 1)
            left |= {(component, i): scan.low_bit for component in scan.components for i in band}
        return any(left.values())

    def lacks_restarts(self) -> bool:
        """Return True if a scan has fewer restart markers than its intervals need."""
        frame = self.frame
        return frame is not None and any(
            scan.interval and len(scan.restarts) < -(-frame.units(scan.components) // scan.interval) - 1
            for scan in self.scans
        )


def has_stray_restarts(data: bytes, layout: Layout) -> bool:
    """Return True if restart markers are where none belong, or not in their order: data before them are missing."""
    frame = layout.frame
    assert frame is not None
    for scan in layout.scans:
        wanted = -(-frame.units(scan.components) // scan.interval) - 1 if scan.interval else 0
        for number, found in enumerate(RESTART.finditer(data, scan.begin, scan.end)):
            if number == wanted or data[found.end() - 1] != RST0 + number % 8:
                return True
        check_time()
    return False


def layout_of(data: bytes) -> Layout:
    """Return frame and scans of the JPEG at the beginning of `data`; bytes after its end marker are ignored.

    Raises:
        LimitError: it has more than MAX_SCANS scans, or the time of the photo is up.
    """
    layout, interval, place = Layout(), 0, 2
    shortest: dict[int, tuple[int, int]] = {}
    steps: dict[int, int] = {}
    while (found := MARKER.search(data, place)) and not layout.ended:
        check_time()
        marker, place = data[found.end() - 1], found.end()
        length = int.from_bytes(data[place : place + 2])
        segment = data[place + 2 : place + length]
        if marker == EOI:
            layout.ended = True
        elif marker in BARE:
            continue
        elif len(segment) < length - 2:
            break  # truncated
        elif marker == DRI:
            interval = int.from_bytes(segment[:2])
        elif marker in FRAMES and layout.frame is None:
            layout.frame = _frame(marker, segment)
        elif marker == DQT:
            steps |= _first_steps(segment)
        elif marker == DHT:
            shortest |= _shortest_codes(segment)
        elif marker == SOS and not _is_header(segment, layout.frame):
            break
        place += length if marker != EOI else 0
        if marker == SOS:
            assert layout.frame is not None
            if len(layout.scans) == MAX_SCANS:
                raise LimitError(f"more than {MAX_SCANS} scans")
            layout.scans.append(_scan(data, place, segment, interval, layout.frame, _Tables(shortest, steps)))
            place = layout.scans[-1].end
    return layout


@dataclass(frozen=True)
class _Tables:
    """Huffman and quantisation tables in effect at the beginning of a scan."""

    shortest: dict[int, tuple[int, int]]
    """From `_shortest_codes`."""
    steps: dict[int, int]
    """From `_first_steps`."""


def _frame(marker: int, segment: bytes) -> Frame:
    components = [segment[i : i + 3] for i in range(6, len(segment) - 2, 3)]
    return Frame(
        marker,
        int.from_bytes(segment[1:3]),
        int.from_bytes(segment[3:5]),
        {component: (factors >> 4 or 1, factors & 15 or 1) for component, factors, _ in components},
        {component: table for component, _, table in components},
    )


def _first_steps(segment: bytes) -> dict[int, int]:
    """Return the DC quantisation step of each table, by index."""
    found, place = {}, 0
    while place + 2 < len(segment):
        size = 2 if segment[place] >> 4 else 1
        found[segment[place] & 15] = int.from_bytes(segment[place + 1 : place + 1 + size])
        place += 1 + size * COEFFICIENTS
    return found


def _shortest_codes(segment: bytes) -> dict[int, tuple[int, int]]:
    """Return length and symbol of the all-zeros code of each Huffman table, by class and index."""
    found, place = {}, 0
    while place + 17 < len(segment):
        lengths = segment[place + 1 : place + 17]
        found[segment[place]] = next((i for i, count in enumerate(lengths, 1) if count), 1), segment[place + 17]
        place += 17 + sum(lengths)
    return found


def _ends_block(symbol: int) -> bool:
    return symbol & 15 == 0 and symbol != SIXTEEN_ZEROS


def _is_header(segment: bytes, frame: Frame | None) -> bool:
    """Return True if a scan header is whole and of components that the frame has."""
    if frame is None or not segment or len(segment) < 4 + 2 * segment[0]:
        return False
    components = set(segment[1 : 1 + 2 * segment[0] : 2])
    return bool(components) and components <= set(frame.sampling)


def _scan(data: bytes, begin: int, segment: bytes, interval: int, frame: Frame, known: _Tables) -> Scan:
    after = MARKER.search(data, begin)
    end = begin + len(data[begin : after.start() if after else None].rstrip(b"\xff"))  # without a truncated marker
    count = segment[0]
    components, tables = segment[1 : 1 + 2 * count : 2], segment[2 : 2 + 2 * count : 2]
    first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
    flat = last == 0 or all(_ends_block(known.shortest.get(AC_TABLES | table & 15, (1, 0))[1]) for table in tables)
    refines_means = last == 0 and bits >> 4 > 0
    longest: float = math.inf if flat else 0
    if flat and first == 0 and not refines_means:
        longest = _longest_fall(frame, dict(zip(components, tables, strict=True)), bits & 15, last > 0, known)
    return Scan(
        begin,
        end,
        tuple(components),
        first,
        last,
        bits & 15,
        _restarts(data, begin, end, frame.units(tuple(components))) if interval else (),
        interval,
        refines_means,
        longest,
    )


def _restarts(data: bytes, begin: int, end: int, most: int) -> Sequence[int]:
    """Return the positions of restart markers, at most one for each unit: a file can be full of them."""
    return array("Q", (found.start() for found in islice(RESTART.finditer(data, begin, end), most)))


def _longest_fall(frame: Frame, tables: dict[int, int], low_bit: int, has_ac: bool, known: _Tables) -> float:
    """Return the bytes of zeros after which DC coefficients, lowered in each block, have left their range."""
    bits, units = 0, math.inf
    for component, blocks in frame.blocks(tuple(tables)).items():
        length, size = known.shortest.get(tables[component] >> 4, (1, 0))  # of the DC difference
        bits += blocks * (length + size)
        if has_ac:
            bits += blocks * known.shortest.get(AC_TABLES | tables[component] & 15, (1, 0))[0]
        step = known.steps.get(frame.steps[component], 1) << low_bit
        if fall := blocks * ((1 << min(size, 11)) - 1) * step:
            units = min(units, (MEANS + 2 * step) / fall)
    return math.inf if units == math.inf else (units + 2) * bits / 8 + 4
