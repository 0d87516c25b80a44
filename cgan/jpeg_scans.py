"""Where the scans of a JPEG lie and what they hold, from its markers: those of ITU-T T.81, table B.1."""

import re
from dataclasses import dataclass, field

DHT, EOI, SOS, DRI = 0xC4, 0xD9, 0xDA, 0xDD
FRAMES = frozenset(range(0xC0, 0xD0)) - {DHT, 0xC8, 0xCC}  # JPG and DAC
LOSSLESS = frozenset({0xC3, 0xCB})
PROGRESSIVE = frozenset({0xC2, 0xCA})
ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB})
BARE = frozenset({0x01, 0xD8})
"""TEM and SOI, which have no segment."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Ends entropy-coded data, in which other bytes of 0xFF are stuffed or restart markers."""

RESTART = re.compile(rb"\xff[\xd0-\xd7]")

COEFFICIENTS = 64

AC_TABLES, SIXTEEN_ZEROS = 0x10, 0xF0
"""Class of the Huffman tables of AC coefficients, and their symbol of so many coefficients of 0."""


@dataclass(frozen=True)
class Frame:
    """A frame header: how a picture is divided."""

    kind: int
    """Its marker."""
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]
    """Horizontal and vertical sampling factors of each component."""

    def units(self, components: tuple[int, ...]) -> int:
        """Number of minimum coded units in a scan of some components (T.81, A.2)."""
        block = 1 if self.kind in LOSSLESS else 8
        most_h = max(h for h, _ in self.sampling.values())
        most_v = max(v for _, v in self.sampling.values())
        if len(components) > 1:
            return -(-self.width // (block * most_h)) * -(-self.height // (block * most_v))
        h, v = self.sampling[components[0]]  # its own blocks, without those that only fill up the last unit
        return -(-self.width * h // (block * most_h)) * -(-self.height * v // (block * most_v))


@dataclass(frozen=True)
class Scan:
    """A scan's entropy-coded data, and its header."""

    begin: int
    end: int
    """Where the next marker begins, or the data end."""
    components: tuple[int, ...]
    first: int
    last: int
    """Coefficients, 0 to 63; of lossless pictures the predictor and 0."""
    low_bit: int
    """How many bits of each coefficient are left to later scans."""
    restarts: tuple[int, ...]
    """Where restart markers begin."""
    interval: int
    """Minimum coded units between them, 0 where there are none."""
    zeros_are_flat: bool
    """Whether bits of zero can be many blocks by its Huffman tables: the code of zeros ends a block, or there are no AC
    coefficients. Otherwise they are blocks of all coefficients alike, which no picture has side by side."""


@dataclass
class Layout:
    """The frame and the scans of a picture, as far as the data reach."""

    frame: Frame | None = None
    scans: list[Scan] = field(default_factory=list)
    ended: bool = False
    """Whether the end marker is there."""

    def lacks_scans(self) -> bool:
        """Whether bits of some coefficients are in no scan."""
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
        """Whether a scan has fewer restart markers than its intervals need."""
        frame = self.frame
        return frame is not None and any(
            scan.interval and len(scan.restarts) < -(-frame.units(scan.components) // scan.interval) - 1
            for scan in self.scans
        )


def layout_of(data: bytes) -> Layout:
    """The frame and scans of the JPEG at the beginning of `data`; what follows its end marker is not looked at."""
    layout, interval, place = Layout(), 0, 2
    shortest: dict[int, int] = {}
    while (found := MARKER.search(data, place)) and not layout.ended:
        marker, place = data[found.end() - 1], found.end()
        length = int.from_bytes(data[place : place + 2])
        segment = data[place + 2 : place + length]
        if marker == EOI:
            layout.ended = True
        elif marker in BARE:
            continue
        elif len(segment) < length - 2:
            break  # it was cut off
        elif marker == DRI:
            interval = int.from_bytes(segment[:2])
        elif marker in FRAMES and layout.frame is None:
            layout.frame = _frame(marker, segment)
        elif marker == DHT:
            shortest |= _shortest_codes(segment)
        elif marker == SOS and not _is_header(segment, layout.frame):
            break
        place += length if marker != EOI else 0
        if marker == SOS:
            layout.scans.append(_scan(data, place, segment, interval, shortest))
            place = layout.scans[-1].end
    return layout


def _frame(marker: int, segment: bytes) -> Frame:
    components = (segment[i : i + 2] for i in range(6, len(segment) - 1, 3))
    return Frame(
        marker,
        int.from_bytes(segment[1:3]),
        int.from_bytes(segment[3:5]),
        {component: (factors >> 4 or 1, factors & 15 or 1) for component, factors in components},
    )


def _shortest_codes(segment: bytes) -> dict[int, int]:
    """What the first code of each Huffman table stands for, the one of zeros alone; by class and number."""
    found, place = {}, 0
    while place + 17 < len(segment):
        found[segment[place]] = segment[place + 17]
        place += 17 + sum(segment[place + 1 : place + 17])
    return found


def _ends_block(symbol: int) -> bool:
    return symbol & 15 == 0 and symbol != SIXTEEN_ZEROS


def _is_header(segment: bytes, frame: Frame | None) -> bool:
    """Whether a scan header is whole and of components that the frame has."""
    if frame is None or not segment or len(segment) < 4 + 2 * segment[0]:
        return False
    components = set(segment[1 : 1 + 2 * segment[0] : 2])
    return bool(components) and components <= set(frame.sampling)


def _scan(data: bytes, begin: int, segment: bytes, interval: int, shortest: dict[int, int]) -> Scan:
    after = MARKER.search(data, begin)
    end = after.start() if after else len(data)
    if not after and data[end - 1] == 0xFF:
        end -= 1  # half of a marker
    count = segment[0]
    components, tables = segment[1 : 1 + 2 * count : 2], segment[2 : 2 + 2 * count : 2]
    first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
    return Scan(
        begin,
        end,
        tuple(components),
        first,
        last,
        bits & 15,
        tuple(found.start() for found in RESTART.finditer(data, begin, end)) if interval else (),
        interval,
        last == 0 or all(_ends_block(shortest.get(AC_TABLES | table & 15, 0)) for table in tables),
    )
