"""Names that lead out of a folder, or that are not the only name of a file, are refused by `is_below`."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.folder.storage import is_below


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("a.png", True),
        ("sub/a.png", True),
        ("..a/..b.png", True),
        ("a b\n.png", True),
        ("../a.png", False),
        ("a/../../b.png", False),
        ("a/..", False),
        ("..\\a.png", False),
        ("/a.png", False),
        ("\\\\server\\a.png", False),
        ("C:\\a.png", False),
        ("c:/a.png", False),
        ("a//b.png", False),  # on a disk the same file as a/b.png
        ("a/./b.png", False),
        ("a.png\0.txt", False),
        ("", False),
    ],
)
def test_names_that_lead_elsewhere_are_not_below(name: str, below: bool) -> None:
    assert is_below(name, anywhere=True) is below
    assert is_below(name) is (below or name in {"..\\a.png", "\\\\server\\a.png", "C:\\a.png", "c:/a.png"})


@given(st.lists(st.sampled_from(["..", ".", "", "a", "/", "\\", "C:", "b.png"]), max_size=6).map("/".join), st.text())
def test_names_below_a_folder_stay_there_and_are_one_file_each(parts: str, text: str) -> None:
    for name in (parts, text):
        assert is_below(name) or not is_below(name, anywhere=True)
        if is_below(name):
            path = os.path.normpath(os.path.join("/root", name))  # noqa: PTH118
            assert path == f"/root/{name}"
