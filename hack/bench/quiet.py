"""Brings machine and disk into the same state before each run.

The source is out of the page cache, what earlier runs wrote is deleted and the disk has nothing left to do, and free
memory is filled with clean pages of an unrelated file: page cache is then nowhere to be had for nothing, and every page
of a virtual machine's memory has been touched before (the first touch of fresh ones is slower than any disk). Where no
disk is read, free memory is touched and stays free.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hack.bench.failures import BenchFailed

LEFT_FREE_BYTES = 600 << 20
FILL_STEP_BYTES = 4 << 20
IDLE_SECONDS = 0.3
CACHESTAT = 451
"""The system call's number, the same on all architectures; Linux 6.5."""


@dataclass(frozen=True)
class Patience:
    """Seconds that filling memory and a disk's coming to rest may take."""

    fill: float
    idle: float


THOROUGH = Patience(fill=180.0, idle=10.0)
QUICK = Patience(fill=4.0, idle=2.0)


def evict(files: Iterable[Path]) -> int | None:
    """Take clean files out of the page cache. The pages that are left in it; None where the kernel cannot tell."""
    left: int | None = 0
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            cached = cached_pages(descriptor)
        finally:
            os.close(descriptor)
        left = None if left is None or cached is None else left + cached
    return left


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


def cached_pages(descriptor: int) -> int | None:
    """Pages of the file in the page cache; None before Linux 6.5."""
    counts = (ctypes.c_uint64 * 5)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(CACHESTAT, descriptor, ctypes.byref(_Range(0, 0)), counts, 0):
        return None
    return int(counts[0])


def free_memory_bytes() -> int:
    return _memory("MemFree")


def available_memory_bytes() -> int:
    """What processes could have: page cache of files counts as free."""
    return _memory("MemAvailable")


def _memory(field: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Filler:
    """A file twice as large as memory and without a single block: to read ahead in it makes clean pages and costs the
    disk nothing. It is read round and round, so that what is read next is what was let go longest ago."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._nbytes = 2 * memory_bytes() // FILL_STEP_BYTES * FILL_STEP_BYTES
        os.ftruncate(self._descriptor, self._nbytes)
        self._position = 0

    def fill(self, within_seconds: float) -> None:
        """Until memory is full, or time is up."""
        deadline = time.monotonic() + within_seconds
        while free_memory_bytes() > LEFT_FREE_BYTES and time.monotonic() < deadline:
            for _ in range(16):
                os.posix_fadvise(self._descriptor, self._position, FILL_STEP_BYTES, os.POSIX_FADV_WILLNEED)
                self._position = (self._position + FILL_STEP_BYTES) % self._nbytes

    def close(self) -> None:
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class TouchedMemory:
    """For runs that read no disk, which want memory free: so many bytes are touched and given back. The host of a
    virtual machine has pages for them then, and what a run waits for is not the host's giving them."""

    nbytes: int

    def fill(self, within_seconds: float) -> None:
        """Takes as long as it takes."""
        nbytes = min(self.nbytes, free_memory_bytes() - LEFT_FREE_BYTES)
        if nbytes < mmap.PAGESIZE:
            return
        with mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            pages = np.frombuffer(memory, np.uint8)
            pages[:: mmap.PAGESIZE] = 1
            del pages  # a view keeps the map from being closed


def wait_for_idle_disk(path: Path, within_seconds: float) -> None:
    """Until the disk below `path` has done nothing for a moment, deleted blocks being given back included; on a disk
    that others keep busy, so many seconds."""
    deadline = time.monotonic() + within_seconds
    before, since = disk_counters(path), time.monotonic()
    while time.monotonic() < min(deadline, since + IDLE_SECONDS):
        time.sleep(0.05)
        now = disk_counters(path)
        if now and (now != before or now.in_flight):
            before, since = now, time.monotonic()


@dataclass(frozen=True)
class DiskCounters:
    """Sums since the machine's start, of everybody's requests; `in_flight` is now. Busy is a disk with one at least."""

    requests: int
    in_flight: int
    read_bytes: int
    written_bytes: int
    busy_seconds: float


SECTOR_BYTES = 512


def disk_counters(path: Path) -> DiskCounters | None:
    """Of the disk below `path`, where it is a block device. What the fields mean: Linux, block/stat.rst."""
    statistics = disk_of(path) / "stat"
    if not statistics.exists():
        return None
    fields = [int(field) for field in statistics.read_text().split()]
    reads, writes, discards, flushes = (fields[place] if place < len(fields) else 0 for place in (0, 4, 11, 15))
    return DiskCounters(
        requests=reads + writes + discards + flushes,
        in_flight=fields[8],
        read_bytes=fields[2] * SECTOR_BYTES,
        written_bytes=fields[6] * SECTOR_BYTES,
        busy_seconds=fields[9] / 1000,
    )


def disk_of(path: Path) -> Path:
    """The folder of a path's block device in /sys."""
    device = path.stat().st_dev
    return Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")


def require_linux() -> None:
    if not Path("/proc/meminfo").exists():
        raise BenchFailed("The benchmark needs Linux: it reads /proc and evicts pages from the page cache.")
