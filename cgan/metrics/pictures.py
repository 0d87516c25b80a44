"""Metrics of single pictures: PSNR and SSIM against photos, and colourfulness."""

import torch
from torch import Tensor

NEAR_GRAY = 5.0
"""Photos with a lower colourfulness count as near gray."""

COLOR_METRICS = frozenset({"psnr", "gray_psnr", "ssim", "colorfulness", "real_colorfulness"})
"""Metrics whose means exclude near-gray photos, unless all photos are near gray: a gray photo has infinite PSNR against
its own luma, and does not measure colouring."""

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
"""Standard deviation and radius in pixels of SSIM's Gaussian window, 11 x 11."""
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
"""SSIM's constants (K1 L)^2 and (K2 L)^2 for values up to L = 1."""


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB: -10 log10(mean squared error), peak 1.

    Args:
        prediction: N x C x H x W in [0, 1].
        truth: the same shape and range.

    Returns:
        N values; infinite where the two are equal.
    """
    error = (prediction.double() - truth.double()).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al. 2004, "Image quality assessment: from error visibility to
    structural similarity", equation 13): the mean over channels and all positions of the whole window.

    It equals scikit-image's structural_similarity with gaussian_weights=True, sigma=1.5, use_sample_covariance=False.

    Args:
        prediction: N x C x H x W in [0, 1], float32 or float64, height and width at least 11.
        truth: the same shape, type and range.

    Returns:
        N values of at most 1, float64; computed in the type of the pictures, in float32 within 1e-5.

    Raises:
        ValueError: the pictures are smaller than the window.
    """
    height, width = truth.shape[2:]
    window = 2 * SSIM_RADIUS + 1
    if min(height, width) < window:
        raise ValueError(f"found {height} x {width} pixels, SSIM needs at least {window} x {window}")
    rows, columns = _window_sums(height).to(truth), _window_sums(width).to(truth)
    # Values are centred on 0, so that variances in float32 lose little precision to the means.
    x, y = prediction - 0.5, truth - 0.5
    planes = torch.stack([x, y, x * x + y * y, x * y])
    mean_x, mean_y, squares, products = (rows @ planes @ columns.T).unbind()
    both = mean_x * mean_y
    covariance = products - both
    variances = squares - mean_x * mean_x - mean_y * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x * mean_x + mean_y * mean_y + SSIM_C1)
    return (luminance * structure).mean(dim=(1, 2, 3), dtype=torch.float64)


def _window_sums(length: int) -> Tensor:
    """Return the matrix of Gaussian means at each position of the window: (length - 10) x length, float64.

    For few channels a matrix product is several times as fast as a convolution.
    """
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    matrix = torch.zeros(length - 2 * SSIM_RADIUS, length, dtype=torch.float64)
    for i, weight in enumerate(weights):
        matrix.diagonal(i).fill_(weight)
    return matrix


def colorfulness(rgb: Tensor) -> Tensor:
    """Colourfulness of each picture (Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images", M3).

    Args:
        rgb: N x 3 x H x W in [0, 1], sRGB.

    Returns:
        N values on the paper's scale for 0 to 255: 0 is gray, about 33 moderate, above 100 extreme.
    """
    red, green, blue = (255 * rgb.double()).unbind(dim=1)
    red_green = (red - green).flatten(1)
    yellow_blue = ((red + green) / 2 - blue).flatten(1)
    spread = (red_green.var(dim=1, correction=0) + yellow_blue.var(dim=1, correction=0)).sqrt()
    offset = (red_green.mean(dim=1).square() + yellow_blue.mean(dim=1).square()).sqrt()
    return spread + 0.3 * offset


def scores(pictures: Tensor, photos: Tensor, luma: Tensor) -> dict[str, Tensor]:
    """Return the metrics of each picture that both training and evaluation report.

    Args:
        pictures: N x 3 x H x W in [0, 1].
        photos: the true photos, same shape and range.
        luma: the gray photos, N x 1 x H x W in [0, 1]; their PSNR is the baseline of a model.

    Returns:
        N values each of psnr, gray_psnr, colorfulness and real_colorfulness.
    """
    return {
        "psnr": psnr(pictures, photos),
        "gray_psnr": psnr(luma.expand_as(photos), photos),
        "colorfulness": colorfulness(pictures),
        "real_colorfulness": colorfulness(photos),
    }


def means(columns: dict[str, Tensor]) -> dict[str, float]:
    """Return means over photos; those of COLOR_METRICS exclude near-gray photos.

    Args:
        columns: N values of each metric, including real_colorfulness.

    Returns:
        The means under the same names, after the numbers of "photos" and "near_gray_photos".
    """
    colored = columns["real_colorfulness"] >= NEAR_GRAY
    found: dict[str, float] = {"photos": len(colored), "near_gray_photos": int((~colored).sum())}
    for name, values in columns.items():
        chosen = values[colored] if name in COLOR_METRICS and colored.any() else values
        found[name] = float(chosen.mean())
    return found
