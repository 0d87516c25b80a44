"""Cores by affinity and by the quotas of control groups, on made-up descriptions of a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgan import cores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux has control groups")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for `proc` and for control groups, on a machine of 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(cores, "PROC", tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def mount(folder: Path, kind: str, options: str, root: str = "/") -> str:
    return f"31 23 0:28 {root} {folder} rw,relatime shared:9 - {kind} {kind} {options}\n"


def describe(proc: Path, groups: str, mounts: str) -> None:
    write(proc / "cgroup", groups)
    write(proc / "mountinfo", "1 2 0:3 / / rw - ext4 /dev/sda rw\n" + mounts)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("9900000 100000", 64)],
)
def test_a_quota_of_cgroups_v2(machine: Path, quota: str, expected: int) -> None:
    describe(machine, "0::/\n", mount(machine / "fs", "cgroup2", "rw"))
    write(machine / "fs" / "cpu.max", f"{quota}\n")
    assert cores.available_cores() == expected
    assert cores.quota_is_tighter() == (expected < 64)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"), [("8", "3", 3), ("2", "3", 2), ("max", "5", 5), ("6", "max", 6)]
)
def test_the_tightest_of_nested_groups_counts(machine: Path, outer: str, inner: str, expected: int) -> None:
    describe(machine, "0::/pod/box\n", mount(machine / "fs", "cgroup2", "rw"))
    for folder, quota in (("pod", outer), ("pod/box", inner)):
        write(machine / "fs" / folder / "cpu.max", f"{quota} 1\n")
    assert cores.available_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 64), ("400000", 4)])
def test_a_quota_of_cgroups_v1_beside_other_controllers(machine: Path, quota: str, expected: int) -> None:
    groups = "4:memory:/docker/a\n2:cpuacct,cpu:/docker/a\n0::/\n"
    mounts = mount(machine / "memory", "cgroup", "rw,memory") + mount(machine / "cpu", "cgroup", "rw,cpuacct,cpu")
    describe(machine, groups, mounts + mount(machine / "unified", "cgroup2", "rw"))
    write(machine / "cpu" / "docker" / "a" / "cpu.cfs_quota_us", f"{quota}\n")
    write(machine / "cpu" / "docker" / "a" / "cpu.cfs_period_us", "100000\n")
    assert cores.available_cores() == expected


def test_a_mount_that_shows_only_the_group_of_the_container(machine: Path) -> None:
    describe(machine, "2:cpu:/docker/a\n", mount(machine / "cpu", "cgroup", "rw,cpu", root="/docker/a"))
    write(machine / "cpu" / "cpu.cfs_quota_us", "300000\n")
    write(machine / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert cores.available_cores() == 3


def test_without_a_description_the_affinity_counts(machine: Path) -> None:
    assert cores.available_cores() == 64
    assert not cores.quota_is_tighter()


LIMITED = """
import os, sys
from cgan import command
command.quota_is_tighter, command.available_cores = lambda: True, lambda: 3
import click
command.run_command(click.Command("c", callback=lambda: print(os.environ["OMP_NUM_THREADS"])), [], "c")
"""


def test_libraries_are_told_of_a_quota_before_they_are_imported() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", LIMITED], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
