"""PSNR, colourfulness, FID and KID against closed forms, and the weights that FID and KID need."""

import json
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cgan.metrics import (
    INCEPTION_CACHE_NAME,
    FeatureDistances,
    FeatureNetwork,
    colorfulness,
    inception_path,
    kid,
    load_inception,
    psnr,
)
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


class Shifted(nn.Module):
    """The channel means times a factor, plus an offset."""

    def __init__(self, factor: float = 1, offset: float = 0) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x.mean(dim=(2, 3)) + self.offset


def features_network() -> nn.Module:
    """16 seeded features that are not negative, as those of Inception."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 16), nn.ReLU()).eval()


def distances(
    pictures: Tensor, photos: Tensor, module: nn.Module | None = None, dimensions: int = 3, batch: int = 16
) -> dict[str, dict[str, Any]]:
    network = FeatureNetwork(module or MeanColor(), dimensions, {"network": "test", "resize": "none"})
    found = FeatureDistances(network, CPU)
    for some_pictures, some_photos in zip(pictures.split(batch), photos.split(batch), strict=True):
        found.update(some_pictures, some_photos)
    return found.compute()


def fid(*arguments: Any) -> float:
    value: float = distances(*arguments)["fid"]["value"]
    return value


def flat(colors: Tensor) -> Tensor:
    """N x 3 colours -> N x 3 x 2 x 2 pictures whose features under `MeanColor` they are."""
    return colors.float()[:, :, None, None].expand(-1, -1, 2, 2)


CUBE = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
"""Eight points of mean 0 and of covariance 8/7 times the identity."""


def test_fid_of_equal_sets_is_zero() -> None:
    photos = seeded(64, 3, 4, 4)
    assert fid(photos, photos, features_network(), 16) == pytest.approx(0, abs=1e-6)
    assert fid(photos, photos.flip(0), features_network(), 16) == pytest.approx(0, abs=1e-6)
    assert fid(photos / 2, photos, features_network(), 16) > 0.01


@pytest.mark.parametrize("shift", [(0.3, 0.0, 0.4), (0.0, -0.2, 0.0)])
def test_fid_of_shifted_features_is_the_squared_shift(shift: tuple[float, ...]) -> None:
    photos = seeded(64, 3, 4, 4) / 4 + 0.25
    found = fid(photos + torch.tensor(shift).view(1, 3, 1, 1), photos)
    assert found == pytest.approx(sum(d * d for d in shift), abs=1e-6)


def test_fid_of_diagonal_covariances_is_that_of_the_deviations() -> None:
    # Frechet distance of normal distributions of independent axes: the sum of (m1 - m2)^2 + (s1 - s2)^2
    means = torch.tensor([[0.5, 0.5, 0.25], [0.5, 0.25, 0.625]])
    deviations = torch.tensor([[0.5, 0.25, 0.125], [0.125, 0.25, 0.375]])
    photos, pictures = (flat(means[i] + deviations[i] * CUBE) for i in (0, 1))
    means, deviations = means.double(), deviations.double()
    expected = (means[0] - means[1]).square().sum() + 8 / 7 * (deviations[0] - deviations[1]).square().sum()
    assert fid(pictures, photos) == pytest.approx(expected.item(), rel=1e-9)


def test_fid_of_correlated_features() -> None:
    # The trace of a root of a 2 x 2 matrix M of positive eigenvalues is sqrt(trace M + 2 sqrt(det M)).
    class TwoFeatures(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.double().mean(dim=(2, 3)) @ torch.tensor([[1.0, 2.0], [-1.0, 1.0], [0.5, 0.0]]).double()

    photos, pictures = seeded(50, 3, 4, 4), seeded(50, 3, 4, 4, seed=1) ** 3
    real, fake = TwoFeatures()(photos), TwoFeatures()(pictures)
    covariances = real.T.cov(), fake.T.cov()
    product = covariances[0] @ covariances[1]
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    expected = (real.mean(0) - fake.mean(0)).square().sum() + sum(c.trace() for c in covariances) - 2 * root
    assert not torch.allclose(product, product.T, rtol=0.01)
    assert fid(pictures, photos, TwoFeatures(), 2) == pytest.approx(expected.item(), rel=1e-9)


def test_fid_is_computed_in_float64() -> None:
    from torcheval.metrics import FrechetInceptionDistance

    # Multiples of 1/256 that float32 holds exactly beside an offset of 300, while their squares' sums need more.
    colors = torch.randint(0, 257, (256, 3), generator=torch.Generator().manual_seed(0)) / 512
    photos, pictures = flat(2 * colors), flat(colors)
    covariance = (2 * colors).double().T.cov()  # that of the pictures is a quarter of it: the two commute
    expected = (colors.double().mean(0).square().sum() + covariance.trace() / 4).item()
    assert fid(pictures, photos, Shifted(offset=300)) == pytest.approx(expected, rel=1e-6)
    float32 = FrechetInceptionDistance(Shifted(offset=300), 3)
    float32.update(photos, is_real=True).update(pictures, is_real=False)
    assert abs(float32.compute().item() - expected) > 0.01 * expected


def naive_kid(real: list[list[float]], fake: list[list[float]]) -> float:
    def mean(pairs: Any) -> float:
        kernels = [(math.fsum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3 for x, y in pairs]
        return math.fsum(kernels) / len(kernels)

    def within(rows: list[list[float]]) -> float:
        return mean((x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j)

    return within(real) + within(fake) - 2 * mean((x, y) for x in real for y in fake)


@pytest.mark.parametrize(("real", "fake"), [(2, 2), (7, 7), (9, 4)])
@pytest.mark.parametrize("offset", [0, 20])
def test_kid_is_that_of_a_double_loop(real: int, fake: int, offset: float) -> None:
    # With the offset float32 would lose all but the first digits of a kernel of 6e7.
    one, other = seeded(real, 5) + offset, seeded(fake, 5, seed=1) * 1.1 + offset
    assert kid(one, other) == pytest.approx(naive_kid(one.tolist(), other.tolist()), rel=1e-9, abs=1e-7)
    assert kid(one, other) == pytest.approx(kid(other, one), rel=1e-9, abs=1e-7)


def test_kid_of_two_equal_pairs() -> None:
    # k(a, a) = k(b, b) = 8, k(a, b) = 1: 1 + 1 - 2 (8 + 8 + 1 + 1) / 4
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert kid(pair, pair) == pytest.approx(-7, abs=1e-12)


@pytest.mark.parametrize("block", [1, 4, 7, 20, 1000])
def test_kid_in_blocks_is_that_of_one(block: int) -> None:
    real, fake = seeded(20, 5), seeded(13, 5, seed=1)
    assert kid(real, fake, block=block) == pytest.approx(kid(real, fake, block=20), abs=1e-12)


def test_kid_never_holds_a_kernel_matrix_larger_than_a_block() -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for tensor in [result] if isinstance(result, Tensor) else []:
                self.elements = max(self.elements, tensor.numel())
            return result

    real, fake = seeded(200, 2), seeded(200, 2, seed=1)
    with Largest() as largest:
        kid(real, fake, block=25)
    assert largest.elements == 25 * 25


def test_kid_of_one_distribution_is_zero_on_average_and_that_of_a_shifted_one_is_positive() -> None:
    sets = torch.randn(400, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    same = torch.tensor([kid(real, fake) for real, fake in sets])
    assert same.min() < 0 < same.max()
    assert abs(same.mean()) < 3 * same.std() / math.sqrt(len(same))
    shifted = torch.tensor([kid(real, fake + 1) for real, fake in sets])
    assert shifted.mean() > 20 * shifted.std() / math.sqrt(len(shifted))


@pytest.mark.parametrize(("real", "fake"), [(1, 5), (5, 1), (0, 0)])
def test_kid_needs_two_features_of_each(real: int, fake: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kid(seeded(real, 3), seeded(fake, 3))


def test_both_distances_come_from_one_pass_over_the_same_features() -> None:
    class Counting(MeanColor):
        images = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.images += len(x)
            return super().forward(x)

    pictures, photos = seeded(40, 3, 4, 4), seeded(40, 3, 4, 4, seed=1) / 2
    found = distances(pictures, photos, Counting())
    assert Counting.images == 80
    real, fake = MeanColor()(photos), MeanColor()(pictures)
    assert found["kid"]["value"] == pytest.approx(kid(real, fake), abs=1e-9)
    assert found["fid"]["value"] > (real.mean(0) - fake.mean(0)).square().sum().item() > 0.1


@pytest.mark.parametrize("batch", [1, 7, 48])
def test_neither_order_nor_batch_size_matter(batch: int) -> None:
    pictures, photos = seeded(48, 3, 4, 4), seeded(48, 3, 4, 4, seed=1)
    expected = distances(pictures, photos, features_network(), 16)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(2))
    for found in (
        distances(pictures, photos, features_network(), 16, batch),
        distances(pictures[order], photos, features_network(), 16, batch),
        distances(pictures[order], photos[order], features_network(), 16, batch),
    ):
        for name in ("fid", "kid"):
            assert found[name]["value"] == pytest.approx(expected[name]["value"], abs=1e-6)


def test_distances_carry_their_fingerprint_and_the_number_of_photos() -> None:
    photos = seeded(40, 3, 4, 4)
    found = distances(photos, photos)
    common = {
        "photos": 40,
        "network": "test",
        "resize": "none",
        "versions": {
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "torcheval": version("torcheval"),
        },
    }
    assert {**found["fid"], "value": 0} == {**common, "value": 0}
    kid_only = {"estimator": "unbiased MMD^2 of all photos, no subsets", "kernel": "(x.y/d + 1)^3"}
    assert {**found["kid"], "value": 0} == {**common, **kid_only, "value": 0}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("photos", "deficient"), [(2, True), (3, True), (4, False)])
def test_fid_of_no_more_photos_than_features_carries_a_note(photos: int, deficient: bool) -> None:
    # The covariance of N features has rank N - 1 at most; there are three.
    found = distances(seeded(photos, 3, 4, 4), seeded(photos, 3, 4, 4, seed=1))
    assert (torch.linalg.matrix_rank(seeded(photos, 3).T.cov()) < 3) == deficient
    assert ("note" in found["fid"]) == deficient
    assert "note" not in found["kid"]
    if deficient:
        assert found["fid"]["note"].startswith(f"{photos} photos are too few for 3 features")
        assert "rank-deficient and FID is strongly biased" in found["fid"]["note"]


def test_fid_of_few_photos_is_biased_as_its_note_says_and_kid_is_not() -> None:
    class Columns(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0].flatten(1)

    few = distances(seeded(20, 3, 8, 8), seeded(20, 3, 8, 8, seed=1), Columns(), 64)
    many = distances(seeded(2000, 3, 8, 8), seeded(2000, 3, 8, 8, seed=1), Columns(), 64)
    assert few["fid"]["value"] > 20 * many["fid"]["value"]
    assert abs(few["kid"]["value"]) < 0.01 * few["fid"]["value"]


@pytest.mark.parametrize("photos", [0, 1])
def test_fewer_than_two_photos_are_refused(photos: int) -> None:
    with pytest.raises(UserError, match=f"at least 2 photos, found {photos};.*--no-fid") as caught:
        distances(seeded(photos, 3, 4, 4), seeded(photos, 3, 4, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", ["pictures", "photos"])
def test_images_that_are_no_numbers_are_refused(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def eigvals(matrix: Tensor) -> Tensor:
        raise AssertionError("LAPACK crashes the process on large matrices that are no numbers")

    monkeypatch.setattr(torch.linalg, "eigvals", eigvals)
    good, bad = seeded(8, 3, 4, 4), seeded(8, 3, 4, 4)
    bad[5, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match=r"FID of 8 photos is nan.*--no-fid") as caught:
        distances(bad, good) if broken == "pictures" else distances(good, bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("factor", "name"), [(math.inf, "FID"), (1e60, "KID")])
def test_features_too_large_are_refused(factor: float, name: str) -> None:
    # The kernel's third power overflows where the covariances' product does not.
    class Large(Shifted):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.double())

    with pytest.raises(UserError, match=f"{name} of 8 photos is .*--no-fid"):
        distances(seeded(8, 3, 4, 4), seeded(8, 3, 4, 4, seed=1), Large(factor))


@pytest.mark.parametrize("wrong", ["above", "below", "dtype", "count"])
def test_images_off_the_contract_are_refused(wrong: str) -> None:
    good = seeded(8, 3, 4, 4)
    bad = {"above": good + 0.1, "below": good - 0.1, "dtype": good.double(), "count": good[:7]}[wrong]
    for pictures, photos in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="expected"):
            distances(pictures, photos)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's Inception v3 with seeded random weights."""
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), path)
    return path


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


def test_inception_is_built_without_warnings(inception_weights: Path) -> None:
    # In a process of its own, because torcheval warns when it is imported first.
    code = f"import pathlib, cgan.metrics as m; m.load_inception(pathlib.Path({str(inception_weights)!r}))"
    strict = ["-W", "error::FutureWarning", "-W", "error::UserWarning"]
    done = subprocess.run([sys.executable, *strict, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_warnings_are_not_silenced(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(weights: None) -> nn.Module:
        warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)
        return nn.Linear(3, 3)

    monkeypatch.setattr("torchvision.models.inception_v3", build)
    before = list(warnings.filters)
    with pytest.warns(FutureWarning, match="something else"), pytest.raises(UserError):
        load_inception(inception_weights)
    assert warnings.filters == before


def test_inception_path_is_the_file_or_the_one_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / INCEPTION_CACHE_NAME
    cached.parent.mkdir(parents=True)
    cached.touch()
    (tmp_path / "mine.pth").touch()
    assert inception_path(None) == cached
    assert inception_path(tmp_path / "mine.pth") == tmp_path / "mine.pth"


@pytest.mark.parametrize("ask", [inception_path, load_inception])
def test_missing_inception_weights_say_what_to_do(
    ask: Callable[[Path | None], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for weights in (None, tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UserError) as caught:
            ask(weights)
        assert str(weights or tmp_path / "hub" / "checkpoints") in str(caught.value)
        assert "--inception-weights" in str(caught.value)
        assert "inception_v3(weights='DEFAULT')" in str(caught.value)
        assert "--no-fid" in str(caught.value)
        assert caught.value.exit_code == 2


class Harmful:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


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
