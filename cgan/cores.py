"""CPU cores that this process may use: those of its affinity, and no more than the quota of its control groups.

A container limits CPU time by a quota of its control group, not by affinity, and pauses threads beyond it in turn.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")
"""Linux's description of this process, its control groups, and where their file systems are mounted."""


def available_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    Of nested control groups (cgroups v1 and v2) the tightest counts, and a part of a core counts as one.
    """
    quota = min(map(_quota, control_groups("cpu")), default=math.inf)
    return _affinity() if quota >= _affinity() else max(1, math.ceil(quota))


def quota_is_tighter() -> bool:
    """Return True if a quota allows fewer cores than the affinity, which is all that libraries look at."""
    return available_cores() < _affinity()


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def control_groups(controller: str) -> Iterator[Path]:
    """Yield the folder of each control group of this process that a controller may limit, and of each one around it.

    Args:
        controller: name of the controller in cgroups v1, "cpu" or "memory"; a group of v2 has all of them.
    """
    try:
        mounts = (PROC / "mountinfo").read_text().splitlines()
        groups = dict(line.split(":", 2)[1:] for line in (PROC / "cgroup").read_text().splitlines())
    except OSError:  # no Linux
        return
    own = {name: path for names, path in groups.items() for name in names.split(",")}
    for mount in mounts:
        place, _, system = mount.partition(" - ")
        root, point = place.split()[3:5]
        kind, options = system.split()[0], system.split()[-1].split(",")
        if kind != "cgroup2" and not (kind == "cgroup" and controller in options):
            continue
        group = PurePosixPath(own.get("" if kind == "cgroup2" else controller, "/"))
        below = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
        folder = Path(point) / below
        yield from (folder, *list(folder.parents)[: len(below.parts)])


def _quota(group: Path) -> float:
    """Return the quota of a control group in cores, infinity if it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
        except OSError:  # the other version, the root group, or a group of another namespace
            continue
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return math.inf
