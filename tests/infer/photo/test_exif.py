"""EXIF blocks: byte for byte from file to file, but for what belongs to the way that the scan lay."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from infer.photo import exif, tiff
from infer.photo.decode import Photo, decode
from infer.photo.encode import write_photo
from tests.infer.photo.exif_blocks import THUMBNAIL, below, entries_of, exif_block, tiff_file
from tests.infer.pictures import content_of

GRAY = np.arange(31 * 24, dtype=np.uint16).reshape(24, 31).astype(np.uint8)
FORMATS = ["JPEG", "PNG", "WEBP"]
EXIF, GPS, INTEROP, MAKER_NOTE = 0x8769, 0x8825, 0xA005, 0x927C


def photo_of(block: bytes, format_: str = "JPEG") -> Photo:
    return decode(content_of(Image.fromarray(GRAY).convert("L" if format_ != "WEBP" else "RGB"), format_, exif=block))


def colored(photo: Photo, format_: str) -> tuple[bytes, tuple[str, ...]]:
    answer = np.full((3, 8, 8), 0.5, np.float32)
    content, notes = write_photo(photo, answer[:1], answer, format_)
    return bytes(content), notes


def block_in(content: bytes) -> bytes:
    found: bytes = Image.open(io.BytesIO(content)).info["exif"]
    return found if found.startswith(b"Exif\0\0") else b"Exif\0\0" + found


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_a_block_of_an_upright_photo_is_copied_byte_for_byte(source: str, target: str, order: str) -> None:
    block = exif_block(order, orientation=1, thumbnail=False)
    output, notes = colored(photo_of(block, source), target)
    assert block_in(output) == block
    assert notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "size"), [(1, 1), (3, 2), (4, 4)])
def test_only_orientation_and_sides_change_in_a_turned_photo(order: str, kind: int, size: int) -> None:
    block = exif_block(order, orientation=6, kind=kind, thumbnail=False)
    photo = photo_of(block)
    assert photo.size == (31, 24)
    assert np.array_equal(photo.luma.shape, (31, 24))
    assert photo.exif is not None
    byte_order: Any = "little" if order == "<" else "big"
    before, after = entries_of(block), entries_of(photo.exif)
    assert after.pop(0x0112) == (kind, 1, (1).to_bytes(size, byte_order))
    assert before.pop(0x0112)[2] == (6).to_bytes(size, byte_order)
    before[0x011A], before[0x011B] = before[0x011B], before[0x011A]
    assert after == before
    before, after = below(block, EXIF), below(photo.exif, EXIF)
    before[0xA002], before[0xA003] = before[0xA003], before[0xA002]
    assert after == before
    assert sum(a != b for a, b in zip(block, photo.exif, strict=True)) <= 1 + 2 * 10 + 2 * 10


@pytest.mark.parametrize("odd", [0x011A, 0x0128, 0x0100, 0x0131])
def test_a_tag_of_a_wrong_type_costs_nothing(odd: int) -> None:
    rows = {0x0112: struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0), odd: struct.pack("<HHL4s", odd, 2, 3, b"72\0")}
    rows[0x9999] = struct.pack("<HHLL", 0x9999, 99, 7, 1)
    body = struct.pack("<H", len(rows)) + b"".join(rows[tag] for tag in sorted(rows)) + bytes(4)
    block = b"Exif\0\0II*\0\x08\0\0\0" + body
    photo = photo_of(block)
    assert photo.size == (31, 24)
    assert photo.exif == block.replace(struct.pack("<HHLH", 0x0112, 3, 1, 6), struct.pack("<HHLH", 0x0112, 3, 1, 1))
    assert photo.notes == ()
    assert photo.dpi is None


@pytest.mark.parametrize("kind", [129, 99])
def test_values_of_unknown_types_are_kept_or_named(kind: int) -> None:
    make = struct.pack("<HHL", 0x010F, 2, 6)
    block = exif_block(orientation=1, thumbnail=False).replace(make, struct.pack("<HHL", 0x010F, kind, 6))
    photo = photo_of(block)
    assert photo.exif == block
    assert colored(photo, "JPEG")[1] == ()
    output, notes = colored(photo, "TIFF")
    # The block itself lies in the file too, and its values, but programs read the directory behind it.
    assert output.count(struct.pack("<HHL", 0x010F, kind, 6)) == 1 + (kind == 129)
    assert notes == ("EXIF tags left out: 271, whose values cannot be read",) * (kind != 129)


def test_the_first_orientation_counts_and_all_are_made_upright() -> None:
    rows = [struct.pack("<HHLHH", 0x0112, 3, 1, value, 0) for value in (3, 6)]
    photo = photo_of(b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(rows) + bytes(4))
    assert np.abs(photo.luma.astype(int) - GRAY[::-1, ::-1]).mean() < 4
    assert photo.exif is not None
    assert photo.exif.count(struct.pack("<HHLH", 0x0112, 3, 1, 1)) == 2


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_is_none_stays(value: int) -> None:
    block = exif_block(orientation=value, thumbnail=False)
    photo = photo_of(block)
    assert photo.size == (24, 31)
    assert photo.exif == block


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_goes_and_all_else_stays_in_its_place(order: str) -> None:
    block = exif_block(order, orientation=1)
    photo = photo_of(block)
    assert photo.exif is not None
    assert THUMBNAIL not in photo.exif
    assert photo.notes == (exif.THUMBNAIL_NOTE,)
    assert entries_of(photo.exif) == entries_of(block)
    assert below(photo.exif, EXIF) == below(block, EXIF)
    assert below(photo.exif, EXIF, INTEROP) == below(block, EXIF, INTEROP)
    assert below(photo.exif, GPS) == below(block, GPS)
    assert photo_of(photo.exif).notes == ()


def test_a_thumbnail_at_the_end_is_cut_off() -> None:
    block = exif_block(orientation=1, thumbnail=False)
    first = int.from_bytes(block[10:14], "little")
    pointer = 6 + first + 2 + 12 * len(entries_of(block))
    place = len(block) - 6
    rows = struct.pack("<HHLLHHLL", 513, 4, 1, place + 30, 514, 4, 1, len(THUMBNAIL))
    linked = block[:pointer] + struct.pack("<L", place) + block[pointer + 4 :]
    linked += struct.pack("<H", 2) + rows + bytes(4) + THUMBNAIL
    assert photo_of(linked).exif == block


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("source", FORMATS)
def test_a_tiff_holds_the_entries_of_a_block_at_their_offsets(source: str, order: str) -> None:
    block = exif_block(order, orientation=8, thumbnail=False)
    photo = photo_of(block, source)
    assert photo.exif is not None
    output, notes = colored(photo, "TIFF")
    assert notes == ()
    assert output[8 : len(block) - 6] == photo.exif[14:]
    expected = entries_of(photo.exif)
    assert {tag: value for tag, value in entries_of(output).items() if tag in expected} == expected
    assert below(output, EXIF)[MAKER_NOTE] == below(block, EXIF)[MAKER_NOTE]
    again = decode(output, "a.tiff")
    assert again.luma.shape == photo.luma.shape
    assert np.abs(again.luma.astype(int) - photo.luma).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", [*FORMATS, "TIFF"])
def test_the_entries_of_a_tiff_keep_their_types_and_bytes(target: str, order: str) -> None:
    content = tiff_file(GRAY.tobytes(), 31, order, orientation=6)
    photo = decode(content, "a.tif")
    output, _ = colored(photo, target)
    found = output if target == "TIFF" else block_in(output)
    before, after = entries_of(content), entries_of(found)
    before[0x011A], before[0x011B] = before[0x011B], before[0x011A]
    for tag in (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x013B, 0x9C9B, 0xC4A5):
        assert after[tag] == before[tag], tag
    interop, gps = below(content, EXIF, INTEROP), below(content, GPS)
    assert (below(found, EXIF, INTEROP), below(found, GPS)) == (interop, gps)
    for tag, value in below(content, EXIF).items():
        if tag not in (INTEROP, 0xA002, 0xA003):
            assert below(found, EXIF)[tag] == value
    assert photo.notes == ()  # the maker note lies near the beginning, and stays there
    note = below(content, EXIF)[MAKER_NOTE][2]
    assert found.removeprefix(b"Exif\0\0").index(note) == content.index(note)


def test_maker_notes_far_behind_are_moved_and_said() -> None:
    far = tiff_file(bytes(31 * 1000), 31)  # its pixels come last
    assert decode(far, "a.tif").notes == ()
    shifted = bytearray(far)
    note = below(far, EXIF)[MAKER_NOTE][2]
    place = shifted.index(struct.pack("<HHL", MAKER_NOTE, 7, len(note)))
    shifted[place + 8 : place + 12] = struct.pack("<L", len(shifted))
    photo = decode(bytes(shifted) + note, "a.tif")
    assert photo.notes == (exif.MOVED_NOTE,)
    assert photo.exif is not None
    assert below(photo.exif, EXIF)[MAKER_NOTE][2] == note
    own = b"Nikon\0\2" + bytes(len(note) - 7)
    assert decode(bytes(shifted) + own, "a.tif").notes == ()


def test_geotiff_stays_in_an_upright_tiff_and_is_named_elsewhere() -> None:
    geo = [(33550, 12, struct.pack("<3d", 0.5, 0.5, 0)), (34735, 3, (1, 1, 0, 1, 1024, 0, 1, 1))]
    upright, turned = (tiff_file(GRAY.tobytes(), 31, orientation=way, further=geo) for way in (1, 3))
    # Counts of raw bytes are those of bytes; here they are doubles.
    upright, turned = (
        c.replace(struct.pack("<HHL", 33550, 12, 24), struct.pack("<HHL", 33550, 12, 3)) for c in (upright, turned)
    )
    photo = decode(upright, "a.tif")
    output, notes = colored(photo, "TIFF")
    assert notes == ()
    assert [entries_of(output)[tag] for tag in (33550, 34735)] == [entries_of(upright)[tag] for tag in (33550, 34735)]
    for format_ in FORMATS:
        _, notes = colored(photo, format_)
        assert notes == (f"place on earth (GeoTIFF) left out: {format_} cannot hold it",)
    assert "GeoTIFF tags left out: the photo was turned" in decode(turned, "a.tif").notes


@pytest.mark.parametrize("description", [b"ImageJ=1.53t\nimages=2\nslices=2\0", b'{"shape": [2, 24, 31]}\0'])
def test_descriptions_of_stacks_go(description: bytes) -> None:
    photo = decode(tiff_file(GRAY.tobytes(), 31, further=[(0x010E, 2, description)]), "a.tif")
    assert photo.notes == ("image description left out: it describes the samples of the scan",)
    assert photo.exif is not None
    assert 0x010E not in entries_of(photo.exif)


def test_loops_and_pointers_to_nowhere_end() -> None:
    for target in (8, 10**9):  # to itself, and beyond the end
        rows = [struct.pack("<HHLL", tag, 4, 1, target) for tag in (EXIF, GPS)]
        block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(rows) + struct.pack("<L", target)
        photo = photo_of(block)
        assert photo.exif is not None
        for format_ in [*FORMATS, "TIFF"]:
            colored(photo, format_)


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.slow
def test_damage_never_costs_the_photo(data: st.DataObject) -> None:
    way = data.draw(st.sampled_from(["<", ">"]))
    block = bytearray(exif_block(way, orientation=6))
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(10, len(block) - 1))] = data.draw(st.integers(0, 255))
    photo = photo_of(bytes(block[: data.draw(st.integers(20, len(block)))]))
    for format_ in ("JPEG", "WEBP", "TIFF"):
        output, _ = colored(photo, format_)
        assert decode(output).size == photo.size


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_tags_of_a_tiff_raise_nothing_else(data: st.DataObject) -> None:
    content = bytearray(tiff_file(GRAY[:2].tobytes(), 31, data.draw(st.sampled_from(["<", ">"]))))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    notes: list[str] = []
    try:
        reader = tiff.Reader(bytes(content))
        block = exif.packed(reader, reader.directory(reader.first).entries, notes)
        if block:
            exif.upright(block, 1, notes)
    except ValueError:
        pass
