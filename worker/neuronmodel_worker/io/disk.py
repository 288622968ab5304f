"""What files need beyond Python's own: locks that die with their owner, syncs, free space, errors as sentences."""

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

# EINVAL: by the file system; EOPNOTSUPP: by those that are layered over others.
NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE)
FULL = (errno.ENOSPC, errno.EDQUOT)

BLOCK = 4096
"""What places in files and memory are multiples of where the page cache is bypassed; no common device asks for more."""

OPEN_FILES = 1 << 16
UNFINISHED = ".partial"

WHOLE_FILE = "xxh3-128"
"""Digest over a file's bytes."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file as it was written; the digest was taken on the way. `header`: xxh3-128 of the bytes before the tensors of
    a safetensors file, None of other files."""

    name: str
    nbytes: int
    digest: str
    algorithm: str = WHOLE_FILE
    header: str | None = None


def temporary_path(path: Path) -> Path:
    """A hidden name for a file until it is whole; what ends in UNFINISHED and has no living writer can be removed."""
    return path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}{UNFINISHED}")


def free_bytes(path: Path) -> int:
    """On the volume of `path`, which need not be there: what could not be made for want of room is asked for too."""
    existing = next((each for each in (path, *path.parents) if each.exists()), path)
    stat = os.statvfs(existing)
    return stat.f_bavail * stat.f_frsize


def require_space(directory: Path, nbytes: int) -> None:
    """Raises ArtifactsVolumeFull, with both figures."""
    if (free := free_bytes(directory)) < nbytes:
        raise ArtifactsVolumeFull(directory, nbytes, free)


@contextmanager
def writing_to(directory: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turns what the system says of a write below `directory` into ArtifactsVolumeFull or ArtifactsUnwritable."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ArtifactsVolumeFull(directory, needed_bytes, free_bytes(directory)) from error
        raise ArtifactsUnwritable(directory, error) from error


@contextmanager
def raising_volume_full(directory: Path) -> Iterator[None]:
    """Turns what the system says of a full volume into ArtifactsVolumeFull, unless it names a file that is not below
    `directory`; every other error comes as it is."""
    try:
        yield
    except OSError as error:
        elsewhere = error.filename is not None and not Path(os.fsdecode(error.filename)).is_relative_to(directory)
        if error.errno not in FULL or elsewhere:
            raise
        raise ArtifactsVolumeFull(directory, None, free_bytes(directory)) from error


def sync(path: Path) -> None:
    """A file's content, or a directory's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allocate(descriptor: int, nbytes: int) -> None:
    """Give a file its length, and its room on the disk where the file system can promise it: a disk that is too full
    says so now. Python's posix_fallocate would write into every block of a file system that cannot."""
    if not _supported(_libc().fallocate(descriptor, 0, 0, nbytes)):
        os.ftruncate(descriptor, nbytes)


# <linux/fs.h>: SYNC_FILE_RANGE_WRITE begins to write, the other two wait for it.
_BEGIN, _COMPLETE = 2, 1 | 2 | 4


def begin_writeback(descriptor: int, position: int, nbytes: int) -> None:
    """Have the page cache written out, without waiting."""
    _supported(_libc().sync_file_range(descriptor, position, nbytes, _BEGIN))


def complete_writeback(descriptor: int, position: int, nbytes: int) -> None:
    """Wait until that much of the page cache is written out, and drop it. No promise for a crash: only a sync is."""
    _supported(_libc().sync_file_range(descriptor, position, nbytes, _COMPLETE))
    os.posix_fadvise(descriptor, position, nbytes, os.POSIX_FADV_DONTNEED)


@cache
def _libc() -> ctypes.CDLL:
    """For what Python's os has not."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return libc


def _supported(returned: int) -> bool:
    """False where the file system has no such call. Raises OSError for what else is wrong."""
    if returned == 0:
        return True
    if (number := ctypes.get_errno()) in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number))


def open_direct(path: Path, flags: int) -> int | None:
    """A second descriptor of an open file that bypasses the page cache; None where the file system has no such."""
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NOT_DIRECT:
            return None
        raise


def open_many_files() -> None:
    """Every rank's file and every source file is open at once, some twice; shells allow 1,024 where more may be had."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def create_locked(path: Path) -> int:
    """Make a file and hold its lock, which the kernel lets go when this process ends, however it ends.

    Somebody who clears up may take and remove the file between its making and its locking; then it is made anew.
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
    """Whether the process that made and locked `path` is gone. Its lock is ours until the end of the context."""
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
