"""PSNR of arrays, by `cgan.metrics`."""

import numpy as np
from numpy.typing import NDArray

from cgan.extras import needed


def psnr_of_each(pictures: NDArray[np.float32], truths: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the PSNR of each picture in dB, N values; infinite where two are equal.

    Args:
        pictures: N x C x H x W in [0, 1].
        truths: the same shape and range.

    Raises:
        UserError: torch is not installed.
    """
    with needed("PSNR", "train"):
        import torch

        from cgan.metrics.pictures import psnr

    values: NDArray[np.float64] = psnr(torch.from_numpy(pictures), torch.from_numpy(truths)).numpy()
    return values


def psnr_of_all(pictures: NDArray[np.float32], truths: NDArray[np.float32]) -> float:
    """Return the PSNR in dB of all pictures together, from the mean squared error of all values.

    The arguments and errors are those of `psnr_of_each`.
    """
    count, channels, height, width = pictures.shape
    shape = (1, count * channels, height, width)
    return float(psnr_of_each(pictures.reshape(shape), truths.reshape(shape))[0])
