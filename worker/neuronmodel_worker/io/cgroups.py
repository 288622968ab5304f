"""What this process may use of the machine, by the limits of its control groups: processors and memory."""

import os
from collections.abc import Iterator
from contextlib import suppress
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


def anonymous_bytes() -> int:
    """Returns the anonymous memory of this process."""
    return _in_bytes(Path("/proc/self/status"), "RssAnon")


def available_bytes() -> int:
    """Returns the smaller of what the machine has available and what the process's control groups allow."""
    return min([_in_bytes(Path("/proc/meminfo"), "MemAvailable"), *_left_in_cgroups()])


def _in_bytes(file: Path, name: str) -> int:
    """Reads a line such as `MemAvailable:  123 kB`."""
    lines = (line.split() for line in file.read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words and words[0] == f"{name}:")


def _left_in_cgroups() -> list[int]:
    """Returns what is left under the limits of the unified hierarchy, if there are any; the page cache counts as
    free."""
    left = []
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = CGROUPS / next(line[3:].lstrip("/") for line in lines if line.startswith("0::"))
        for each in (group, *group.parents):
            if each.is_relative_to(CGROUPS) and (limit := _limit(each)) is not None:
                left.append(max(0, limit - _anonymous(each)))
    return left


def _limit(group: Path) -> int | None:
    with suppress(OSError, ValueError):  # the root has no such file; "max" means no limit
        return int((group / "memory.max").read_text())
    return None


def _anonymous(group: Path) -> int:
    with suppress(OSError, ValueError):
        words = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        return sum(int(count) for name, count in words if name in ("anon", "shmem", "unevictable"))
    return 0
