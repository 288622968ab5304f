"""A branch of every cgroup hierarchy for each node: kubelets keep their pods there, and what runs in it is theirs.

Version 1 is what this was run on; version 2 is written after the kernel's documentation and was never run.
"""

import errno
from pathlib import Path

from .layout import CGROUP, NODES, Node

ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """One folder for each controller in version 1, a single one in version 2; both where a machine mounts both."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted({Path(fields[1]).resolve() for fields in mounts if fields[2] in ("cgroup", "cgroup2")})


def ensure_cgroups() -> None:
    for hierarchy in hierarchies():
        for node in NODES:
            _ensure(hierarchy / node.cgroup.lstrip("/"), hierarchy)


def processes_of(node: Node) -> list[int]:
    """Everything that runs in the node's pods."""
    pids: set[int] = set()
    for hierarchy in hierarchies():
        for members in (hierarchy / node.cgroup.lstrip("/")).rglob("cgroup.procs"):
            pids.update(_members(members))
    return sorted(pids)


def remove_cgroups() -> None:
    for hierarchy in hierarchies():
        _remove(hierarchy / CGROUP)


def empty(node: Node) -> bool:
    """Remove what the node's pods left, keeping the node's own branch. Returns False while a process is still in it:
    one that was killed leaves its group only when it has ended."""
    try:
        for hierarchy in hierarchies():
            for child in _children(hierarchy / node.cgroup.lstrip("/")):
                _remove(child)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _ensure(group: Path, hierarchy: Path) -> None:
    if group == hierarchy:
        return
    _ensure(group.parent, hierarchy)
    group.mkdir(exist_ok=True)
    _inherit_processors(group)
    _enable_controllers(group.parent)


def _inherit_processors(group: Path) -> None:
    """A new version 1 cpuset is empty and takes no process until it has processors and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        setting = group / name
        if setting.exists() and (group / "cgroup.clone_children").exists() and not setting.read_text().strip():
            setting.write_text((group.parent / name).read_text())


def _enable_controllers(group: Path) -> None:
    """Version 2 hands controllers down one level at a time."""
    available = group / "cgroup.controllers"
    wanted = " ".join(f"+{name}" for name in available.read_text().split()) if available.exists() else ""
    if wanted:
        (group / "cgroup.subtree_control").write_text(wanted)


def _members(path: Path) -> list[int]:
    try:
        return [int(line) for line in path.read_text().split()]
    except OSError:  # the group went while it was read
        return []


def _remove(group: Path) -> None:
    for child in _children(group):
        _remove(child)
    if group.exists():
        group.rmdir()


def _children(group: Path) -> list[Path]:
    return [child for child in group.iterdir() if child.is_dir()] if group.exists() else []
