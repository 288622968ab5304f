"""The protocol of a source: list its files, read a range of one, and say whether it has changed.

To read from another place, add a module here with a WeightSource. Errors of a source are SourceUnreadable, which is no
statement about the checkpoint, and SourceChanged.
"""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io.aligned import Array

DIGEST: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Of a file's content: SHA-1, as git has it, or SHA-256."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was when its header was read. `path` is how messages name it; its last part is the file's name.
    `content_digest` is of the file's whole content, where the source knows one, and empty elsewhere; there is no
    modification time then."""

    path: Path
    nbytes: int
    mtime_ns: int
    header_digest: str
    content_digest: str = ""

    @property
    def version(self) -> tuple[int | str, ...]:
        """What tells this state of the file from others, as far as it is known without reading it."""
        return (self.content_digest,) if self.content_digest else (self.mtime_ns,)


class FileStat(BaseModel):
    """Every write changes one of these, including one that restores the modification time."""

    model_config = ConfigDict(frozen=True)

    nbytes: NonNegativeInt
    mtime_ns: int
    ctime_ns: int
    inode: int


class ContentStat(BaseModel):
    """The digest that the source itself has of a file's content: files with the same one are the same. Where it has
    none, what names this state of the file."""

    model_config = ConfigDict(frozen=True)

    nbytes: NonNegativeInt
    digest: str

    @property
    def is_digest(self) -> bool:
        return DIGEST.fullmatch(self.digest) is not None


@dataclass(frozen=True)
class Resolution:
    """Which state of a source is read, where that may move under its name, and when the server said so."""

    revision: str
    at: datetime
    failure: WorkerFailure | None = None
    """Why the server was not heard now; the revision is the one that it named before."""


class Stream(Protocol):
    """A small file, or the first part of a big one, that is read in order. Methods raise OSError."""

    @property
    def nbytes(self) -> int: ...

    @property
    def mtime_ns(self) -> int: ...

    @property
    def content_digest(self) -> str: ...

    def read(self, nbytes: int) -> bytes:
        """The next bytes; fewer at the end of the file."""
        ...

    def rewind(self) -> None: ...


class OpenFile(Protocol):
    """A file whose ranges may be read by several threads. Methods raise SourceChanged if the file is no longer what it
    was when its header was read, where the source can tell, and SourceUnreadable."""

    def read(self, position: int, nbytes: int, buffer: Array) -> Array:
        """The bytes from `position` on, somewhere in `buffer`, which is from `io.aligned.fresh` and has SLACK more
        bytes, or in memory of their own that is not to be written to."""
        ...

    def read_into(self, position: int, into: Array) -> None:
        """Read a range that was prefetched, or is small."""
        ...

    def read_columns(self, position: int, pitch: int, width: int, into: Array) -> None:
        """Read `width` bytes at `position` and after each `pitch` bytes, until `into` is full. Ranges around them are
        read soon, or were prefetched."""
        ...

    def prefetch(self, position: int, nbytes: int) -> None:
        """Begin to bring a range to where `read_into` and `read_columns` find it, without waiting for it."""
        ...

    def forget(self, position: int, nbytes: int) -> None:
        """Say that a range is not read again."""
        ...

    def interrupt(self) -> None:
        """Make reads that wait fail soon, in other threads too: the run is over."""
        ...

    def check_unchanged(self) -> None:
        """Raises SourceChanged if the file was written or replaced since its header was read."""
        ...

    def close(self) -> None: ...


class WeightSource(Protocol):
    """The files of one checkpoint. They are named by what follows the source's own name: `config.json`."""

    @property
    def is_local(self) -> bool:
        """Whether the files are on a volume of this machine, whose rate can be measured."""
        ...

    @property
    def is_in_memory(self) -> bool:
        """Whether reading waits for no drive and no network."""
        ...

    @property
    def parallel_reads(self) -> int:
        """How many reads at a time the source needs to be fast."""
        ...

    @property
    def buffer_bytes(self) -> int:
        """The most memory that such reads take up, in addition to what they return."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know of how the source can be read."""
        ...

    @property
    def resolution(self) -> Resolution | None:
        """Which state is read, if the source may move on under its name."""
        ...

    @property
    def directory(self) -> Path:
        """How messages name the source; of a local one, where its files are."""
        ...

    def folder(self) -> Path:
        """A folder with the small files, for what reads only directories; that of a network source has no weights."""
        ...

    def require(self) -> None:
        """Raises SourceNotFound if there is no such source."""
        ...

    def names(self, most: int) -> frozenset[str]:
        """The names of the files, and of unfinished downloads of them, at most about `most`; fewer where they cannot be
        listed."""
        ...

    def path(self, name: str) -> Path:
        """How messages name a file."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is something of this name, not only a link to nothing. Raises SourceUnreadable."""
        ...

    def is_file(self, name: str) -> bool: ...

    def refuse_broken_link(self, name: str) -> None:
        """Raises LinkBroken if the name is a link to nothing."""
        ...

    def read_ahead(self, names: Iterable[str]) -> None:
        """Say that the first bytes of these files are read next; a missing one is left to `stream`. Raises what reading
        them raises."""
        ...

    def stream(self, name: str) -> AbstractContextManager[Stream]:
        """Open a file to read it in order. Errors inside the context become SourceUnreadable as well.

        Raises FileNotFoundError, NotAFile, LinkBroken or SourceUnreadable.
        """
        ...

    def open(self, file: SourceFile) -> OpenFile:
        """Open a file whose header was read. Raises SourceChanged if it has changed since, and SourceUnreadable."""
        ...

    def stat(self, file: SourceFile) -> FileStat | ContentStat:
        """What tells the present state of a file from others. Raises SourceChanged if it has changed since its header
        was read, and SourceUnreadable."""
        ...
