"""A generator restored from an exported fp32 ONNX file, so that training can continue from a deployed model.

The exporter folds batch norm into the convolutions; training needs it back.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgan.errors import UserError
from cgan.extras import needed
from cgan.networks import Generator
from cgan.onnx_file import read_contract, read_onnx
from cgan.packaged import PACKAGED_MODELS
from cgan.spec import ModelSpec, read_sidecar
from cgan.training.checkpoint import check_trainable, load_generator

PREFIX = "generator."
"""Prefix of the names of the generator's weights in an ONNX file, from `cgan.networks.GrayToRGB`."""


class ExportedGenerator(Generator):
    """A generator with folded weights, whose batch norm only adds the bias; `unfold_batch_norm` makes it trainable."""


def load_network(source: Path) -> tuple[Generator, ModelSpec]:
    """Load generator and contract of a run, a checkpoint or an exported fp32 ONNX file; the generator is in eval mode.

    Raises:
        UserError: there is no such file, or it is none of these.
        GateError: its weights were changed.
    """
    if not source.exists():
        raise UserError(
            f"{source}: found no such file, expected a run, a checkpoint, an exported fp32 .onnx or the name of a "
            f"packaged model: {', '.join(PACKAGED_MODELS)}"
        )
    return load_exported(source) if source.suffix == ".onnx" else load_generator(source)


def load_exported(path: Path) -> tuple[ExportedGenerator, ModelSpec]:
    """Load generator and contract of an exported file; the generator is in eval mode and equal to it up to rounding.

    Raises:
        UserError: there is no such file, or it is not an fp32 ONNX file of this project.
        ChangedFileError: the file has another digest than its sidecar names.
    """
    with needed(f"reading {path}", "export"):
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx import numpy_helper
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected a run, a checkpoint or an exported .onnx")
    content = read_onnx(path)
    read_sidecar(path, hashlib.sha256(content).hexdigest())
    spec = read_contract(content, path)
    check_trainable(spec, path)
    try:
        graph = onnx.load_model_from_string(content).graph
        tensors = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}
    except (DecodeError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path}: not an ONNX file, or a damaged one ({reason}); copy it, or export it again with cgan-export"
        ) from error
    generator = ExportedGenerator.of(spec).eval()
    try:
        _fill(generator, graph, tensors)
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{path}: its weights are not those of a generator that cgan-export wrote ({reason}); export it again"
        ) from error
    return generator, spec


def _fill(generator: ExportedGenerator, graph: Any, tensors: dict[str, Tensor]) -> None:
    """Set the convolutions' weights; the bias of each becomes the bias of the batch norm after it."""
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3]
    added = {node.input[1]: tensors[node.input[2]] for node in convolutions}
    state = generator.state_dict()
    names = {module: name for name, module in generator.named_modules()}
    for convolution, norm in _convolutions(generator):
        weight = f"{names[convolution]}.weight"
        state[weight] = tensors[PREFIX + weight]
        state[f"{names[norm or convolution]}.bias"] = added[PREFIX + weight]
        if norm is not None:  # the statistics of a new layer are 0 and 1
            state[f"{names[norm]}.weight"] = torch.full_like(norm.weight, (1 + norm.eps) ** 0.5)
    generator.load_state_dict(state)


@torch.no_grad()
def unfold_batch_norm(generator: ExportedGenerator, gray: Tensor) -> None:
    """Set the statistics of batch norm from photos, with the weight and bias that cancel them.

    The generator's output stays the same in eval mode, and nearly the same in training mode, where the statistics are
    those of a batch.

    Args:
        generator: the generator, on the device of `gray`.
        gray: luma of training photos, N x 1 x H x W in [0, 1].
    """

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        # (x - old mean) / old deviation x weight + bias, rewritten with the mean and the deviation of x.
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.add_((mean - norm.running_mean) * slope)
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    hooks = [norm.register_forward_pre_hook(measure) for _, norm in _convolutions(generator) if norm is not None]
    generator.eval()
    generator(gray)
    for hook in hooks:
        hook.remove()


def _convolutions(generator: Generator) -> list[tuple[nn.Module, nn.BatchNorm2d | None]]:
    """Return each convolution with the batch norm after it; None for the head, which has none."""
    modules = dict(generator.named_modules())
    found: list[tuple[nn.Module, nn.BatchNorm2d | None]] = []
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            parent, _, place = name.rpartition(".")
            norm = modules.get(f"{parent}.{int(place) + 1}") if place.isdigit() else None
            found.append((module, norm if isinstance(norm, nn.BatchNorm2d) else None))
    return found
