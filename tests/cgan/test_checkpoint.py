"""Checkpoints: what is written comes back, and nothing else is taken."""

import json
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cgan.checkpoint import (
    GENERATOR_FILE,
    checkpoint_path,
    load_generator,
    load_training,
    model_spec,
    save_generator,
    save_training,
    weights_digest,
)
from cgan.config import TrainConfig
from cgan.networks import Generator
from cgan.spec import METADATA_KEY, GateError, ModelSpec, UserError

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


def test_the_contract_says_what_was_trained(generator: Generator) -> None:
    spec = model_spec(generator, CONFIG)
    assert (spec.model, spec.color_space, spec.precision) == ("unet", "rgb", "fp32")
    assert (spec.render_size, spec.base_width) == (32, 2)
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
    tensors, metadata = stored(checkpoint)
    values = {**json.loads(metadata[METADATA_KEY]), **change}
    save_file(tensors, checkpoint, {METADATA_KEY: json.dumps(values)})
    with pytest.raises(UserError, match="expected a unet in fp32"):
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
        with pytest.raises(UserError, match=r"model\.pth: not a safetensors checkpoint.*pickled checkpoints are not"):
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
        with pytest.raises(OSError):  # not an exception of safetensors' own, which nobody would turn into one line
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
    save_training(path, networks, optimizers, {"history": [{"epoch": 1, "psnr": float("inf")}]})
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
    save_training(path, {"other": nn.Linear(2, 2)}, {}, {})
    with pytest.raises(UserError, match="not the training state of this run"):
        load_training(path, networks, optimizers)
    with pytest.raises(UserError, match="not the training state of this run"):
        load_training(checkpoint, networks, optimizers)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not a safetensors checkpoint"):
        load_training(path, networks, optimizers)


def test_the_shared_run_is_a_checkpoint(trained_run: Path) -> None:
    generator, spec = load_generator(trained_run)
    assert isinstance(spec, ModelSpec)
    assert (spec.base_width, spec.render_size) == (4, 32)
    assert generator(torch.rand(1, 1, 32, 32)).isfinite().all()
