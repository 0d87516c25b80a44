"""The table of photo formats in docs/formats.md."""

import numpy as np
import pytest

from benchmarks.photo_kinds import Kind, kinds
from docs.format_table import FILE, main, result_of, table

STEP = 6
"""Every sixth kind is tried here; tests/infer/photo tries them all."""


def test_the_table_says_what_happens() -> None:
    document = FILE.read_text()
    for kind in list(kinds())[::STEP]:
        line = next(
            line for line in table([kind]).splitlines() if line.startswith(f"| {kind.format} | {kind.colors} |")
        )
        first, rest = f"| {kind.format} | {kind.colors} | {kind.storage} |", line.rpartition(" | ")[2]
        rows = [row for row in document.splitlines() if row.startswith(first) and row.endswith(rest)]
        assert any(kind.bits in row.split(" | ")[3].split(", ") for row in rows), line


def test_a_photo_that_is_decoded_wrong_fails() -> None:
    kind = next(kinds())
    wrong = Kind("TIFF", kind.colors, kind.bits, kind.storage, kind.suffix, kind.make, np.zeros_like(kind.luma))
    with pytest.raises(ValueError, match="luma differs by"):
        result_of(wrong)


def test_a_table_out_of_date_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.format_table.kinds", lambda: [next(kinds())])
    monkeypatch.setattr("sys.argv", ["format_table", "--check"])
    with pytest.raises(SystemExit, match="out of date"):
        main()
