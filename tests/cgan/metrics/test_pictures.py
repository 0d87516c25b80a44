"""PSNR, SSIM, CIEDE2000 and colourfulness against closed forms, published pairs and scikit-image."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cgan.metrics.delta_e import ciede2000, delta_e, srgb_to_lab
from cgan.metrics.pictures import COLOR_METRICS, colorfulness, means, psnr, scores, ssim


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


SHARMA = [  # L1, a1, b1, L2, a2, b2, CIEDE2000: Sharma et al. 2005, table 1, all 34 pairs
    (50, 2.6772, -79.7751, 50, 0, -82.7485, 2.0425),
    (50, 3.1571, -77.2803, 50, 0, -82.7485, 2.8615),
    (50, 2.8361, -74.0200, 50, 0, -82.7485, 3.4412),
    (50, -1.3802, -84.2814, 50, 0, -82.7485, 1.0000),
    (50, -1.1848, -84.8006, 50, 0, -82.7485, 1.0000),
    (50, -0.9009, -85.5211, 50, 0, -82.7485, 1.0000),
    (50, 0, 0, 50, -1, 2, 2.3669),
    (50, -1, 2, 50, 0, 0, 2.3669),
    (50, 2.4900, -0.0010, 50, -2.4900, 0.0009, 7.1792),
    (50, 2.4900, -0.0010, 50, -2.4900, 0.0010, 7.1792),
    (50, 2.4900, -0.0010, 50, -2.4900, 0.0011, 7.2195),
    (50, 2.4900, -0.0010, 50, -2.4900, 0.0012, 7.2195),
    (50, -0.0010, 2.4900, 50, 0.0009, -2.4900, 4.8045),
    (50, -0.0010, 2.4900, 50, 0.0010, -2.4900, 4.8045),
    (50, -0.0010, 2.4900, 50, 0.0011, -2.4900, 4.7461),
    (50, 2.5, 0, 50, 0, -2.5, 4.3065),
    (50, 2.5, 0, 73, 25, -18, 27.1492),
    (50, 2.5, 0, 61, -5, 29, 22.8977),
    (50, 2.5, 0, 56, -27, -3, 31.9030),
    (50, 2.5, 0, 58, 24, 15, 19.4535),
    (50, 2.5, 0, 50, 3.1736, 0.5854, 1.0000),
    (50, 2.5, 0, 50, 3.2972, 0, 1.0000),
    (50, 2.5, 0, 50, 1.8634, 0.5757, 1.0000),
    (50, 2.5, 0, 50, 3.2592, 0.3350, 1.0000),
    (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
    (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630),
    (61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731),
    (35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645),
    (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
    (36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
    (90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441),
    (90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381),
    (6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377),
    (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
]


@pytest.mark.parametrize("swapped", [False, True])
def test_ciede2000_of_the_published_pairs(swapped: bool) -> None:
    pairs = torch.tensor(SHARMA, dtype=torch.float64)
    one, other = pairs[:, 0:3, None, None], pairs[:, 3:6, None, None]
    found = ciede2000(other, one) if swapped else ciede2000(one, other)
    assert np.abs(found.flatten().numpy() - pairs[:, 6].numpy()).max() < 5.1e-5  # they are given to four decimals


def lab_colors(count: int, seed: int) -> Tensor:
    low, high = torch.tensor([0.0, -108, -108]), torch.tensor([100.0, 99, 99])
    values = low + (high - low) * seeded(count, 3, seed=seed)
    return values.double()[:, :, None, None]


def test_ciede2000_is_that_of_scikit_image() -> None:
    from skimage.color import deltaE_ciede2000

    one = lab_colors(20_000, 0)
    for other in (
        lab_colors(20_000, 1),
        one + 0.5 * torch.randn(one.shape, generator=torch.Generator().manual_seed(2)),
    ):
        expected = deltaE_ciede2000(one[:, :, 0, 0].numpy(), other[:, :, 0, 0].numpy())
        assert np.abs(ciede2000(one, other).flatten().numpy() - expected).max() < 1e-9


def test_lab_is_that_of_scikit_image() -> None:
    from skimage.color import rgb2lab

    rgb = torch.cartesian_prod(*[torch.linspace(0, 1, 12, dtype=torch.float64)] * 3)
    found = srgb_to_lab(rgb[:, :, None, None])[:, :, 0, 0]
    # Its white point is rounded to five digits, ours is that of the matrix.
    assert np.abs(found.numpy() - rgb2lab(rgb.numpy())).max() < 0.02
    gray = torch.linspace(0, 1, 50, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    assert srgb_to_lab(gray)[:, 1:].abs().max() < 1e-12
    assert srgb_to_lab(torch.ones(1, 3, 1, 1)).flatten().tolist() == pytest.approx([100, 0, 0], abs=1e-4)


def test_float32_is_exact_enough_for_ciede2000() -> None:
    truth = seeded(8, 3, 64, 64).double()
    for scale, mean_error, worst in ((1e-3, 1e-5, 0.01), (0.05, 1e-5, 0.1)):
        picture = (truth + scale * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
        error = (delta_e(picture.float(), truth.float()) - delta_e(picture, truth)).abs()
        assert error.mean() < mean_error
        assert error.max() < worst  # at opposite hues the formula itself has a step


def test_ciede2000_of_equal_colours_is_zero_and_of_black_and_white_is_100() -> None:
    photo = seeded(1, 3, 8, 8)
    assert delta_e(photo, photo).abs().max() == 0
    assert delta_e(torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)).item() == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("size", [(11, 11), (32, 48), (128, 128)])
def test_ssim_is_that_of_scikit_image(size: tuple[int, int]) -> None:
    from skimage.metrics import structural_similarity

    truth = seeded(3, 3, *size).double()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    for picture in ((truth + 0.1 * noise).clamp(0, 1), truth**1.5, 0.9 + 0.01 * noise.double(), 1 - truth):
        expected = [
            structural_similarity(
                one.numpy(),
                other.numpy(),
                **{"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
                **{"data_range": 1.0, "channel_axis": 0},
            )
            for one, other in zip(picture, truth, strict=True)
        ]
        assert ssim(picture, truth).tolist() == pytest.approx(expected, abs=1e-9)
        assert ssim(picture.float(), truth.float()).tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_of_equal_pictures_is_one_and_small_ones_are_refused() -> None:
    photo = seeded(2, 3, 16, 16)
    assert ssim(photo, photo).tolist() == pytest.approx([1, 1], abs=1e-6)
    with pytest.raises(ValueError, match=r"found 10 x 16 pixels, SSIM needs at least 11 x 11"):
        ssim(photo[:, :, :10], photo[:, :, :10])


@pytest.mark.slow
def test_psnr_is_that_of_scikit_image() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    picture, photo = seeded(1, 3, 16, 16), seeded(1, 3, 16, 16, seed=1)
    expected = peak_signal_noise_ratio(photo.double().numpy(), picture.double().numpy(), data_range=1.0)
    assert psnr(picture, photo).item() == pytest.approx(expected, abs=1e-9)


def test_means_leave_out_near_gray_photos_but_not_of_every_figure() -> None:
    photos = seeded(3, 3, 12, 12)
    photos[1] = photos[1].mean(dim=0)
    luma = photos.mean(dim=1, keepdim=True)
    columns = {**scores(photos * 0.9, photos, luma), "l1": torch.tensor([1.0, 2.0, 6.0])}
    found = means(columns)
    assert (found["photos"], found["near_gray_photos"]) == (3, 1)
    for name in COLOR_METRICS & columns.keys():
        assert found[name] == pytest.approx(float(columns[name][[0, 2]].mean()))
    assert found["l1"] == 3
    gray = means({name: values[1:2] for name, values in columns.items()})
    assert gray["near_gray_photos"] == 1 and gray["real_colorfulness"] == pytest.approx(0, abs=1e-3)
