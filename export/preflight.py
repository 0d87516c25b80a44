"""Preflight checks: faults of a model that would make its export wrong, found before anything is written."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from cgan.errors import GateError
from cgan.networks import Generator
from cgan.spec import Precision
from cgan.text import counted, told_apart
from export.onnx_model import simplified

BATCH = 8
BATCH_TOLERANCE = 1e-4
"""Allowed difference between the colours of a photo in a batch of one and of BATCH; rounding causes about 1e-6."""

HALF_MAX = torch.finfo(torch.float16).max
"""Largest number in fp16: 65,504."""


def check_model(generator: Generator, photos: NDArray[np.float32], precision: Precision) -> None:
    """Refuse a generator whose export would differ from it, or whose colours depend on the rest of the batch.

    Args:
        generator: the generator to export, on the CPU in fp32.
        photos: N x 1 x H x W float32 in [0, 1], on which activations are measured.
        precision: precision of the artefact; fp16 needs weights and activations within its range.

    Raises:
        GateError: a check failed; the message names the layer and the remedy.
    """
    _check_modes(generator)
    _check_finite(generator)
    gray = torch.from_numpy(photos[np.arange(BATCH) % len(photos)])
    _check_batch(generator, gray)
    if precision == "fp16":
        _check_half(simplified(generator), gray)  # as the file will hold it


def _check_modes(generator: Generator) -> None:
    for name, layer in generator.named_modules():
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            raise GateError(
                f"{name}: batch norm uses the statistics of its batch, expected those of training; "
                "call eval() before the export"
            )
        if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0:
            raise GateError(f"{name}: dropout is active, expected none in an export; call eval() before the export")


def _check_finite(generator: Generator) -> None:
    for name, tensor in generator.state_dict().items():
        if not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise GateError(f"{name}: found {counted(count, 'weight')} not finite; export another checkpoint")


@torch.no_grad()
def _check_batch(generator: Generator, gray: Tensor) -> None:
    together = generator(gray)
    alone = torch.cat([generator(one) for one in torch.split(gray, 1)])
    difference = float((together - alone).abs().max())
    if not difference <= BATCH_TOLERANCE:
        raise GateError(
            f"the model's colours of a photo depend on the rest of its batch: they differ by up to {difference:.3g} "
            f"between batch 1 and {len(gray)}; only models without that can be exported"
        )


@torch.no_grad()
def _check_half(generator: Generator, gray: Tensor) -> None:
    for name, tensor in generator.state_dict().items():
        if tensor.is_floating_point() and float(tensor.abs().max()) > HALF_MAX:
            raise GateError(
                f"{name}: found a weight of {float(tensor.abs().max()):.3g}, fp16 ends at {HALF_MAX:.0f}; use fp32"
            )
    largest: dict[str, float] = {}
    hooks = []
    for name, layer in generator.named_modules():
        if not list(layer.children()):

            def record(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                largest[name] = float(output.abs().max())

            hooks.append(layer.register_forward_hook(record))
    try:
        generator(gray)
    finally:
        for hook in hooks:
            hook.remove()
    for name, value in largest.items():
        if not value <= HALF_MAX:
            reached, end = told_apart(value, HALF_MAX, 5)
            raise GateError(
                f"{name}: its output reaches {reached} on photos, fp16 ends at {end}; "
                "use --precision fp32, or train with --precision fp16"
            )
