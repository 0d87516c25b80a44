"""`benchmarks.accuracy`: PSNR of known errors."""

import math

import numpy as np
import pytest

from benchmarks.accuracy import psnr_of_all, psnr_of_each

pytestmark = pytest.mark.benchmarks


def test_psnr_of_known_errors() -> None:
    truths = np.zeros((2, 3, 4, 5), np.float32)
    pictures = truths.copy()
    pictures[1] = 0.5
    assert list(psnr_of_each(pictures, truths)) == pytest.approx([math.inf, -10 * math.log10(0.25)])
    assert psnr_of_all(pictures, truths) == pytest.approx(-10 * math.log10(0.125))
    assert psnr_of_all(truths, truths) == math.inf
