"""The memory that training needs and that is there: refusals, and what the estimate grows with."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cgan import cores
from cgan.cli import main
from cgan.config import TrainConfig
from cgan.errors import UserError
from cgan.networks import build_discriminator, build_generator
from cgan.training import memory
from cgan.training.memory import Memory, check_memory, memory_of, need_of

CONFIG = TrainConfig(width=4, size=32, batch_size=8, device="cpu", precision="fp32", fid=False)


def kept_by_autograd(network: torch.nn.Module, channels: int, size: int, photos_kept: int = 2) -> int:
    """Bytes that autograd keeps of a pass for each photo, weights aside."""
    network.to(memory_format=torch.channels_last)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    photos = (
        torch.rand(photos_kept, channels, size, size)
        .to(memory_format=torch.channels_last)
        .requires_grad_(channels == 4)
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = network(photos)
    del result
    return sum(storage.nbytes() for storage in kept.values()) // photos_kept


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"blocks": 3},
        {"discriminator": "patch"},
        {"discriminator": "dense"},
        {"discriminator": "patch", "discriminator_blocks": 2},
        {"discriminator": "projected"},
    ],
)
@pytest.mark.slow
def test_the_estimate_of_a_photo_is_what_autograd_keeps(change: dict[str, Any]) -> None:
    config = replace(CONFIG, width=16, size=64, **change)
    discriminator = build_discriminator(config)
    assert discriminator is not None
    # Of the projected one the generator's step counts, in which autograd keeps the frozen features too.
    judging = 1 if config.discriminator == "projected" else 2
    passes = (build_generator(config), 1), *[(discriminator, 4)] * judging
    count = 8 if judging == 1 else 2  # weights divided by their spectral norm are kept once, whatever the batch
    kept = sum(kept_by_autograd(network, channels, config.size, count) for network, channels in passes)
    assert need_of(config).per_photo == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize(
    "change",
    [
        *({"width": 8}, {"blocks": 2}, {"size": 64}, {"r1": 1.0}, {"discriminator_width": 8}),
        {"gan_loss": "wasserstein", "gradient_penalty": 1.0},
    ],
)
def test_more_of_anything_needs_more(change: dict[str, Any]) -> None:
    assert need_of(replace(CONFIG, batch_size=256, **change)).total > need_of(replace(CONFIG, batch_size=256)).total


def test_batch_processes_precision_and_average_count() -> None:
    assert need_of(replace(CONFIG, batch_size=9), processes=4).batch == 3
    assert need_of(replace(CONFIG, precision="bf16")).per_photo * 2 == need_of(CONFIG).per_photo
    assert need_of(replace(CONFIG, discriminator="none")).per_photo * 2 < need_of(CONFIG).per_photo
    large = replace(CONFIG, width=64, batch_size=4096)
    weights = 4 * sum(p.numel() for p in build_generator(large).parameters())
    assert need_of(replace(large, ema=0.9)).fixed - need_of(large).fixed == weights


def test_nothing_is_allocated_for_the_largest_networks() -> None:
    largest = TrainConfig(width=512, blocks=64, size=4096, batch_size=2**16, device="cpu", precision="fp32", fid=False)
    assert need_of(largest).total > 10**15


def test_what_does_not_fit_is_refused_with_the_batch_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    need = need_of(replace(CONFIG, batch_size=4096))
    there = Memory(need.fixed + 100 * need.per_photo, "the machine")
    monkeypatch.setattr(memory, "memory_of", lambda config, here: there)
    with pytest.raises(
        UserError, match=r"--batch-size 4096: .* of the machine; the largest .* fits is about (\d+)$"
    ) as no:
        check_memory(replace(CONFIG, batch_size=4096))
    assert no.value.exit_code == 2
    fits = int(str(no.value).rpartition(" ")[2])
    assert need_of(replace(CONFIG, batch_size=fits)).total <= there.size
    there = Memory(need.fixed // 10**6, "the cgroup")
    with pytest.raises(UserError, match=r"found .* of the cgroup; no batch fits; give a smaller --width"):
        check_memory(CONFIG)


@pytest.mark.parametrize("options", [["--batch-size", 4096], ["--batch-size", 4096, "--dry-run"]])
def test_a_run_that_does_not_fit_ends_before_it_begins(
    options: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    invoke: Callable[..., Any],
    photo_folder: Path,
    tmp_path: Path,
    tiny_options: tuple[str, ...],
) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda config, here: Memory(10**9, "the machine"))
    result = invoke(main, photo_folder, "--out", tmp_path / "run", *tiny_options, *options)
    assert "--batch-size 4096: training needs about" in result.error(2)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_estimate(
    invoke: Callable[..., Any], photo_folder: Path, tmp_path: Path, tiny_options: tuple[str, ...]
) -> None:
    result = invoke(main, photo_folder, "--out", tmp_path / "run", *tiny_options, "--dry-run")
    assert result.code == 0
    values = json.loads(result.out)["memory_bytes"]
    assert values.keys() == {"needed", "of_each_photo", "found", "found_in"}
    assert 0 < values["of_each_photo"] < values["needed"] < values["found"]


@pytest.mark.parametrize(
    ("lines", "files", "limits"),
    [
        ("0::/user/job\n", {"user/job/memory.max": "max", "user/memory.max": "900"}, [900]),
        ("0::/user/job\n", {"user/job/memory.max": "700", "user/memory.max": "900", "memory.max": "max"}, [700, 900]),
        ("0::/not/seen/here\n", {"memory.max": "500"}, [500]),
        ("5:cpu:/\n4:memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": "300"}, [300]),
        ("4:hugetlb,memory:/job\n", {"memory/memory.limit_in_bytes": "400"}, [400]),
        ("0::/../..\n", {"memory.max": "500"}, [500]),
        ("", {}, []),
    ],
)
def test_limits_of_cgroups_are_found(
    lines: str, files: dict[str, str], limits: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(f"{text}\n")
    (tmp_path / "cgroup").write_text(lines)
    systems = (("cgroup2", "fs", "rw"), ("cgroup", "fs/memory", "rw,memory"))
    mounts = (f"31 23 0:28 / {tmp_path / folder} rw - {kind} {kind} {options}\n" for kind, folder, options in systems)
    (tmp_path / "mountinfo").write_text("".join(mounts))
    monkeypatch.setattr(cores, "PROC", tmp_path)
    assert memory.cgroup_limits() == limits
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = memory_of(CONFIG, 2)
    assert found == (Memory(min(limits) // 2, "the cgroup") if limits else Memory(machine // 2, "the machine"))
    monkeypatch.setattr(cores, "PROC", tmp_path / "none")
    assert memory.cgroup_limits() == []
