"""PSNR, colourfulness and FID against closed forms, and the weights that FID needs."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cgan.metrics import FID, FeatureNetwork, colorfulness, load_inception, psnr
from cgan.spec import UserError, file_sha256

CPU = torch.device("cpu")


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(st.floats(1e-3, 1.0))
def test_psnr_of_a_constant_difference(difference: float) -> None:
    truth = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    found = psnr(truth + difference, truth)
    assert found.shape == (2,)
    assert found.tolist() == pytest.approx([-20 * math.log10(difference)] * 2, abs=1e-9)


def test_psnr_is_that_of_each_picture_alone() -> None:
    truth = torch.zeros(3, 1, 2, 2)
    prediction = truth.clone()
    prediction[1, 0, 0, 0] = 1  # mean squared error 1/4
    prediction[2] = 0.1
    found = psnr(prediction, truth)
    assert found[0] == math.inf
    assert found[1:].tolist() == pytest.approx([10 * math.log10(4), 20], abs=1e-5)


def test_gray_pictures_have_no_colourfulness() -> None:
    assert colorfulness(seeded(4, 1, 8, 8).expand(-1, 3, -1, -1)).tolist() == pytest.approx([0] * 4, abs=1e-9)


def test_colourfulness_of_two_known_colours() -> None:
    picture = torch.zeros(1, 3, 4, 4)
    picture[0, 0, :, :2] = 1  # left half red: R - G = 255, (R + G)/2 - B = 127.5
    picture[0, 2, :, 2:] = 1  # right half blue: R - G = 0, (R + G)/2 - B = -255
    red_green, yellow_blue = (255, 0), (127.5, -255)
    spread = math.hypot((red_green[0] - red_green[1]) / 2, (yellow_blue[0] - yellow_blue[1]) / 2)
    offset = math.hypot(sum(red_green) / 2, sum(yellow_blue) / 2)
    assert colorfulness(picture).item() == pytest.approx(spread + 0.3 * offset, rel=1e-9)


def test_colourfulness_of_one_flat_colour_is_its_offset_alone() -> None:
    flat = torch.tensor([0.8, 0.2, 0.4]).view(1, 3, 1, 1).expand(1, 3, 5, 5)
    expected = 0.3 * math.hypot(255 * 0.6, 255 * 0.1)
    assert colorfulness(flat).item() == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_colourfulness_falls_in_step_with_saturation(seed: int, share: float) -> None:
    picture = seeded(2, 3, 4, 4, seed=seed).double()
    gray = picture.mean(dim=1, keepdim=True)
    faded = gray + share * (picture - gray)
    assert torch.allclose(colorfulness(faded), share * colorfulness(picture), rtol=1e-6, atol=1e-6)


class MeanColor(nn.Module):
    """The three channel means as features: their statistics are known in closed form."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def fid(pictures: Tensor, photos: Tensor, module: nn.Module | None = None, dimensions: int = 3) -> dict[str, Any]:
    metric = FID(FeatureNetwork(module or MeanColor(), dimensions, {"network": "test", "resize": "none"}), CPU)
    for some_pictures, some_photos in zip(pictures.split(16), photos.split(16), strict=True):
        metric.update(some_pictures, some_photos)
    return metric.compute()


def test_fid_of_equal_sets_is_zero() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 16), nn.ReLU()).eval()
    photos = seeded(64, 3, 4, 4)
    assert fid(photos, photos, network, 16)["value"] == pytest.approx(0, abs=1e-4)
    assert fid(photos, photos.flip(0), network, 16)["value"] == pytest.approx(0, abs=1e-4)
    assert fid(photos / 2, photos, network, 16)["value"] > 0.01


@pytest.mark.parametrize("shift", [(0.3, 0.0, 0.4), (0.0, -0.2, 0.0)])
def test_fid_of_shifted_features_is_the_squared_shift(shift: tuple[float, ...]) -> None:
    photos = seeded(64, 3, 4, 4)
    found = fid(photos + torch.tensor(shift).view(1, 3, 1, 1), photos)
    assert found["value"] == pytest.approx(sum(d * d for d in shift), abs=1e-4)


def test_fid_of_scaled_features_is_that_of_the_variances() -> None:
    # Frechet distance of two normal distributions of one axis: (m1 - m2)^2 + (s1 - s2)^2
    values = seeded(256)
    photos = torch.zeros(256, 3, 2, 2)
    photos[:, 0] = values[:, None, None]
    mean, deviation = values.mean().item(), values.std().item()
    assert fid(3 * photos, photos)["value"] == pytest.approx((2 * mean) ** 2 + (2 * deviation) ** 2, rel=1e-3)


def test_fid_does_not_depend_on_the_order() -> None:
    pictures, photos = seeded(48, 3, 4, 4), seeded(48, 3, 4, 4, seed=1)
    assert fid(pictures, photos)["value"] == pytest.approx(fid(pictures.flip(0), photos)["value"], abs=1e-5)


def test_fid_carries_its_fingerprint_and_the_number_of_photos() -> None:
    photos = seeded(40, 3, 4, 4)
    found = fid(photos, photos)
    assert found["photos"] == 40
    assert (found["network"], found["resize"]) == ("test", "none")


def test_fid_of_one_photo_is_refused() -> None:
    with pytest.raises(UserError, match="--no-fid"):
        fid(seeded(1, 3, 4, 4), seeded(1, 3, 4, 4))


def test_fid_of_pictures_that_are_no_numbers_is_refused() -> None:
    with pytest.raises(UserError, match="--no-fid"):
        fid(torch.full((8, 3, 4, 4), math.nan), seeded(8, 3, 4, 4))


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's Inception v3 with seeded random weights."""
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), path)
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_inception_comes_from_the_file_and_says_so(inception_weights: Path) -> None:
    network = load_inception(inception_weights)
    assert network.fingerprint["weights_sha256"] == file_sha256(inception_weights)
    assert "inception_v3" in network.fingerprint["network"]
    assert "299" in network.fingerprint["resize"]
    state = torch.load(inception_weights, weights_only=True)
    loaded = network.module.model.state_dict()
    assert not [name for name in loaded if not torch.equal(loaded[name], state[name])]
    assert not network.module.training
    photos = seeded(2, 3, 32, 32)
    with torch.no_grad():
        features = network.module(photos)
        assert features.shape == (2, network.dimensions)
        assert torch.allclose(network.module(photos[:1]), features[:1], atol=1e-5)  # evaluation mode: no batch norm
        network.module.model.transform_input = False
        assert not torch.allclose(network.module(photos), features)  # the input is normalised as torchvision does


def test_missing_inception_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for weights in (None, tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UserError) as caught:
            load_inception(weights)
        assert str(weights or tmp_path / "hub" / "checkpoints") in str(caught.value)
        assert "--inception-weights" in str(caught.value)
        assert "--no-fid" in str(caught.value)
        assert caught.value.exit_code == 2


class Harmful:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("content", ["text", "list", "other network", "pickle"])
def test_a_file_that_is_no_inception_is_refused(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.models.inception_v3", lambda weights: nn.Linear(3, 3))  # fast to build
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("no weights at all")
    elif content == "pickle":
        path.write_bytes(pickle.dumps({"model": Harmful(tmp_path / "harm")}))
    else:
        torch.save([1, 2] if content == "list" else nn.Conv2d(1, 1, 3).state_dict(), path)
    with pytest.raises(UserError, match=r"weights\.pth: not the weights of torchvision's Inception v3") as caught:
        load_inception(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()
