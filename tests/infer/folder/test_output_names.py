"""Names as text: the suffix of a path, and another one in its place."""

from pathlib import PurePath

from hypothesis import given
from hypothesis import strategies as st

from infer.folder.output_names import suffix_of, with_suffix
from infer.folder.storage import is_below

NAMES = st.text(st.sampled_from("aB.é ~/\n"), min_size=1, max_size=12).filter(is_below)


@given(NAMES)
def test_a_suffix_is_that_of_pathlib(name: str) -> None:
    assert suffix_of(name) == PurePath(name).suffix.lower()


@given(NAMES)
def test_another_suffix_takes_its_place_as_with_pathlib(name: str) -> None:
    assert with_suffix(name, ".png") == str(PurePath(name).with_suffix(".png"))
