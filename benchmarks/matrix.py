"""Rate of a large matrix product, as an upper bound for models, and the number of operations of a model."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from cgan.networks import Generator
from cgan.spec import ModelSpec
from cgan.training.stopwatch import Stopwatch

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
PRODUCTS = 5


def matrix_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of a square matrix product, the fastest of PRODUCTS.

    Args:
        device: computes it.
        dtype: type of both factors and of the product.
    """
    side = MATRIX_SIDE[device.type]
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    watch = Stopwatch(device)
    times = []
    for _ in range(PRODUCTS):
        watch.seconds()
        began = time.perf_counter()
        matrix @ matrix
        watch.seconds()
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


def operations(spec: ModelSpec, height: int, width: int) -> int:
    """Return the multiplications and additions of the convolutions of a model for one photo.

    Args:
        spec: contract of the model.
        height: of the photo in pixels.
        width: of the photo in pixels.
    """
    generator = Generator.of(spec).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        generator(torch.zeros(1, 1, height, width))
    return int(counter.get_total_flops())
