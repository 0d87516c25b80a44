"""Photos prepared for a model that runs elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgan.errors import UserError
from infer import Mark, PreparedPhoto, prepare
from infer.photo.decode import PhotoError
from tests.infer.pictures import content_of


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedPhoto:
    path = tmp_path / "a.png"
    Image.new("L", (40, 30), 128).save(path)
    return prepare(path, 16, 32)


def test_the_input_has_the_asked_size_and_the_photo_keeps_its_own(prepared: PreparedPhoto) -> None:
    assert prepared.gray.shape == (1, 16, 32)
    assert prepared.gray.dtype == np.float32
    assert prepared.photo.size == (30, 40)


@pytest.mark.parametrize(
    ("rgb", "options", "error", "message"),
    [
        (np.zeros((3, 32, 16)), {}, ValueError, r"found an output of shape \(3, 32, 16\), expected \(3, 16, 32\)"),
        (np.full((3, 16, 32), np.nan), {}, ValueError, "expected .* of finite numbers"),
        (np.zeros((3, 16, 32)), {"quality": 0}, UserError, "quality: found 0, expected 1 to 100"),
        (np.zeros((3, 16, 32)), {"strength": 3}, UserError, "strength"),
        (np.zeros((3, 16, 32)), {"format": "gif"}, UserError, "^format: found 'gif'"),
    ],
)
def test_wrong_outputs_and_options_are_refused(
    prepared: PreparedPhoto, rgb: np.ndarray, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepared.finish(rgb.astype(np.float32), **options)  # type: ignore[arg-type]


def test_a_mark_without_a_digest_names_the_model_alone(prepared: PreparedPhoto) -> None:
    rgb = np.stack([np.ones((16, 32)), *np.zeros((2, 16, 32))]).astype(np.float32)
    content = prepared.finish(rgb, mark=Mark("a<b")).content
    assert b"<stEvt:parameters>coloured by model a&lt;b</stEvt:parameters>" in content
    assert b"coloured by" not in prepared.finish(rgb).content


def test_what_is_no_photo_is_refused() -> None:
    with pytest.raises(TypeError, match="found int, expected bytes or a path"):
        prepare(3, 16, 16)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="profile: found 'x'"):
        prepare(content_of(Image.new("L", (4, 4)), "PNG"), 16, 16, profile="x")
    with pytest.raises(PhotoError):
        prepare(b"", 16, 16)
