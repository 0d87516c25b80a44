"""FID and KID are distances over Inception's published weights; over other features they have other names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgan.checkpoint_record import best_epoch
from cgan.efficientnet import PooledFeatures
from cgan.errors import UserError
from cgan.metrics.distances import FeatureDistances
from cgan.metrics.features import INCEPTION_CACHE_NAME, FeatureNetwork, load_inception
from cgan.metrics.measurement import Measured, by_today
from infer.quality.evaluate import read_figures
from infer.quality.gates import Gates
from infer.quality.parity import _verdicts
from tests.infer.quality.models import described

PUBLISHED = "0cc3c7bd" + "0" * 56


class Means(nn.Module):
    """Three features: the means of the channels."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean(dim=(2, 3))


def distances(name: str | None) -> dict[str, Measured]:
    found = FeatureDistances(FeatureNetwork(Means(), 3, {"weights_sha256": "ab"}, name), torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    found.update(torch.rand(8, 3, 4, 4, generator=random), torch.rand(8, 3, 4, 4, generator=random))
    return found.compute()


def test_keys_and_names_go_by_the_network() -> None:
    published, other = distances(None), distances("lite")
    assert {key: figure.fingerprint["metric"] for key, figure in published.items()} == {"fid": "FID", "kid": "KID"}
    assert {key: figure.fingerprint["metric"] for key, figure in other.items()} == {
        "frechet_distance": "Fréchet distance (lite)",
        "kernel_distance": "kernel distance (lite)",
    }
    assert [figure.value for figure in other.values()] == [figure.value for figure in published.values()]


def test_the_same_network_under_another_file_name_is_compared() -> None:
    one, other = distances("lite")["frechet_distance"], distances("copy-of-lite")["frechet_distance"]
    assert one.minus(other) == 0
    with pytest.raises(UserError, match="different fingerprints"):
        one.minus(distances(None)["fid"])


@pytest.fixture
def small_inception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state dict for a network of one layer in Inception's place."""
    monkeypatch.setattr("torchvision.models.inception_v3", lambda weights: nn.Linear(3, 3))
    path = tmp_path / "mine.pth"
    torch.save(nn.Linear(3, 3).state_dict(), path)
    return path


def test_only_published_weights_of_inception_make_fid(small_inception: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_inception(small_inception).name == "mine"
    digest = load_inception(small_inception).fingerprint["weights_sha256"]
    monkeypatch.setattr("cgan.metrics.features.INCEPTION_SHA256", digest[:8])
    assert load_inception(small_inception).name is None


def test_other_weights_under_the_name_of_the_published_ones_are_refused(
    small_inception: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / INCEPTION_CACHE_NAME
    cached.parent.mkdir(parents=True)
    small_inception.rename(cached)
    with pytest.raises(UserError, match=r"expected 0cc3c7bd\.\.\. of the published weights"):
        load_inception(None)


def test_earlier_files_are_read_under_the_names_of_today(tmp_path: Path) -> None:
    other = {"value": 3.0, "metric": "FID", "weights_sha256": "ab" * 32}
    own = {"value": 5.0, "metric": "FID", "weights_sha256": PUBLISHED}
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"figures": {"fid": other, "kid": {**other, "metric": "KID"}, "psnr": {"value": 20.0}}}))
    found = read_figures(path)
    assert list(found) == ["frechet_distance", "kernel_distance", "psnr"]
    assert Measured(4.0, {"metric": "Fréchet distance (lite)", "weights_sha256": "ab" * 32}).minus(
        found["frechet_distance"]
    ) == pytest.approx(1)
    assert list(by_today({"fid": Measured.from_json(own)})) == ["fid"]


def test_the_best_epoch_of_a_history_that_has_both_names() -> None:
    history: list[dict[str, Any]] = [{"test_fid": {"value": 9.0}}, {"test_frechet_distance": {"value": 5.0}}]
    assert best_epoch([*history, {"test_frechet_distance": {"value": 7.0}}], "fid") == 2
    assert best_epoch([{"test_kernel_distance": {"value": 2.0}}, {"test_kid": {"value": 1.0}}], "kid") == 2


@pytest.mark.parametrize(
    ("network", "gate"),
    [
        (None, "--max-fid-delta, far end of the interval"),
        ("lite", "--max-fid-delta, here of the Fréchet distance (lite), far end of the interval"),
    ],
)
def test_the_gate_says_what_it_limits(network: str | None, gate: str) -> None:
    from cgan.metrics.bootstrap import Interval

    model = described("fp32")
    figures = {
        name: Measured(value, {}) for name, value in (("psnr", 99.0), ("worst_psnr", 99.0), ("delta_e_p99", 0.0))
    }
    verdicts = _verdicts(model, model, figures, Interval(0.0, 0.1, 0.95, 100), Gates(), network)
    assert verdicts[-1].gate == gate


@pytest.mark.slow
def test_a_training_measures_by_the_network_that_is_named(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., Any], tiny_options: Any
) -> None:
    from cgan.cli import main

    monkeypatch.setattr(PooledFeatures, "SIDE", 32)  # at 260 pixels it takes seconds
    options = (*tiny_options, "--epochs", 1, "--discriminator", "none", "--fid", "--best-by", "kid")
    result = invoke(main, photo_folder, "--out", tmp_path / "run", *options, "--features", "efficientnet-lite2")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    figure = metrics["test_frechet_distance"]
    assert figure["metric"] == "Fréchet distance (efficientnet-lite2)"
    assert figure["network"].startswith("EfficientNet-Lite2 of timm") and len(figure["weights_sha256"]) == 64
    assert "test_fid" not in metrics and "test_kernel_distance" in metrics
    error = invoke(main, photo_folder, "--out", tmp_path / "other", *options, "--features", "efficientnet-lite9").error(
        2
    )
    assert "expected inception, efficientnet-lite2 or an ONNX file" in error
    assert not (tmp_path / "other").exists()


def test_training_calls_them_by_their_names(
    trained_run: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., Any]
) -> None:
    from cgan.cli import main

    network = FeatureNetwork(Means(), 3, {"weights_sha256": "ab"}, "lite")
    monkeypatch.setattr("cgan.metrics.features.load_inception", lambda weights: network)
    options = ["--width", 4, "--size", 32, "--batch-size", 4, "--test-fraction", 0.25, "--device", "cpu"]
    weights = ["--epochs", 1, "--precision", "fp32", "--inception-weights", tmp_path / "lite.pth"]
    result = invoke(main, photo_folder, "--out", tmp_path / "run", *options, *weights)
    assert result.code == 0, result.err
    assert "\nFréchet: Fréchet distance (lite)\n" in result.err and "FID" not in result.err
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert metrics["test_frechet_distance"]["metric"] == "Fréchet distance (lite)"
    assert "test_fid" not in metrics and "test_kernel_distance" in metrics
