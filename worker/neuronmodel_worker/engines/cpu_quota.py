"""How many processors this process may use, by the scheduler's affinity and by the container's limit."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_processors(root: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """The number of usable processors, at least 1. A limit of 2.5 processors gives 2, because more threads than the
    limit would be throttled."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root, membership))]))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """The limits of this process's cgroup and all groups above it, in processors, of version 2 (`cpu.max`) and version
    1 (`cpu.cfs_quota_us`)."""
    for group in _groups(root, membership):
        for directory in (group, *group.parents):
            if not directory.is_relative_to(root):
                break
            yield from _quota_of(directory)


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """The folders of this process's cgroup, and the mounts themselves, which are the group inside a container."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield root / path.lstrip("/")
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu", "cpu,cpuacct"):
                yield root / mount / path.lstrip("/")
                yield root / mount


def _quota_of(directory: Path) -> Iterator[float]:
    unified = _words(directory / "cpu.max")
    if len(unified) == 2 and unified[0] != "max":
        yield int(unified[0]) / int(unified[1])
    quota, period = _words(directory / "cpu.cfs_quota_us"), _words(directory / "cpu.cfs_period_us")
    if quota and period and int(quota[0]) > 0:
        yield int(quota[0]) / int(period[0])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
