"""A source that is a folder, on a volume that the machine or the pod has."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Final

from neuronmodel_worker.failures import LinkBroken, SourceChanged, SourceNotFound, SourceUnreadable
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.direct_io import EndsEarly, ReadableFile
from neuronmodel_worker.io.disk import is_in_memory
from neuronmodel_worker.io.untrusted_input import open_regular, shown
from neuronmodel_worker.sources.interface import FileStat, SourceFile

UNFINISHED_BELOW: Final = Path(".cache", "huggingface", "download")
"""Where `hf download --local-dir` keeps unfinished files."""


@dataclass(frozen=True)
class Folder:
    """A WeightSource."""

    directory: Path

    is_local = True
    resolution = None
    parallel_reads = 1
    warnings: tuple[str, ...] = ()
    buffer_bytes = 0

    @property
    def is_in_memory(self) -> bool:
        return is_in_memory(self.directory)

    def folder(self) -> Path:
        return self.directory

    def require(self) -> None:
        try:
            with _readable(self.directory):
                is_directory = _exists(self.directory) and self.directory.is_dir()
            if not is_directory:
                _refuse_broken_link(self.directory)
        except LinkBroken as broken:
            raise SourceNotFound(self.directory, broken.target) from broken
        if not is_directory:
            raise SourceNotFound(self.directory)

    def names(self, most: int) -> frozenset[str]:
        found: set[str] = set()
        for each in (self.directory, self.directory / UNFINISHED_BELOW):
            try:
                with os.scandir(each) as entries:
                    found.update(
                        entry.name
                        for entry in islice(entries, most)
                        if each == self.directory or entry.name.endswith(".incomplete")
                    )
            except OSError:
                continue
        return frozenset(found)

    def path(self, name: str) -> Path:
        return self.directory / name

    def exists(self, name: str) -> bool:
        with _readable(self.path(name)):
            return _exists(self.path(name))

    def is_file(self, name: str) -> bool:
        with _readable(self.path(name)):
            return self.path(name).is_file()

    def refuse_broken_link(self, name: str) -> None:
        """Raises LinkBroken also for a link in a circle."""
        _refuse_broken_link(self.path(name))

    def read_ahead(self, names: Iterable[str]) -> None:
        """The page cache reads ahead by itself."""

    @contextmanager
    def stream(self, name: str) -> Iterator["RegularFile"]:
        with _readable(self.path(name)), open_regular(self.path(name)) as stream:
            yield RegularFile(stream)

    def open(self, file: SourceFile) -> "FolderFile":
        return FolderFile(file)

    def stat(self, file: SourceFile) -> FileStat:
        try:
            found = file.path.stat()
        except FileNotFoundError as error:
            raise SourceChanged(file.path, "it is no longer there") from error
        except OSError as error:
            raise SourceUnreadable(file.path, error) from error
        if (found.st_size, found.st_mtime_ns) != (file.nbytes, file.mtime_ns):
            raise SourceChanged(file.path, "its size or modification time is another one")
        return FileStat(
            nbytes=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns, inode=found.st_ino
        )


class RegularFile:
    """A Stream."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        stat = os.fstat(stream.fileno())
        self.nbytes = stat.st_size
        self.mtime_ns = stat.st_mtime_ns
        self.content_digest = ""

    def read(self, nbytes: int) -> bytes:
        return self._stream.read(nbytes)

    def rewind(self) -> None:
        self._stream.seek(0)


class FolderFile:
    """An OpenFile. Whole ranges are read past the page cache where the file system allows it; what was prefetched, and
    columns, through it."""

    def __init__(self, file: SourceFile) -> None:
        """Raises SourceChanged and SourceUnreadable."""
        self._file = file
        with _source_errors(file):
            self._opened = ReadableFile(file.path)
            try:
                for descriptor in self._opened.descriptors:
                    _compare(file, os.fstat(descriptor))
            except BaseException:
                self._opened.close()
                raise

    def read(self, position: int, nbytes: int, buffer: Array) -> Array:
        with _source_errors(self._file):
            return self._opened.read(position, nbytes, buffer)

    def read_into(self, position: int, into: Array) -> None:
        with _source_errors(self._file):
            self._opened.read_cached(position, into)

    def read_columns(self, position: int, pitch: int, width: int, into: Array) -> None:
        """Passes over other columns find the rows in the page cache."""
        view, descriptor, read = into.data, self._opened.cached, os.preadv
        with _source_errors(self._file):
            for at in range(0, into.nbytes, width):
                if read(descriptor, [view[at : at + width]], position) < width:
                    self._opened.read_cached(position, into[at : at + width])
                position += pitch

    def prefetch(self, position: int, nbytes: int) -> None:
        with _source_errors(self._file):
            self._opened.fetch(position, nbytes)

    def forget(self, position: int, nbytes: int) -> None:
        self._opened.forget(position, nbytes)

    def interrupt(self) -> None:
        """Reads of a volume don't wait for anything that could be given up."""

    def check_unchanged(self) -> None:
        _compare(self._file, os.fstat(self._opened.cached))
        try:
            _compare(self._file, self._file.path.stat())
        except OSError as error:
            raise SourceChanged(self._file.path, "it is no longer there") from error

    def close(self) -> None:
        self._opened.close()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns errors of the file system for `path` into SourceUnreadable, except for a file that does not exist, and into
    LinkBroken where a link leads nowhere."""
    try:
        yield
    except OSError as error:
        _refuse_broken_link(path)
        if isinstance(error, FileNotFoundError):
            raise
        raise SourceUnreadable(path, error) from error


def _exists(path: Path) -> bool:
    """Whether a file exists. Unlike `Path.exists`, this raises for a file that may not be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _refuse_broken_link(path: Path) -> None:
    try:
        target = os.fspath(path.readlink())
    except (OSError, ValueError):
        return
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise LinkBroken(path, shown(target), "there is nothing") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkBroken(path, shown(target), "that leads around in a circle") from None


@contextmanager
def _source_errors(file: SourceFile) -> Iterator[None]:
    try:
        yield
    except EndsEarly as end:
        raise SourceChanged(file.path, f"{end} and was {file.nbytes:,} bytes long") from end
    except OSError as error:
        raise SourceUnreadable(file.path, error) from error


def _compare(file: SourceFile, stat: os.stat_result) -> None:
    if stat.st_size != file.nbytes:
        raise SourceChanged(file.path, f"it is {stat.st_size:,} bytes long and was {file.nbytes:,}")
    if stat.st_mtime_ns != file.mtime_ns:
        raise SourceChanged(file.path, "its modification time is another one")
