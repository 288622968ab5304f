"""Locks that die with their owner, syncs, free space, and errors as sentences."""

import ctypes
import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from neuronmodel_worker.failures import ArtifactsUnwritable, ArtifactsVolumeFull

# EINVAL comes from the file system itself, EOPNOTSUPP from one that is layered over another.
NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE)
FULL = (errno.ENOSPC, errno.EDQUOT)

BLOCK = 4096
"""Alignment in files and memory for I/O that bypasses the page cache; no common device asks for more."""

OPEN_FILES = 1 << 16
UNFINISHED = ".partial"

WHOLE_FILE = "xxh3-128"
"""The algorithm of a digest over all of a file's bytes."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file with the digest that was taken while it was written. `header` is the xxh3-128 of the bytes before the
    tensors of a safetensors file, and None for other files."""

    name: str
    nbytes: int
    digest: str
    algorithm: str = WHOLE_FILE
    header: str | None = None


def temporary_path(path: Path) -> Path:
    """Returns a hidden name for a file until it is complete. A file that ends in UNFINISHED and has no living writer
    can be removed."""
    return path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}{UNFINISHED}")


def free_bytes(path: Path) -> int:
    """Returns the free space on the volume of `path`, which need not exist: after ENOSPC it may not have been
    created."""
    existing = next((each for each in (path, *path.parents) if each.exists()), path)
    stat = os.statvfs(existing)
    return stat.f_bavail * stat.f_frsize


def require_space(directory: Path, nbytes: int) -> None:
    """Raises ArtifactsVolumeFull, with the bytes that are needed and free."""
    if (free := free_bytes(directory)) < nbytes:
        raise ArtifactsVolumeFull(directory, nbytes, free)


@contextmanager
def writing_to(directory: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turns OSError from writing below `directory` into ArtifactsVolumeFull or ArtifactsUnwritable."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ArtifactsVolumeFull(directory, needed_bytes, free_bytes(directory)) from error
        raise ArtifactsUnwritable(directory, error) from error


@contextmanager
def raising_volume_full(directory: Path) -> Iterator[None]:
    """Turns OSError for a full volume into ArtifactsVolumeFull, unless it names a file outside `directory`. Every other
    error is raised unchanged."""
    try:
        yield
    except OSError as error:
        elsewhere = error.filename is not None and not Path(os.fsdecode(error.filename)).is_relative_to(directory)
        if error.errno not in FULL or elsewhere:
            raise
        raise ArtifactsVolumeFull(directory, None, free_bytes(directory)) from error


def sync(path: Path) -> None:
    """Syncs a file's content, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allocate(descriptor: int, nbytes: int) -> None:
    """Gives a file its length, and allocates its blocks if the file system supports that, so that a full disk fails
    now. Python's posix_fallocate would write to every block on a file system that does not."""
    if not _supported(_libc().fallocate(descriptor, 0, 0, nbytes)):
        os.ftruncate(descriptor, nbytes)


# <linux/falloc.h>: FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
_PUNCH_HOLE = 1 | 2


def punch_hole(descriptor: int, position: int, nbytes: int) -> None:
    """Gives a range's blocks back, where the file system supports that; it reads as zeros then."""
    _supported(_libc().fallocate(descriptor, _PUNCH_HOLE, position, nbytes))


# <linux/fs.h>: SYNC_FILE_RANGE_WRITE begins to write, the other two wait for it.
_BEGIN, _COMPLETE = 2, 1 | 2 | 4


def begin_writeback(descriptor: int, position: int, nbytes: int) -> None:
    """Starts writing out the page cache, without waiting."""
    _supported(_libc().sync_file_range(descriptor, position, nbytes, _BEGIN))


def complete_writeback(descriptor: int, position: int, nbytes: int) -> None:
    """Waits until that part of the page cache is written out, and drops it. Only a sync is safe against a crash."""
    _supported(_libc().sync_file_range(descriptor, position, nbytes, _COMPLETE))
    os.posix_fadvise(descriptor, position, nbytes, os.POSIX_FADV_DONTNEED)


@cache
def _libc() -> ctypes.CDLL:
    """Returns libc, for calls that Python's os module lacks."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    libc.statfs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    return libc


def _supported(returned: int) -> bool:
    """Returns false if the file system does not support the call. Raises OSError for any other error."""
    if returned == 0:
        return True
    if (number := ctypes.get_errno()) in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number))


# <linux/magic.h>. Since Linux 6.6 these take O_DIRECT, and copy as without it.
_IN_MEMORY = (0x01021994, 0x858458F6)
_STATFS_BYTES = 256
"""More than a struct statfs has; its first field is the type, as a long."""


def is_in_memory(path: Path) -> bool:
    """Returns whether what is at `path`, which need not exist yet, is kept in memory, by tmpfs or ramfs: the page cache
    is all that it has."""
    path = next((each for each in (path, *path.parents) if each.exists()), path)
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc().statfs(os.fsencode(path), found) != 0:
        return False
    return ctypes.c_long.from_buffer(found).value in _IN_MEMORY


def open_direct(path: Path, flags: int) -> int | None:
    """Opens a second descriptor that bypasses the page cache, or returns None if the file system has no direct I/O."""
    if is_in_memory(path):
        return None
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NOT_DIRECT:
            return None
        raise


def open_many_files() -> None:
    """Raises the limit of open files: every rank's file and every source file is open at once, some of them twice, and
    shells allow 1,024 where more may be had."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def create_locked(path: Path) -> int:
    """Creates a file and locks it. The kernel releases the lock when this process ends, however it ends.

    A cleanup may lock and remove the file between its creation and its locking; then it is created again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def abandoned_lock(path: Path) -> Iterator[bool]:
    """Yields whether the process that created and locked `path` is gone. If so, the lock is ours for the length of the
    context."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
