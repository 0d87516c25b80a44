"""A generator read back from the fp32 ONNX file that was made of it, so that training can go on from a deployed model.

Such a file has no batch norm: the exporter folds it into the convolutions. Training needs it back.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgan.errors import UserError
from cgan.extras import needed
from cgan.networks import Generator
from cgan.onnx_file import read_onnx
from cgan.spec import ModelSpec, read_sidecar
from cgan.training.checkpoint import check_trainable, load_generator

PREFIX = "generator."
"""What the names of the generator's weights begin with in an ONNX file, see `cgan.networks.GrayToRGB`."""


class ExportedGenerator(Generator):
    """A generator whose batch norm only adds what was folded; `unfold_batch_norm` makes it fit to train."""


def load_network(source: Path) -> tuple[Generator, ModelSpec]:
    """The generator of a run, a checkpoint or an exported fp32 ONNX file, in evaluation mode, and its contract.

    Raises:
        UserError: nothing there, or nothing of these.
        GateError: its weights were changed.
    """
    if not source.exists():
        raise UserError(
            f"{source}: found no such file, expected a run, a checkpoint or an exported fp32 .onnx; cgan-infer info "
            "flowers prints where the one in the package lies"
        )
    return load_exported(source) if source.suffix == ".onnx" else load_generator(source)


def load_exported(path: Path) -> tuple[ExportedGenerator, ModelSpec]:
    """The generator of an exported file, in evaluation mode, equal to it within rounding; and its contract.

    Raises:
        UserError: nothing there, or not one fp32 ONNX file of this project.
        ChangedFileError: the file is not the one that its sidecar vouches for.
    """
    with needed(f"reading {path}", "export"):
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx import numpy_helper
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected a run, a checkpoint or an exported .onnx")
    try:
        content = read_onnx(path)
        read_sidecar(path, hashlib.sha256(content).hexdigest())
        model = onnx.load_model_from_string(content)
    except (DecodeError, OSError) as error:
        raise UserError(f"{path}: not an ONNX file ({error}); make it with cgan-export") from error
    spec = ModelSpec.from_metadata({entry.key: entry.value for entry in model.metadata_props}, path)
    check_trainable(spec, path)
    tensors = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in model.graph.initializer}
    generator = ExportedGenerator.of(spec).eval()
    try:
        _fill(generator, model.graph, tensors)
    except (KeyError, IndexError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{path}: its weights are not those of a generator that cgan-export wrote ({reason}); export it again"
        ) from error
    return generator, spec


def _fill(generator: ExportedGenerator, graph: Any, tensors: dict[str, Tensor]) -> None:
    """Set the convolutions' weights, and what each adds as the offset of the batch norm behind it."""
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3]
    added = {node.input[1]: tensors[node.input[2]] for node in convolutions}
    state = generator.state_dict()
    names = {module: name for name, module in generator.named_modules()}
    for convolution, norm in _convolutions(generator):
        weight = f"{names[convolution]}.weight"
        state[weight] = tensors[PREFIX + weight]
        state[f"{names[norm or convolution]}.bias"] = added[PREFIX + weight]
        if norm is not None:  # statistics are 0 and 1 in a new one
            state[f"{names[norm]}.weight"] = torch.full_like(norm.weight, (1 + norm.eps) ** 0.5)
    generator.load_state_dict(state)


@torch.no_grad()
def unfold_batch_norm(generator: ExportedGenerator, gray: Tensor) -> None:
    """Give batch norm the statistics that photos have at its place, and the scale that undoes them.

    What the generator answers stays the same in evaluation, and is nearly so in training, where statistics are those
    of a batch.

    Args:
        generator: on the device of `gray`.
        gray: luma of training photos, N x 1 x H x W in [0, 1].
    """

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        # (x - old mean) / old deviation x weight + offset, written with the mean and the deviation of x.
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
    """Each convolution and the batch norm that follows it, which the head has not."""
    modules = dict(generator.named_modules())
    found: list[tuple[nn.Module, nn.BatchNorm2d | None]] = []
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            parent, _, place = name.rpartition(".")
            norm = modules.get(f"{parent}.{int(place) + 1}") if place.isdigit() else None
            found.append((module, norm if isinstance(norm, nn.BatchNorm2d) else None))
    return found
