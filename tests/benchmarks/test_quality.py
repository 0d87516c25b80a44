"""`python -m benchmarks quality`: a whole run on a few photos, and the distance between sets of colours."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.quality import color_distance, main

pytestmark = pytest.mark.benchmarks

RED, BLUE, GRAY = (Image.new("RGB", (8, 8), color) for color in ("red", "blue", "gray"))


def test_colours_gray_and_real_photos_are_told_apart(exported_onnx: Path, photo_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "quality.json"
    arguments = [photo_folder, "--model", exported_onnx, "--json", target]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    record = json.loads(target.read_text())
    (model,) = record["models"]
    assert record["photos"] > record["near_gray_left_out"]
    assert (record["gray"]["colorfulness"], model["model"]) == (0, exported_onnx.name)
    assert model["colorfulness"] > 0
    assert model["psnr_gain_over_gray"] == pytest.approx(model["psnr"] - record["gray"]["psnr"], abs=2e-3)
    for figures in (record["gray"], model):
        assert 0 < figures["color_distance"] <= 1
        assert figures["delta_e"] > 0


def test_distances_over_a_feature_network_are_named_after_it(exported_onnx: Path, photo_folder: Path) -> None:
    arguments = [photo_folder, "--model", exported_onnx, "--features", "efficientnet-lite2"]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 2
    assert "--features: distances are between pictures of one size" in result.output
    result = CliRunner().invoke(main, [*map(str, arguments), "--side", "40"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    (model,) = record["models"]
    (name,) = (key for key in model if key.startswith("Fréchet distance"))
    assert model[name]["pictures"] == "40 x 40"
    assert record["gray"][name]["value"] > 0


def test_the_distance_of_equal_colours_is_0_and_of_others_1() -> None:
    assert color_distance([RED, BLUE], [BLUE, RED]) == 0
    assert color_distance([RED], [BLUE]) == color_distance([BLUE], [GRAY]) == 1
    assert color_distance([RED, RED], [RED, BLUE]) == color_distance([RED, BLUE], [RED, RED]) == 0.5


def test_lightness_does_not_count_and_each_picture_counts_as_one() -> None:
    grays, large = Image.linear_gradient("L").convert("RGB"), RED.resize((64, 64))
    assert color_distance([GRAY], [grays]) == 0
    assert color_distance([large, BLUE], [RED, BLUE]) == 0
