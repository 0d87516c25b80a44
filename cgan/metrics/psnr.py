"""PSNR of a mean squared error, without torch; `cgan.metrics.pictures.psnr` is that of tensors."""

import math


def psnr_of_error(mean_squared_error: float) -> float:
    """Return the peak signal-to-noise ratio in dB, -10 log10(error), of values in [0, 1].

    Args:
        mean_squared_error: at least 0.

    Returns:
        The ratio; infinite for an error of 0.
    """
    return -10 * math.log10(mean_squared_error) if mean_squared_error else math.inf
