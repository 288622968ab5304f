"""How much memory this process has, and how much more it may take."""

from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


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
