"""Checkpoints: a round trip gives equal tensors, and other files are refused."""

import json
import pickle
import resource
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cgan.checkpoint_record import checkpoint_path
from cgan.config import TrainConfig
from cgan.data.prepared import Photos
from cgan.data.split import split
from cgan.errors import GateError, UserError
from cgan.networks import Generator, build_generator, count_parameters
from cgan.spec import COLOR_SPACES, METADATA_KEY, ColorSpaceName, ModelSpec, generator_parameters
from cgan.training.checkpoint import (
    GENERATOR_FILE,
    load_generator,
    load_training,
    model_spec,
    save_generator,
    save_training,
    training_tensors,
    weights_digest,
)
from cgan.training.distributed import World
from cgan.training.run_folder import RunFolder
from cgan.training.run_state import Run, build

CONFIG = TrainConfig(width=2, size=32, epochs=1, device="cpu", precision="fp32", fid=False)


@pytest.fixture
def generator() -> Generator:
    """A generator in evaluation mode whose batch norm has seen a batch."""
    torch.manual_seed(0)
    network = Generator(width=2)
    network(torch.rand(4, 1, 32, 32))
    return network.eval()


@pytest.fixture
def checkpoint(tmp_path: Path, generator: Generator) -> Path:
    path = tmp_path / "run" / "checkpoints" / GENERATOR_FILE
    save_generator(path, generator, CONFIG)
    return path


def stored(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def test_a_generator_comes_back_bit_by_bit(checkpoint: Path, generator: Generator) -> None:
    loaded, spec = load_generator(checkpoint)
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == generator.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in generator.state_dict().items())
    gray = torch.rand(2, 1, 48, 32)
    assert torch.equal(loaded(gray), generator(gray))
    assert spec == model_spec(generator, CONFIG)


@pytest.mark.parametrize("color_space", COLOR_SPACES)
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_generator_of_any_colour_space_and_blocks_comes_back(
    tmp_path: Path, color_space: ColorSpaceName, blocks: int
) -> None:
    config = replace(CONFIG, color_space=color_space, blocks=blocks, input_blur=blocks - 1)
    generator = build_generator(config).eval()
    written = save_generator(tmp_path / "file.safetensors", generator, config)
    loaded, spec = load_generator(tmp_path / "file.safetensors")
    assert spec == written
    assert (spec.color_space, spec.blocks, spec.parameters) == (color_space, blocks, count_parameters(generator))
    assert spec.input_blur == blocks - 1
    gray = torch.rand(1, 1, 32, 32)
    assert torch.equal(loaded(gray), generator(gray))
    assert loaded(gray).shape == (1, 3 if color_space == "rgb" else 2, 32, 32)


def rewrite_contract(path: Path, change: Mapping[str, Any], without: str = "") -> None:
    """Change fields of a checkpoint's contract, and leave one out."""
    tensors, metadata = stored(path)
    values = {**json.loads(metadata[METADATA_KEY]), **change}
    values.pop(without, None)
    save_file(tensors, path, {METADATA_KEY: json.dumps(values)})


def test_a_checkpoint_from_before_blocks_is_read(checkpoint: Path, generator: Generator) -> None:
    rewrite_contract(checkpoint, {}, without="blocks")
    loaded, spec = load_generator(checkpoint)
    assert spec == model_spec(generator, CONFIG)
    assert spec.blocks == 1
    assert weights_digest(loaded.state_dict()) == spec.weights_sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 2}, r"of width 2 with 2 blocks for rgb"),
        ({"base_width": 3}, r"of width 3 with 1 block for rgb"),
        ({"base_width": 512, "blocks": 64}, r"of width 512 with 64 blocks for rgb"),
        ({"color_space": "hsv"}, r"of width 2 with 1 block for hsv"),
    ],
)
@pytest.mark.slow
def test_a_contract_that_the_tensors_do_not_fit_is_refused(
    checkpoint: Path, change: dict[str, Any], message: str
) -> None:
    shape = {"color_space": "rgb", "base_width": 2, "blocks": 1, **change}
    count = generator_parameters(shape["color_space"], shape["base_width"], shape["blocks"])
    rewrite_contract(checkpoint, {**change, "parameters": count})
    with pytest.raises(UserError, match=rf"tensors are not those of a unet {message}: .* expected .*train again"):
        load_generator(checkpoint)


def test_the_contract_says_what_was_trained(generator: Generator) -> None:
    spec = model_spec(generator, CONFIG)
    assert (spec.model, spec.color_space, spec.precision) == ("unet", "rgb", "fp32")
    assert (spec.render_size, spec.base_width, spec.blocks) == (32, 2, 1)
    assert spec.parameters == sum(p.numel() for p in generator.parameters())
    assert spec.config_sha256 == CONFIG.digest()
    assert spec.weights_sha256 == weights_digest(generator.state_dict())
    assert spec.created_with["torch"] == torch.__version__


def test_a_run_folder_stands_for_its_last_checkpoint(checkpoint: Path) -> None:
    run = checkpoint.parent.parent
    assert checkpoint_path(run) == checkpoint
    assert checkpoint_path(checkpoint) == checkpoint
    assert load_generator(run)[1] == load_generator(checkpoint)[1]


@pytest.mark.parametrize("name", ["nothing", "nothing.safetensors", "."])
def test_a_missing_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="found no such file") as caught:
        load_generator(tmp_path / name)
    assert caught.value.exit_code == 2


def test_the_digest_changes_with_each_tensor(generator: Generator) -> None:
    state = generator.state_dict()
    found = {weights_digest(state)}
    for name, tensor in state.items():
        changed = tensor.clone()
        changed.view(-1)[0] += 1
        found.add(weights_digest({**state, name: changed}))
    assert len(found) == len(state) + 1


def test_the_digest_sees_the_smallest_change_name_type_and_shape() -> None:
    base = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    nudged = base.clone()
    nudged[1, 1] = torch.nextafter(nudged[1, 1], torch.tensor(9.0))
    states = [
        {"a": base},
        {"a": nudged},
        {"b": base},
        {"a": base.view(4)},
        {"a": base.view(torch.int32)},
        {"a": base.T},
        {"a": base, "b": base},
    ]
    assert len({weights_digest(state) for state in states}) == len(states)


def test_the_digest_does_not_depend_on_layout_or_order() -> None:
    a, b = torch.rand(2, 3, 4, 5), torch.rand(3)
    expected = weights_digest({"a": a, "b": b})
    assert weights_digest({"b": b, "a": a.contiguous(memory_format=torch.channels_last)}) == expected


def test_altered_weights_under_the_old_contract_fail_the_gate(checkpoint: Path) -> None:
    tensors, metadata = stored(checkpoint)
    tensors["body.head.bias"][0] += 1e-3
    save_file(tensors, checkpoint, metadata)
    with pytest.raises(GateError, match="changed after training") as caught:
        load_generator(checkpoint)
    assert caught.value.exit_code == 1


def test_other_tensors_are_refused(checkpoint: Path) -> None:
    tensors, metadata = stored(checkpoint)
    save_file({name: tensor for name, tensor in tensors.items() if "head" not in name}, checkpoint, metadata)
    with pytest.raises(UserError, match="not those of a unet of width 2"):
        load_generator(checkpoint)
    save_file({**tensors, "body.head.bias": torch.zeros(2)}, checkpoint, metadata)
    with pytest.raises(UserError, match="not those of a unet of width 2"):
        load_generator(checkpoint)


@pytest.mark.parametrize("change", [{"model": "vit"}, {"precision": "fp16"}])
def test_a_contract_of_another_network_is_refused(checkpoint: Path, change: dict[str, Any]) -> None:
    rewrite_contract(checkpoint, change)
    with pytest.raises(UserError, match=r"expected a unet in fp32|expected one of unet"):
        load_generator(checkpoint)


class Harmful:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for save in (lambda value: path.write_bytes(pickle.dumps(value)), lambda value: torch.save(value, path)):
        save({"weights": Harmful(tmp_path / "harm")})
        with pytest.raises(UserError, match=r"model\.pth: not a safetensors checkpoint.*pickled ones are not"):
            load_generator(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata)
    with pytest.raises(UserError, match="this project did not write it"):
        load_generator(tmp_path / "other.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="not a safetensors checkpoint"):
        load_generator(checkpoint)


def test_a_failed_write_keeps_the_last_checkpoint(
    checkpoint: Path, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoint.read_bytes()

    def fails(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        save_generator(checkpoint, generator, CONFIG)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_write_cut_short_keeps_the_last_checkpoint(checkpoint: Path, generator: Generator) -> None:
    before = checkpoint.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError):  # not an exception type of safetensors, which no caller turns into one line
            save_generator(checkpoint, generator, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


# training state


def trainer(seed: int, steps: int) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
    """A small network and its Adam after some steps."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(steps):
        adam.zero_grad()
        network(torch.rand(2, 1, 5, 5)).square().mean().backward()
        adam.step()
    return {"net": network}, {"net_adam": adam}


def test_training_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    networks, optimizers = trainer(0, 3)
    save_training(path, training_tensors(networks, optimizers), {"history": [{"epoch": 1, "psnr": float("inf")}]})
    others, other_optimizers = trainer(1, 1)
    assert load_training(path, others, other_optimizers) == {"history": [{"epoch": 1, "psnr": float("inf")}]}
    assert weights_digest(others["net"].state_dict()) == weights_digest(networks["net"].state_dict())
    expected = optimizers["net_adam"].state_dict()["state"]
    found = other_optimizers["net_adam"].state_dict()["state"]
    assert found.keys() == expected.keys() == {0, 1, 2, 3}
    for index, state in expected.items():
        assert state.keys() == found[index].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(state[key], found[index][key]) for key in state)


def test_training_state_of_other_networks_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "state.safetensors"
    networks, optimizers = trainer(0, 1)
    save_training(path, training_tensors({"other": nn.Linear(2, 2)}, {}), {})
    with pytest.raises(UserError, match="not the training state of this run"):
        load_training(path, networks, optimizers)
    with pytest.raises(UserError, match="not the training state of this run"):
        load_training(checkpoint, networks, optimizers)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not a safetensors checkpoint"):
        load_training(path, networks, optimizers)


def new_run(folder: Path, **options: Any) -> Run:
    """A run on four photos whose networks have had no step."""
    digests = tuple(f"{i:064x}" for i in range(4))
    photos = Photos(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), tuple("abcd"), digests, {})
    config = replace(CONFIG, **options)
    return build(RunFolder(folder), config, photos, split(digests, 0.25, 0), World())


def test_the_average_is_exported_with_all_its_parameters(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", ema=0.9)
    assert run.result is run.average
    spec = save_generator(tmp_path / "file.safetensors", run.result, run.config)
    assert spec.parameters == sum(weights.numel() for weights in run.generator.parameters())
    loaded, found = load_generator(tmp_path / "file.safetensors")
    assert found == spec
    assert all(weights.requires_grad for weights in loaded.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"ema": 0.9, "spectral_norm": True, "blocks": 2},
        {"color_space": "hsv", "discriminator": "dense", "spectral_norm": True},
        {"discriminator": "none", "ema": 0.5},
    ],
)
@pytest.mark.slow
def test_training_state_of_any_networks_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "state.safetensors"
    run = new_run(tmp_path / "first", **options)
    for network in run.networks.values():
        for tensor in network.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 1)
    for name, optimizer in run.optimizers.items():
        for weights in run.networks[name.removesuffix("_adam")].parameters():
            weights.grad = torch.rand_like(weights)
        optimizer.step()
    save_training(path, training_tensors(run.networks, run.optimizers), {})

    other = new_run(tmp_path / "second", **options, seed=1)
    load_training(path, other.networks, other.optimizers)
    assert other.networks.keys() == run.networks.keys()
    for name, network in run.networks.items():
        assert weights_digest(other.networks[name].state_dict()) == weights_digest(network.state_dict())
    for name, optimizer in run.optimizers.items():
        found = other.optimizers[name].state_dict()["state"]
        for index, state in optimizer.state_dict()["state"].items():
            assert all(torch.equal(state[key], found[index][key]) for key in state)


@pytest.mark.parametrize("change", [{"ema": 0.9}, {"spectral_norm": True}, {"blocks": 2}, {"discriminator": "dense"}])
def test_training_state_of_other_options_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "state.safetensors"
    run, other = new_run(tmp_path / "a"), new_run(tmp_path / "b", **change)
    save_training(path, training_tensors(run.networks, run.optimizers), {})
    with pytest.raises(UserError, match="not the training state of this run"):
        load_training(path, other.networks, other.optimizers)


def test_the_shared_run_is_a_checkpoint(trained_run: Path) -> None:
    generator, spec = load_generator(trained_run)
    assert isinstance(spec, ModelSpec)
    assert (spec.base_width, spec.render_size) == (4, 32)
    assert generator(torch.rand(1, 1, 32, 32)).isfinite().all()
