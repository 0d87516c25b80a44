"""cgan-infer evaluate: the same figures as training's, for runs and exports, whatever the order of the photos."""

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cgan.command import exit_on_user_error
from cgan.errors import UserError
from cgan.metrics.distances import FeatureDistances
from cgan.metrics.features import FeatureNetwork
from cgan.metrics.pictures import colorfulness, means, psnr, scores, ssim
from infer.backends import open_model
from infer.photo.decode import decode, model_input
from infer.quality.cli import evaluate
from infer.quality.evaluate import Evaluation
from infer.quality.evaluate import evaluate as measure
from infer.quality.photos import Source, photos_below

Invoke = Callable[..., Any]


class Means(nn.Module):
    """The channel means and those of a half: a feature network whose figures are quick to get."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean(dim=(2, 3)), x[:, :, :16].mean(dim=(2, 3))], dim=1)


NETWORK = FeatureNetwork(Means(), 6, {"network": "test", "resize": "none"})


def main(arguments: list[str]) -> None:
    group = click.Group("cgan-infer", {"evaluate": evaluate})
    with exit_on_user_error():
        group(arguments, prog_name="cgan-infer")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> list[Source]:
    """30 colour photos and a gray one."""
    folder = make_photos(tmp_path_factory.mktemp("evaluated"), 30, seed=3)
    gray = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
    Image.fromarray(gray).save(folder / "gray.png")
    return photos_below(folder)


def evaluated(model: Path, photos: list[Source], **options: Any) -> Evaluation:
    with open_model(model, "cpu", 1) as backend:
        return measure(backend, photos, **options)


def test_figures_are_those_of_training_s_functions_on_the_same_pictures(
    exported_onnx: Path, photos: list[Source], tmp_path: Path
) -> None:
    result = evaluated(exported_onnx, photos, features=NETWORK, cache=tmp_path)
    paths = [path for _, path in photos]
    gray = np.stack([model_input(decode(path), 32, 32) for path in paths])
    real = np.stack(
        [np.asarray(Image.open(p).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)) for p in paths]
    )
    truth = torch.from_numpy(real).permute(0, 3, 1, 2).float() / 255
    with open_model(exported_onnx, "cpu", 1) as backend:
        pictures = torch.from_numpy(backend.run(gray))
    expected = means({**scores(pictures, truth, torch.from_numpy(gray)), "ssim": ssim(pictures, truth)})
    assert (result.photos, result.near_gray) == (31, 1) == (expected["photos"], expected["near_gray_photos"])
    for name in ("psnr", "gray_psnr", "ssim", "colorfulness", "real_colorfulness"):
        assert result.figures[name].value == pytest.approx(expected[name], rel=1e-6)
    ratio = colorfulness(pictures[:-1]).mean() / colorfulness(truth[:-1]).mean()  # the gray photo sorts last
    assert photos[-1][0] == "gray.png"
    assert result.figures["colorfulness_ratio"].value == pytest.approx(float(ratio), rel=1e-6)
    assert result.figures["psnr"].value == pytest.approx(float(psnr(pictures[:-1], truth[:-1]).mean()), rel=1e-6)
    distances = FeatureDistances(NETWORK, torch.device("cpu"))
    distances.update(pictures, truth)
    for name, value in distances.compute().items():
        assert result.figures[name].value == pytest.approx(value.value, rel=1e-6, abs=1e-9)
        own = result.figures[name].fingerprint
        assert own["device"] == "cpu" and own["versions"].items() > value.fingerprint["versions"].items()
        assert {k: own[k] for k in value.fingerprint if k != "versions"} == {
            k: v for k, v in value.fingerprint.items() if k != "versions"
        }
    digests = b"".join(sorted(hashlib.sha256(path.read_bytes()).digest() for path in paths))  # type: ignore[union-attr]
    assert {f.fingerprint["photos_sha256"] for f in result.figures.values()} == {hashlib.sha256(digests).hexdigest()}


def test_neither_order_nor_batches_nor_workers_change_a_figure(
    exported_onnx: Path, photos: list[Source], tmp_path: Path
) -> None:
    expected = evaluated(exported_onnx, photos, features=NETWORK, cache=tmp_path / "a")
    shuffled = list(photos)
    random.Random(1).shuffle(shuffled)
    for i, (batch, workers) in enumerate([(1, 1), (7, 3), (64, 2)]):
        options = {"batch_size": batch, "workers": workers, "cache": tmp_path / str(i)}
        found = evaluated(exported_onnx, shuffled, features=NETWORK, **options)
        for name, figure in expected.figures.items():
            assert found.figures[name].value == pytest.approx(figure.value, rel=0, abs=1e-6)


def test_a_run_and_its_export_are_equally_good(exported_onnx: Path, trained_run: Path, photos: list[Source]) -> None:
    one, other = evaluated(exported_onnx, photos), evaluated(trained_run, photos)
    assert one.figures.keys() == other.figures.keys() and "fid" not in one.figures
    for difference in one.against(other.figures).values():
        assert difference == pytest.approx(0, abs=1e-4)
    assert "PyTorch" in other.model.engine and "ONNX Runtime" in one.model.engine


def test_photos_that_cannot_be_measured_are_counted(exported_onnx: Path, photos: list[Source], tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "deep.png")
    more: list[Source] = [("deep.png", tmp_path / "deep.png"), ("text.jpg", b"no photo")]
    result = evaluated(exported_onnx, [*more, *photos])
    assert result.photos == 31 and result.failures.keys() == {"deep.png", "text.jpg"}
    assert "more than 8 bits" in result.failures["deep.png"]
    with pytest.raises(UserError, match="found 2 photos, none that can be read"):
        evaluated(exported_onnx, more)


def test_the_command_writes_json_and_compares_with_an_earlier_one(
    invoke: Invoke, exported_onnx: Path, photo_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.json"
    given = ["evaluate", exported_onnx, photo_folder, "--device", "cpu", "--no-fid"]
    result = invoke(main, *given, "--json", out)
    assert result.code == 0 and "PSNR of the gray photos" in result.out
    found = json.loads(out.read_text())
    assert found["photos"] == 12 and found["model"]["precision"] == "fp32"
    assert found["figures"]["ssim"]["pictures"] == "32 x 32" and found["figures"]["ssim"]["photos"] == 12
    again = invoke(main, *given, "--against", out, "--json", tmp_path / "b.json")
    differences = json.loads((tmp_path / "b.json").read_text())["differences"]
    assert differences.keys() == found["figures"].keys() and set(differences.values()) == {0.0}
    assert f"minus {out}" in again.out

    found["figures"]["psnr"]["photos"] = 13
    out.write_text(json.dumps(found))
    assert re.search(
        r"cannot be compared: found photos: 12 and 13; measure both alike",
        invoke(main, *given, "--against", out).error(2),
    )
    refused = invoke(main, *given, "--against", out, "--json", tmp_path / "c.json")
    assert refused.code == 2 and "PSNR of the gray photos" in refused.out
    assert "differences" not in json.loads((tmp_path / "c.json").read_text())
    out.write_text("{}")
    assert "found no evaluation in it" in invoke(main, *given, "--against", out).error(2)


def test_as_many_other_photos_are_not_compared(
    invoke: Invoke, exported_onnx: Path, photo_folder: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    given = ["--device", "cpu", "--no-fid", "--json", tmp_path / "a.json"]
    other = make_photos(tmp_path / "other", 12, seed=9)
    assert invoke(main, "evaluate", exported_onnx, photo_folder, *given).code == 0
    again = invoke(main, "evaluate", exported_onnx, other, "--against", tmp_path / "a.json", *given)
    assert "cannot be compared: found photos_sha256: " in again.error(2)


def test_missing_weights_are_said_first(
    invoke: Invoke, exported_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    result = invoke(main, "evaluate", exported_onnx, tmp_path / "nothing")
    assert re.search(r"FID and KID need Inception v3 weights.*--no-fid", result.error(2))


def test_gray_photos_alone_give_json_too(invoke: Invoke, exported_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        gray = np.random.default_rng(i).integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(gray).save(tmp_path / "photos" / f"{i}.png")
    given = [
        "evaluate",
        exported_onnx,
        tmp_path / "photos",
        "--device",
        "cpu",
        "--no-fid",
        "--json",
        tmp_path / "a.json",
    ]
    result = invoke(main, *given)
    assert result.code == 0
    assert "note: all photos are near gray" in result.err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["near_gray_photos"] == 3 and "colorfulness_ratio" not in found["figures"]
    assert found["figures"]["gray_psnr"]["value"] is None  # infinite: a gray photo is its own luma
    assert "gray_psnr" not in invoke(main, *given, "--against", tmp_path / "a.json").out.partition("minus")[2]
