"""Whether a writer is alive, by a lock that ends with its process, or by its silence where locks have no effect.

Locks are trusted where everybody who may write sees them: on a file system of one machine, and on NFS unless it was
mounted with locks that stay on the node. Elsewhere a lock that another node holds looks free, and a writer counts as
dead only if it has not renewed its lock file for `LeaseTimings.silent_seconds`, by the volume's own clock.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WITHOUT_LOCKS = (errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EBADF)
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The file belongs to another user and group, or the volume is read-only here."""
OF_ONE_MACHINE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"})
OVER_NFS = frozenset({"nfs", "nfs4"})
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class LeaseTimings:
    """How often a writer gives a sign of life, and how long others wait for it, in seconds."""

    renew_seconds: float = 10.0
    """The time between two signs of life of a writer."""
    lapse_seconds: float = 60.0
    """A lease that has not changed for this long, by the waiter's clock, is taken over."""
    silent_seconds: float = 3600.0
    """A writer on another node, whose lock is not visible, counts as dead after this long without a sign of life."""
    poll_seconds: float = 1.0
    """The time between two polls of a waiter."""
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


class WriterLock:
    """A file that is locked until this process ends, or until it is released."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = create_locked(path)
        try:
            os.fchmod(self._descriptor, 0o660)
            os.write(self._descriptor, json.dumps(holder()).encode())
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(self._descriptor)
            raise

    def renew(self) -> None:
        """Give a sign of life, which takes up no space."""
        with suppress(OSError):
            os.utime(self._descriptor)

    def release(self) -> None:
        """Release the lock; the file stays."""
        os.close(self._descriptor)


def holder() -> dict[str, object]:
    """The identity of this process, for people and for other processes that find its lock."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "boot": boot_id()}


@cache
def boot_id() -> str:
    """The ID of this boot of the kernel: locks of processes under the same one are always visible."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def create_locked(path: Path) -> int:
    """Create a file that is locked until its descriptor is closed, where the file system has locks.

    A clean-up may remove the file before it is locked; then it is created again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            take(descriptor)
            if is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file has that name itself, and not through a symbolic link."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def take(descriptor: int) -> bool:
    """Wait for the lock of an open file. False where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    return True


@contextmanager
def writer_is_dead(path: Path, timings: LeaseTimings) -> Iterator[bool]:
    """Whether the writer with the lock file `path` is certainly dead; its lock is held until the end of the context.

    A lock file that does not exist has no writer: it is created before the directory that it is for, and removed after
    it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        yield False
        return
    try:
        yield _is_dead(descriptor, path, timings)
    finally:
        os.close(descriptor)


def _is_dead(descriptor: int, path: Path, timings: LeaseTimings) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        taken = False
    if taken and (locks_reach_everybody(path) or _boot_of(descriptor) == boot_id() != ""):
        return True
    return volume_time(path.parent) - os.fstat(descriptor).st_mtime > timings.silent_seconds


def _boot_of(descriptor: int) -> object:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return None
    return content.get("boot") if isinstance(content, dict) else None


def volume_time(directory: Path) -> float:
    """The clock of the volume, which on a network volume is not this machine's."""
    probe = directory / f".now-{os.urandom(6).hex()}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660))
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def locks_reach_everybody(path: Path) -> bool:
    """Whether a lock on the file system of `path` is visible to everybody who can write there."""
    try:
        device = path.stat().st_dev
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return any(_is_shared(line) for line in lines if line.split()[2:3] == [wanted])


def _is_shared(mount: str) -> bool:
    """Whether locks on a mount are visible to all its users. `mount` is a line of mountinfo: …fields… - type source
    options."""
    kind, _, options = [*mount.partition(" - ")[2].split(), "", "", ""][:3]
    if kind in OVER_NFS:
        given = set(options.split(","))
        return "nolock" not in given and given.isdisjoint({"local_lock=all", "local_lock=flock"})
    return kind in OF_ONE_MACHINE
