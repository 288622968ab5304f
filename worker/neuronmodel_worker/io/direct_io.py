"""Direct I/O: reads files in big pieces, past the page cache where the file system allows it."""

import os
from pathlib import Path
from types import TracebackType

from neuronmodel_worker.io.aligned import Array, placed
from neuronmodel_worker.io.disk import BLOCK, NOT_DIRECT, open_direct

# Linux reads no more at once than the device's read-ahead, however much is asked for: 128 KiB by default.
READAHEAD_BYTES = 128 << 10

# O_NONBLOCK: opening a pipe in the place of a file must not wait for a writer.
FLAGS = os.O_RDONLY | os.O_NONBLOCK


class EndsEarly(Exception):
    """A file ends at `position`, before the end of the bytes to read."""

    def __init__(self, position: int) -> None:
        super().__init__(f"it ends at byte {position:,}")
        self.position = position


class ReadableFile:
    """A file that is open twice: `cached` goes through the page cache, `direct` past it, or is None where the file
    system does not support that. Methods raise OSError and EndsEarly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.direct: int | None = None
        self.cached = os.open(path, FLAGS | os.O_CLOEXEC)
        try:
            self.direct = open_direct(path, FLAGS)
        except OSError:
            os.close(self.cached)
            raise

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.cached,) if self.direct is None else (self.cached, self.direct)

    def read(self, position: int, nbytes: int, buffer: Array) -> Array:
        """The bytes from `position` on, in `buffer`, which begins on a disk block and has SLACK more bytes."""
        data = placed(buffer, position, nbytes)
        lead = position % BLOCK
        done = 0
        while self.direct is not None and done < lead + nbytes:
            stop = -(-(lead + nbytes) // BLOCK) * BLOCK
            count = _read_direct(self.direct, buffer[done:stop], position - lead + done)
            done += count
            if done % BLOCK or not count:
                break
        if (already := max(0, done - lead)) < nbytes:
            self.read_cached(position + already, data[already:])
        return data

    def read_cached(self, position: int, into: Array) -> None:
        view = into.data
        while view:
            count = os.preadv(self.cached, [view], position)
            if count == 0:
                raise EndsEarly(position)
            view, position = view[count:], position + count

    def fetch(self, position: int, nbytes: int) -> None:
        """Have the system read these bytes into the page cache, without waiting."""
        for start in range(position, position + nbytes, READAHEAD_BYTES):
            length = min(READAHEAD_BYTES, position + nbytes - start)
            os.posix_fadvise(self.cached, start, length, os.POSIX_FADV_WILLNEED)

    def forget(self, position: int, nbytes: int) -> None:
        """Tell the system that the page cache need not keep these bytes."""
        os.posix_fadvise(self.cached, position, nbytes, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)

    def __enter__(self) -> "ReadableFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _read_direct(descriptor: int, into: Array, position: int) -> int:
    """Returns how many bytes were read: none where the file system does not support direct reads after all."""
    try:
        return os.preadv(descriptor, [into.data], position)
    except OSError as error:
        if error.errno in NOT_DIRECT:
            return 0
        raise
