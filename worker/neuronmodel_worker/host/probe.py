"""How fast the disks are: a short look, past the page cache where the file system lets one."""

import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_worker.checkpoint import SourceFile
from neuronmodel_worker.disk import open_direct

MAX_BYTES = 256 << 20
MAX_SECONDS = 1.5
BLOCK_BYTES = 16 << 20
SHARE_OF_FREE = 4
"""Of the free space a fourth at most is written to for the measurement."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`direct`: the page cache had no part in it."""

    nbytes: int
    seconds: float
    direct: bool

    @property
    def bytes_per_second(self) -> float:
        return self.nbytes / self.seconds


def reading_rate(files: tuple[SourceFile, ...]) -> Rate | None:
    """Of the biggest of the files; None when there is nothing to read, or not enough to say. Raises OSError."""
    biggest = max(files, key=lambda file: file.nbytes, default=None)
    if biggest is None:
        return None
    descriptor, direct = _open(biggest.path, os.O_RDONLY)
    try:
        if not direct:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with _block() as block:
            return _timed(lambda at: os.preadv(descriptor, [block], at), min(biggest.nbytes, MAX_BYTES), direct)
    finally:
        os.close(descriptor)


def writing_rate(directory: Path) -> Rate | None:
    """To a file in `directory` that has no name; None when there is hardly room for it. Raises OSError."""
    stat = os.statvfs(directory)
    limit = min(MAX_BYTES, stat.f_bavail * stat.f_frsize // SHARE_OF_FREE)
    with _nameless(directory) as (descriptor, direct), _block() as block:
        block.write(os.urandom(1 << 20) * (BLOCK_BYTES >> 20))
        return _timed(
            lambda at: os.pwritev(descriptor, [block], at), limit, direct, finish=lambda: os.fsync(descriptor)
        )


def _timed(
    transfer: Callable[[int], int], limit: int, direct: bool, finish: Callable[[], object] = lambda: None
) -> Rate | None:
    """Transfers whole blocks from the start on until a limit is reached."""
    done, began = 0, time.monotonic()
    while done + BLOCK_BYTES <= limit and time.monotonic() - began < MAX_SECONDS:
        count = transfer(done)
        done += count
        if count < BLOCK_BYTES:
            break
    finish()
    return Rate(done, time.monotonic() - began, direct) if done >= BLOCK_BYTES else None


def _open(path: Path, flags: int) -> tuple[int, bool]:
    if (descriptor := open_direct(path, flags)) is not None:
        return descriptor, True
    return os.open(path, flags | os.O_CLOEXEC), False


@contextmanager
def _nameless(directory: Path) -> Iterator[tuple[int, bool]]:
    try:
        descriptor, direct = _open(directory, os.O_TMPFILE | os.O_RDWR)
    except OSError:  # not every file system has files without a name
        descriptor, direct = _unlinked(directory), False
    try:
        yield descriptor, direct
    finally:
        os.close(descriptor)


def _unlinked(directory: Path) -> int:
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=".neuronmodel-")
    Path(name).unlink()
    return descriptor


@contextmanager
def _block() -> Iterator[mmap.mmap]:
    """Memory whose address suits direct transfers."""
    with mmap.mmap(-1, BLOCK_BYTES) as block:
        yield block
