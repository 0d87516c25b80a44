"""Checkpoints: safetensors files with the ModelSpec in the header; the optimisers' state is in a file of its own."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cgan import __version__
from cgan.checkpoint_record import (
    BEST_FILE,
    CHECKPOINTS,
    LAST_FILE,
    CheckpointRecord,
    checkpoint_path,
    chosen,
    held_out,
)
from cgan.config import TrainConfig
from cgan.errors import GateError, UserError
from cgan.files import atomic_path
from cgan.networks import Generator, count_parameters
from cgan.npy import read_npy
from cgan.readers import LARGE_BYTES, FormatError, parse_json, typed, typed_field
from cgan.spec import MODEL_NAME, ModelSpec
from cgan.text import counted, told_apart
from cgan.training.ledger import LEDGER_FILE, Ledger

GENERATOR_FILE = LAST_FILE
TRAINING_FILE = "last.training.safetensors"
HELD_OUT_FILE = "held-out.npy"
"""File of a run with held-out photos in gray, N x 1 x size x size uint8."""

_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
"""Names in safetensors of the types in a generator's state."""

METADATA = "__metadata__"
"""Key of the metadata in a safetensors header."""


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and little-endian bytes of all tensors, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def model_spec(generator: Generator, config: TrainConfig) -> ModelSpec:
    """Return the contract of a generator that `config` trained."""
    return ModelSpec(
        model=MODEL_NAME,
        color_space=config.color_space,
        render_size=config.size,
        base_width=config.width,
        blocks=config.blocks,
        input_blur=float(config.input_blur),
        parameters=count_parameters(generator),
        config_sha256=config.digest(),
        weights_sha256=weights_digest(generator.state_dict()),
        created_with={"cgan": __version__, "python": platform.python_version(), "torch": torch.__version__},
    )


def save_generator(
    path: Path, generator: Generator, config: TrainConfig, epoch: int | None = None, metrics: Mapping[str, Any] = {}
) -> ModelSpec:
    """Write the generator's weights with their contract in the header, whole or not at all.

    Args:
        path: the file.
        generator: the generator.
        config: the configuration of its training.
        epoch: last epoch of its training, counted from 1, for the header.
        metrics: metrics of that epoch; the header gets the held-out ones.
    """
    spec = model_spec(generator, config)
    record = CheckpointRecord(path, epoch, held_out(metrics))
    _save(path, generator.state_dict(), {**spec.to_metadata(), **record.to_metadata()})
    return spec


class Checkpoint(NamedTuple):
    """A generator read from a checkpoint, with its contract and record."""

    generator: Generator
    """In evaluation mode, on the CPU, in float32."""
    spec: ModelSpec
    record: CheckpointRecord


def load_generator(source: Path) -> tuple[Generator, ModelSpec]:
    """Return generator and contract of `load_checkpoint(source)`."""
    loaded = load_checkpoint(source)
    return loaded.generator, loaded.spec


def load_checkpoint(source: Path) -> Checkpoint:
    """Load a trained generator with its contract and record.

    Args:
        source: a run folder (its best checkpoint, see `cgan.checkpoint_record.chosen`) or a checkpoint file.

    Raises:
        UserError: there is no such file, or it is not a checkpoint of this project (pickles are never loaded).
        GateError: the weights were changed after training.
    """
    path, note = chosen(source)
    if path.name == TRAINING_FILE:
        raise UserError(f"{path}: found the training state for --resume, expected a checkpoint; give {GENERATOR_FILE}")
    with _opened(path) as file:
        metadata = file.metadata() or {}
        spec = ModelSpec.from_metadata(metadata, path)
        check_trainable(spec, path)
        _check_tensors(file, spec, path)  # before anything is allocated for what the contract claims
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = weights_digest(state)
    if found != spec.weights_sha256:
        one, other = told_apart(found, spec.weights_sha256)
        raise GateError(
            f"{path}: weights were changed after training wrote them: their sha256 is {one}, the contract says "
            f"{other}; "
            "restore the file or train again"
        )
    generator = Generator.of(spec)
    generator.load_state_dict(state)
    return Checkpoint(generator.eval(), spec, CheckpointRecord.of(path, metadata, note))


def check_trainable(spec: ModelSpec, path: Path) -> None:
    """Check that a contract is that of a generator in fp32.

    Raises:
        UserError: it is of another precision.
    """
    if spec.precision != "fp32":
        raise UserError(f"{path}: found {spec.model} in {spec.precision}, expected a {MODEL_NAME} in fp32")


def _check_tensors(file: Any, spec: ModelSpec, path: Path) -> None:
    """Check names, shapes and types of the tensors in an opened safetensors file against the contract in its header."""
    with torch.device("meta"):
        expected = {name: (tuple(t.shape), _DTYPES[t.dtype]) for name, t in Generator.of(spec).state_dict().items()}
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        one, other = found.get(wrong[0], "missing"), expected.get(wrong[0], "none")
        raise UserError(
            f"{path}: its tensors are not those of a {MODEL_NAME} of width {spec.base_width} with "
            f"{counted(spec.blocks, 'block')} for {spec.color_space}: {wrong[0]!r} is {one}, expected {other}; restore "
            "the file or train again"
        )


def made_of(source: Path, weights_sha256: str | None) -> Path:
    """Return the checkpoint that a model was exported from, found by the digest of its weights.

    Args:
        source: a run folder, or a checkpoint, which is returned itself.
        weights_sha256: digest in the model's contract; None if unknown.

    Returns:
        The checkpoint with these weights; the run's best one if there is none.

    Raises:
        UserError: there is no such file, or it is an exported model.
    """
    usual = checkpoint_path(source)
    if not source.is_dir():
        return usual
    folder = source / CHECKPOINTS
    others = sorted(path for path in folder.glob("*.safetensors") if path.name != TRAINING_FILE)
    found = (path for path in (folder / BEST_FILE, folder / LAST_FILE, *others) if path.is_file())
    return next((path for path in found if _names_weights(path, weights_sha256)), usual)


def _names_weights(path: Path, weights_sha256: str | None) -> bool:
    """Return True if the contract of a checkpoint has this digest; False if it cannot be read."""
    try:
        with _opened(path) as file:
            return ModelSpec.from_metadata(file.metadata() or {}, path).weights_sha256 == weights_sha256
    except UserError:
        return False


def held_out_photos(source: Path, size: int) -> NDArray[np.float32] | None:
    """Return the gray held-out photos of a run, N x 1 x size x size in [0, 1]; None if it has none.

    Args:
        source: a run folder, or a checkpoint in one.
        size: the model's render size.

    Raises:
        UserError: they cannot be read, have another shape, or were not written by the run.
    """
    file = (source if source.is_dir() else source.parent.parent) / HELD_OUT_FILE
    if not file.exists():
        return None
    try:
        gray = read_npy(file, (1, size, size), LARGE_BYTES)
    except (OSError, FormatError) as error:
        raise UserError(f"{file}: not readable as held-out photos ({error}); give --calibration FOLDER") from error
    ledger = Ledger(file.with_name(LEDGER_FILE))
    if ledger.path.exists() and not ledger.knows(file):  # runs of earlier versions have no ledger
        raise UserError(f"{file}: not the photos that the run kept; restore the file, or give --calibration FOLDER")
    return gray.astype(np.float32) / np.float32(255)


def training_tensors(
    networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Copy all tensors that a resumed run needs to the CPU; further steps do not change the copies."""
    tensors: dict[str, Tensor] = {}
    for name, network in networks.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": value for key, value in state.items()}
    layout = torch.contiguous_format  # safetensors needs it
    return {key: tensor.detach().to("cpu", copy=True, memory_format=layout) for key, tensor in tensors.items()}


def save_training(path: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Write the tensors of `training_tensors` and the progress, JSON values."""
    _save(path, tensors, {"progress": json.dumps(progress)})


def load_training(
    path: Path, networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    """Load a file of `save_training` into networks and optimisers, and return the progress.

    Raises:
        UserError: it is not such a file, or one of other networks.
    """
    tensors, metadata = _load(path)
    try:
        for name, network in networks.items():
            prefix = f"{name}."
            network.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        for name, optimizer in optimizers.items():
            weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            states: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"{name}."):
                    _, index, field = key.split(".")
                    states.setdefault(int(index), {})[field] = _in_layout_of(weights[int(index)], tensor)
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        progress = typed(parse_json(typed_field(metadata, "progress", str), finite=False), "progress", dict)
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not the training state of this run ({reason}); start a new run") from error
    return progress


def _in_layout_of(weights: Tensor, state: Tensor) -> Tensor:
    """Return an optimiser's state in the memory layout of its weights, which fused kernels assume."""
    return torch.empty_like(weights, dtype=state.dtype).copy_(state) if state.shape == weights.shape else state


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(_ordered(save(plain, metadata)))  # save_file() raises its own error on a full disk


def _ordered(content: bytes) -> bytes:
    """Sort the metadata of a safetensors file; the library writes them in a random order."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[METADATA] = dict(sorted(header[METADATA].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file, whose header is checked against its size.

    Raises:
        UserError: it cannot be read, or is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); give permission, or another checkpoint") from error
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a safetensors checkpoint, or a damaged one ({error}); restore it, or give another; pickled "
            "ones are not loaded"
        ) from error
