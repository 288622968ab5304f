"""Compares bytes with the digest that a source lists of a file, as they pass in order or by reading a file again."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from neuronmodel_worker.sources.interface import DIGEST, SourceFile

READ_BYTES: Final = 4 << 20
SHA256_DIGITS: Final = 64


class ListedDigest:
    """The listed digest of one file, and that of the bytes so far."""

    def __init__(self, digest: str, nbytes: int) -> None:
        self._listed = digest
        if len(digest) == SHA256_DIGITS:
            self._hash = hashlib.sha256()
        else:  # of a file that git keeps itself
            self._hash = hashlib.sha1(b"blob %d\0" % nbytes, usedforsecurity=False)

    @classmethod
    def of(cls, file: SourceFile) -> Self | None:
        """None where the source lists no digest of the file."""
        return cls(file.content_digest, file.nbytes) if DIGEST.fullmatch(file.content_digest) else None

    def update(self, data: bytes | memoryview) -> None:
        self._hash.update(data)

    @property
    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    @property
    def matches(self) -> bool:
        return self.hexdigest == self._listed


def is_as_listed(path: Path, file: SourceFile, wait: Callable[[], None] = lambda: None) -> bool:
    """Whether the content of `path` is that of `file`; with no listed digest, whether its length is. It calls `wait`
    before each piece, and leaves nothing in the page cache. Raises OSError and what `wait` raises."""
    digest = ListedDigest.of(file)
    with path.open("rb", buffering=0) as stream:
        if os.fstat(stream.fileno()).st_size != file.nbytes:
            return False
        position = 0
        while digest:
            wait()
            data = stream.read(READ_BYTES)
            if not data:
                break
            digest.update(data)
            os.posix_fadvise(stream.fileno(), position, len(data), os.POSIX_FADV_DONTNEED)
            position += len(data)
    return digest is None or digest.matches
