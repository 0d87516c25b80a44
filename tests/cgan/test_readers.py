"""Checked readers: regular files of a bounded size, JSON of bounded depth and numbers, fields of one type."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgan import readers
from cgan.npy import read_npy
from cgan.readers import (
    MOST_NESTED,
    FormatError,
    parse_json,
    read_json,
    read_limited,
    typed,
    typed_field,
    typed_list,
    typed_object,
)


def test_a_file_is_read_through_links_and_within_its_limit(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    assert read_limited(link, 5) == b"12345"
    with pytest.raises(FormatError, match="found a file of 5 bytes there, expected a file of at most 4 bytes"):
        read_limited(link, 4)
    with pytest.raises(FileNotFoundError):
        read_limited(tmp_path / "none", 5)


def test_a_huge_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(FormatError, match=r"1,099,511,627,776 bytes"):
        read_json(tmp_path / "huge")


def test_what_is_no_file_is_refused_and_nothing_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(FormatError, match=r"found a (folder|folder or a device|link or a device|file of)"):
            read_limited(path, 0)


@pytest.mark.parametrize("depth", [MOST_NESTED, 900, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_json_is_refused_that_is_nested_too_deeply(depth: int, opened: str, closed: str) -> None:
    assert parse_json(opened * MOST_NESTED + "0" + closed * MOST_NESTED)
    with pytest.raises(FormatError, match=f"nested too deeply, expected at most {MOST_NESTED} levels"):
        parse_json(opened * (depth + 1) + "0" + closed * (depth + 1))


@pytest.mark.parametrize(
    "text", ["", "{", "nothing", b"\xff", "[1,]", "9" * 21, "9" * 5000, "NaN", "-Infinity", "1e999", '"\n"']
)
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse_json(text)
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_training_keeps_infinite_numbers() -> None:
    assert parse_json("[Infinity, 1e999]", finite=False) == [float("inf")] * 2


@pytest.mark.parametrize(
    ("value", "kind"), [(1, str), ("1", int), (True, int), (True, float), (1.0, int), (None, dict), ({}, list)]
)
def test_a_value_of_another_type_is_named(value: Any, kind: type) -> None:
    with pytest.raises(FormatError, match=r"found field x .*, expected "):
        typed_field({"x": value}, "x", kind)
    with pytest.raises(FormatError, match="found list item"):
        typed_list([value], "list", kind)
    with pytest.raises(FormatError, match="found of 'x'"):
        typed_object({"x": value}, "of", kind)


def test_values_of_their_type_come_back() -> None:
    assert typed(1, "x", float) == 1.0
    assert typed_field({}, "x", int, 5) == 5
    with pytest.raises(FormatError, match="found no field x, expected a whole number"):
        typed_field({}, "x", int)
    with pytest.raises(FormatError, match=r"found \[\], expected an object with the field x"):
        typed_field([], "x", int)


def test_pictures_are_known_by_their_exact_header(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    pictures = np.arange(3 * 4, dtype=np.uint8).reshape(3, 1, 2, 2)
    np.save(file, pictures)
    assert np.array_equal(read_npy(file, (1, 2, 2), 2**20), pictures)
    whole = file.read_bytes()
    for content in (
        b"",
        whole[:-1],
        whole + b"\0",
        whole.replace(b"(3,", b"(9,"),
        whole.replace(b"|u1", b"|O1"),
        whole.replace(b"{", b"("),
    ):
        file.write_bytes(content)
        with pytest.raises(FormatError, match="expected those of some photos of 1 x 2 x 2 uint8"):
            read_npy(file, (1, 2, 2), 2**20)
    with pytest.raises(FormatError, match="expected a file of at most 10 bytes"):
        read_npy(file, (1, 2, 2), 10)


def test_limits_hold_what_the_project_writes() -> None:
    epoch = {f"test_{name}": {"value": 0.123456789012, "versions": {"torch": "2.9.0"}} for name in range(40)}
    assert len(json.dumps(epoch)) * 10_000 < readers.LARGE_BYTES
