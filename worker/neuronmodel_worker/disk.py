"""What files need beyond Python's own: locks that die with their owner, syncs, free space, errors as sentences."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_worker.failures import ArtifactsUnwritable, ArtifactsVolumeFull

# EINVAL: by the file system; EOPNOTSUPP: by those that are layered over others.
NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
FULL = (errno.ENOSPC, errno.EDQUOT)

BLOCK = 4096
"""What places in files and memory are multiples of where the page cache is bypassed; no common device asks for more."""

WHOLE_FILE = "xxh3-128"
"""Digest over a file's bytes."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file as it was written; the digest was taken on the way."""

    name: str
    nbytes: int
    digest: str
    algorithm: str = WHOLE_FILE


def free_bytes(path: Path) -> int:
    stat = os.statvfs(path)
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


def sync(path: Path) -> None:
    """A file's content, or a directory's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_direct(path: Path, flags: int) -> int | None:
    """A second descriptor of an open file that bypasses the page cache; None where the file system has no such."""
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NOT_DIRECT:
            return None
        raise


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
def lock_of_the_dead(path: Path) -> Iterator[bool]:
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
