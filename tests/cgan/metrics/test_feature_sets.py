"""Feature sets, FID and KID against independent implementations, the bootstrap interval, and fingerprints."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgan.errors import UserError
from cgan.metrics import distances as metrics
from cgan.metrics.bootstrap import Interval, _frechet, _gaussian, fid_delta_interval
from cgan.metrics.distances import FeatureSet, kid, measure_fid, measure_kid
from cgan.metrics.features import FeatureNetwork
from cgan.metrics.measurement import Measured

ONES = torch.ones


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def features_of(rows: Tensor, network: FeatureNetwork | None = None) -> FeatureSet:
    found = FeatureSet(network or FeatureNetwork(nn.Identity(), rows.shape[1], {"network": "none"}))
    for part in rows.split(37):
        found.add(part, (8, 8))
    return found


def pair(real: Tensor, fake: Tensor) -> tuple[FeatureSet, FeatureSet]:
    network = FeatureNetwork(nn.Identity(), real.shape[1], {"network": "none"})
    return features_of(real, network), features_of(fake, network)


def test_fid_of_two_gaussian_sets_is_the_closed_form() -> None:
    # Of N(m1, S) and N(m2, c S) it is |m1 - m2|^2 + (1 - sqrt c)^2 trace S.
    rows, mixing = seeded(500, 16).double(), seeded(16, 16, seed=1).double()
    real = rows @ mixing
    shift = torch.linspace(-1, 1, 16, dtype=torch.float64)
    expected = shift.square().sum() + (1 - math.sqrt(1.44)) ** 2 * real.T.cov().trace()
    fake = (real - real.mean(dim=0)) * 1.2 + real.mean(dim=0) + shift
    assert measure_fid(*pair(real, fake)).value == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("count", "dimensions"), [(400, 64), (100, 160)])
def test_fid_and_kid_are_those_of_torch_fidelity(count: int, dimensions: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = seeded(count, dimensions).relu(), (1.1 * seeded(count, dimensions, seed=1) + 0.1).relu()
    statistics = [fid_features_to_statistics(rows) for rows in (real, fake)]
    fid = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert measure_fid(*pair(real, fake)).value == pytest.approx(float(fid), rel=1e-4)
    options = {"kid_subsets": 1, "kid_subset_size": count, "verbose": False}
    expected = kid_features_to_metric(real, fake, **options)["kernel_inception_distance_mean"]
    assert measure_kid(*pair(real, fake)).value == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("spooled", [1, 2**26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_set_gives_its_features_back_in_order_from_memory_or_disk(
    spooled: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SPOOLED_BYTES", spooled)
    rows = seeded(100, 5).to(dtype)
    found = features_of(rows)
    iterator = found.blocks(16)
    assert torch.equal(next(iterator), rows[:16])
    found.add(rows[:3], (8, 8))  # neither reader nor writer moves the other's place
    assert torch.equal(next(iterator), rows[16:32])
    assert torch.equal(torch.cat(list(found.blocks(16))), torch.cat([rows, rows[:3]]))
    assert torch.allclose(found.products, torch.cat([rows, rows[:3]]).double().T @ torch.cat([rows, rows[:3]]).double())
    assert kid(found, found) == pytest.approx(kid(torch.cat([rows, rows[:3]]), torch.cat([rows, rows[:3]])), rel=1e-9)


def test_a_set_holds_no_more_memory_for_more_features(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    monkeypatch.setattr(metrics, "SPOOLED_BYTES", 2**16)

    def grown(count: int) -> int:
        found = FeatureSet(FeatureNetwork(nn.Identity(), 64, {}))
        tracemalloc.start()
        for _ in range(count):
            found.add(ONES(64, 64), (8, 8))
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    grown(1)
    assert grown(200) < grown(20) + 2**15  # 180 more of 16 KiB each were added


def test_sets_that_do_not_belong_together_are_refused() -> None:
    one, other = pair(seeded(10, 3), seeded(9, 3))
    with pytest.raises(ValueError, match=r"found 10 photos .* 9 pictures"):
        measure_fid(one, other)
    with pytest.raises(ValueError, match=r"found pictures of \(4, 4\) after those of \(8, 8\)"):
        one.add(seeded(1, 3), (4, 4))


@pytest.mark.parametrize(("count", "dimensions"), [(40, 12), (10, 24), (900, 12)])
def test_the_bootstrap_s_fid_is_that_of_the_repeated_photos(count: int, dimensions: int) -> None:
    # 900 photos are more than a block, and more than the factor holds.
    real, fake = seeded(count, dimensions), 1.2 * seeded(count, dimensions, seed=1) + 0.3
    times = torch.from_numpy(np.bincount(np.random.default_rng(0).integers(0, count, count), minlength=count))
    network = FeatureNetwork(nn.Identity(), dimensions, {})
    repeated = [features_of(rows.repeat_interleave(times, dim=0), network) for rows in (real, fake)]
    found = _frechet(*(_gaussian(features_of(rows, network), times) for rows in (real, fake)))
    assert found == pytest.approx(measure_fid(*repeated).value, rel=1e-5)


@pytest.mark.slow
def test_the_interval_holds_the_difference_of_most_other_samples() -> None:
    network = FeatureNetwork(nn.Identity(), 4, {"network": "none"})

    def sample(seed: int) -> tuple[FeatureSet, FeatureSet, FeatureSet, float]:
        real = seeded(150, 4, seed=seed)
        reference = real + 0.3 * seeded(150, 4, seed=seed + 1000)
        candidate = reference + 0.2 * seeded(150, 4, seed=seed + 2000) + 0.1
        sets = [features_of(rows, network) for rows in (real, reference, candidate)]
        delta = measure_fid(sets[0], sets[2]).minus(measure_fid(sets[0], sets[1]))
        return sets[0], sets[1], sets[2], delta

    true = float(np.mean([sample(seed)[3] for seed in range(200)]))
    held = 0
    for seed in range(40):
        interval = fid_delta_interval(*sample(seed), replicates=60)
        held += interval.low <= true <= interval.high
    assert held >= 33  # 95% of 40 is 38


def test_the_interval_of_equal_pictures_is_a_point_and_is_repeatable() -> None:
    network = FeatureNetwork(nn.Identity(), 6, {})
    real, pictures = (features_of(seeded(30, 6, seed=seed), network) for seed in (0, 1))
    other = features_of(seeded(30, 6, seed=2), network)
    point = fid_delta_interval(real, pictures, pictures, 0.0, replicates=5)
    assert (point.low, point.high) == (0, 0)
    wide = fid_delta_interval(real, pictures, other, 0.5, replicates=20)
    assert wide == fid_delta_interval(real, pictures, other, 0.5, replicates=20)
    assert wide.low < 0.5 < wide.high
    assert Interval(-2.0, 1.0, 0.95, 5).farthest == 2


def test_values_of_different_fingerprints_are_not_compared() -> None:
    one = Measured(3.0, {"metric": "FID", "photos": 10, "weights_sha256": "a"})
    assert one.minus(Measured(1.0, dict(one.fingerprint), "a note")) == 2
    for changed in ({"weights_sha256": "b"}, {"photos": 11}, {"metric": "KID"}, {"resize": "none"}):
        with pytest.raises(UserError, match=f"cannot be compared: found {next(iter(changed))}: .*measure both alike"):
            one.minus(replace(one, fingerprint={**one.fingerprint, **changed}))


def test_a_measured_value_survives_json() -> None:
    for number, note in ((1.5, None), (2.0, "biased"), (math.inf, None)):
        value = Measured(number, {"metric": "FID", "versions": {"torch": "2"}}, note)
        assert Measured.from_json(json.loads(json.dumps(value.to_json(), allow_nan=False))) == value
    with pytest.raises(ValueError, match="expected a number"):
        Measured.from_json({"metric": "FID"})


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_no_figure_can_be_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="expected a number or infinity"):
        Measured(value, {}).to_json()
