"""Where the scans of a JPEG lie and what they hold, from its markers: those of ITU-T T.81, table B.1."""

import math
import re
from dataclasses import dataclass, field

DHT, EOI, SOS, DQT, DRI = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD
FRAMES = frozenset(range(0xC0, 0xD0)) - {DHT, 0xC8, 0xCC}  # JPG and DAC
LOSSLESS = frozenset({0xC3, 0xCB})
PROGRESSIVE = frozenset({0xC2, 0xCA})
ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB})
BARE = frozenset({0x01, 0xD8})
"""TEM and SOI, which have no segment."""

MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""Ends entropy-coded data, in which other bytes of 0xFF are stuffed or restart markers. Bytes of 0xFF may fill up."""

RESTART = re.compile(rb"\xff[\xd0-\xd7]")

COEFFICIENTS = 64

MEANS = 2048
"""Range of the first coefficient, eight times a block's mean, times its step."""

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
    steps: dict[int, int]
    """Number of each component's table of quantisation steps."""

    def units(self, components: tuple[int, ...]) -> int:
        """Number of minimum coded units in a scan of some components (T.81, A.2)."""
        block = 1 if self.kind in LOSSLESS else 8
        most_h, most_v = self._most()
        if len(components) > 1:
            return -(-self.width // (block * most_h)) * -(-self.height // (block * most_v))
        h, v = self.sampling[components[0]]  # its own blocks, without those that only fill up the last unit
        return -(-self.width * h // (block * most_h)) * -(-self.height * v // (block * most_v))

    def blocks(self, components: tuple[int, ...]) -> dict[int, int]:
        """Blocks of each component in a minimum coded unit of a scan."""
        if len(components) == 1:
            return {components[0]: 1}
        return {component: math.prod(self.sampling[component]) for component in components}

    def unit_size(self, components: tuple[int, ...]) -> tuple[int, int]:
        """Width and height in pixels of a minimum coded unit of a scan."""
        most_h, most_v = self._most()
        h, v = self.sampling[components[0]] if len(components) == 1 else (1, 1)
        return 8 * most_h // h, 8 * most_v // v

    def _most(self) -> tuple[int, int]:
        return max(h for h, _ in self.sampling.values()), max(v for _, v in self.sampling.values())


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
    refines_means: bool
    """Whether it is one bit more of the first coefficient of each block."""
    longest_zeros: float
    """Bytes of zeros in a row that may be blocks by its Huffman tables.

    The code of zeros must end a block, unless there are no AC coefficients. Otherwise they are blocks of all
    coefficients alike, which no picture has side by side. And where the code of zeros is a step down, they leave the
    range of means.
    """

    def bits_between(self, data: bytes, begin: int, end: int) -> int:
        """Bits of data between two places, without the bytes that are stuffed."""
        return 8 * (end - begin - data.count(b"\xff\x00", begin, end))

    def units_at(self, frame: Frame, data: bytes, begin: int, end: int) -> range:
        """Minimum coded units whose bits lie wholly between two places of a scan that refines means."""
        passed = [place for place in self.restarts if place < begin]
        origin = passed[-1] + 2 if passed else self.begin
        size = sum(frame.blocks(self.components).values())
        first = len(passed) * self.interval
        before, known = self.bits_between(data, origin, begin), self.bits_between(data, origin, end)
        return range(first - -before // size, first + known // size)


@dataclass
class Layout:
    """The frame and the scans of a picture, as far as the data reach."""

    frame: Frame | None = None
    scans: list[Scan] = field(default_factory=list)
    ended: bool = False
    """Whether the end marker is there."""

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


def layout_of(data: bytes) -> Layout:
    """The frame and scans of the JPEG at the beginning of `data`; what follows its end marker is not looked at."""
    layout, interval, place = Layout(), 0, 2
    shortest: dict[int, tuple[int, int]] = {}
    steps: dict[int, int] = {}
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
        elif marker == DQT:
            steps |= _first_steps(segment)
        elif marker == DHT:
            shortest |= _shortest_codes(segment)
        elif marker == SOS and not _is_header(segment, layout.frame):
            break
        place += length if marker != EOI else 0
        if marker == SOS:
            assert layout.frame is not None
            layout.scans.append(_scan(data, place, segment, interval, layout.frame, _Tables(shortest, steps)))
            place = layout.scans[-1].end
    return layout


@dataclass(frozen=True)
class _Tables:
    """Tables as they are where a scan begins."""

    shortest: dict[int, tuple[int, int]]
    """As of `_shortest_codes`."""
    steps: dict[int, int]
    """As of `_first_steps`."""


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
    """Quantisation step of the first coefficient in each table, by number."""
    found, place = {}, 0
    while place + 2 < len(segment):
        size = 2 if segment[place] >> 4 else 1
        found[segment[place] & 15] = int.from_bytes(segment[place + 1 : place + 1 + size])
        place += 1 + size * COEFFICIENTS
    return found


def _shortest_codes(segment: bytes) -> dict[int, tuple[int, int]]:
    """Length and symbol of the first code of each Huffman table, the one of zeros alone; by class and number."""
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
    end = after.start() if after else len(data.rstrip(b"\xff"))  # without half of a marker
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
        tuple(found.start() for found in RESTART.finditer(data, begin, end)) if interval else (),
        interval,
        refines_means,
        longest,
    )


def _longest_fall(frame: Frame, tables: dict[int, int], low_bit: int, has_ac: bool, known: _Tables) -> float:
    """Bytes of zeros after which a scan's means, which fall from block to block, have left their range."""
    bits, units = 0, math.inf
    for component, blocks in frame.blocks(tuple(tables)).items():
        length, size = known.shortest.get(tables[component] >> 4, (1, 0))  # of the difference, whose bits follow
        bits += blocks * (length + size)
        if has_ac:
            bits += blocks * known.shortest.get(AC_TABLES | tables[component] & 15, (1, 0))[0]
        step = known.steps.get(frame.steps[component], 1) << low_bit
        if fall := blocks * ((1 << min(size, 11)) - 1) * step:
            units = min(units, (MEANS + 2 * step) / fall)
    return math.inf if units == math.inf else (units + 2) * bits / 8 + 4
