"""Describes the machine that the figures are from: what they depend on, and nothing that names it."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hack.bench.quiet import disk_of, memory_bytes

PACKAGES = ("numpy", "safetensors", "torch")


def describe(scratch: Path) -> dict[str, str]:
    """`scratch` is where checkpoints and shards lie."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {_cores()} cores",
        "memory": f"{memory_bytes() / 2**30:.0f} GiB",
        "disk": _disk(scratch),
        "file system": _file_system(scratch),
        "kernel": platform.release(),
        "software": ", ".join([f"Python {platform.python_version()}", *filter(None, map(_package, PACKAGES))]),
        "commit": _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _cores() -> int:
    return sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())


def _disk(scratch: Path) -> str:
    folder = disk_of(scratch)
    if not folder.exists():
        return "of an unknown kind"
    if (folder / "partition").exists():
        folder = folder.resolve().parent
    model = _content(folder / "device" / "model") or folder.resolve().name.rstrip("0123456789")
    size = int(_content(folder / "size") or 0) * 512
    scheduler = _content(folder / "queue" / "scheduler")
    chosen = scheduler.partition("[")[2].partition("]")[0] or scheduler
    kind = "virtio disk" if "virtio" in str((folder / "device").resolve()) else "disk"
    return f"{kind} {model}, {size / 1e9:.0f} GB, scheduler {chosen or 'unknown'}"


def _content(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _file_system(scratch: Path) -> str:
    command = ["findmnt", "--json", "--output", "FSTYPE,OPTIONS", "--target", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return "unknown"
    mount = json.loads(done.stdout)["filesystems"][0]
    return f"{mount['fstype']} ({mount['options']})"


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "../../worker") else ""
    return f"{git('rev-parse', '--short', 'HEAD')}{changed}"
