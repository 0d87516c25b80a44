"""FID and KID compared with closed forms and double loops; the fingerprints of their values."""

import json
import math
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cgan.errors import UserError
from cgan.metrics.distances import FeatureDistances, kid
from cgan.metrics.features import FeatureNetwork

CPU = torch.device("cpu")


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


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
    """16 seeded non-negative features, like those of Inception."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 16), nn.ReLU()).eval()


def distances(
    pictures: Tensor, photos: Tensor, module: nn.Module | None = None, dimensions: int = 3, batch: int = 16
) -> dict[str, dict[str, Any]]:
    network = FeatureNetwork(module or MeanColor(), dimensions, {"network": "test", "resize": "none"})
    found = FeatureDistances(network, CPU)
    for some_pictures, some_photos in zip(pictures.split(batch), photos.split(batch), strict=True):
        found.update(some_pictures, some_photos)
    return {name: value.to_json() for name, value in found.compute().items()}


def fid(*arguments: Any) -> float:
    value: float = distances(*arguments)["fid"]["value"]
    return value


def flat(colors: Tensor) -> Tensor:
    """Return N x 3 x 2 x 2 pictures with these N x 3 colours as features under `MeanColor`."""
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
        "pictures": "4 x 4",
        "network": "test",
        "resize": "none",
        "versions": {
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "torcheval": version("torcheval"),
        },
    }
    assert {**found["fid"], "value": 0} == {**common, "value": 0, "metric": "FID"}
    kid_only = {"estimator": "unbiased MMD^2 of all photos, no subsets", "kernel": "(x.y/d + 1)^3"}
    assert {**found["kid"], "value": 0} == {**common, **kid_only, "value": 0, "metric": "KID"}
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
