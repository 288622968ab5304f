"""Buckets: objects made of files on disk or of bytes, their versions, and who may list and get them."""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from ..faulty_http import Body, FilePart, Text
from .access import Key

Etags = Literal["md5", "multipart", "none"]
Content = Path | str | bytes
"""A file's location, or the bytes themselves."""
UNVERSIONED: Final = "null"
_PIECE: Final = 1 << 20


@dataclass(frozen=True)
class S3Object:
    """One version of an object."""

    key: str
    content: Path | bytes | None
    """None: it was deleted by this."""
    size: int
    etag: str | None
    """Without quotes; None where a server has none."""
    modified: int
    """In whole seconds since 1970, as S3 tells it."""
    version: str
    mtime_ns: int = 0
    """Of a file, which has to stay as it is."""

    @property
    def is_deleted(self) -> bool:
        return self.content is None

    def part(self, start: int, length: int) -> Body:
        if isinstance(self.content, Path):
            return FilePart(self.content, start, length)
        return Text((self.content or b"")[start : start + length])

    def is_unchanged(self) -> bool:
        """Whether its file is still what it was when it became an object."""
        if not isinstance(self.content, Path):
            return True
        try:
            stat = self.content.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(frozen=True)
class Grant:
    may_list: bool = True
    may_get: bool = True

    def __or__(self, other: "Grant") -> "Grant":
        return Grant(self.may_list or other.may_list, self.may_get or other.may_get)


NOTHING: Final = Grant(may_list=False, may_get=False)


@dataclass
class Bucket:
    name: str
    region: str = "us-east-1"
    versioned: bool = False
    requester_pays: bool = False
    redirects: bool = False
    """Another region is answered with 301 PermanentRedirect; else with 400 AuthorizationHeaderMalformed."""
    public: Grant = NOTHING
    """What everybody may, with a key or without."""
    grants: dict[str, Grant] = field(default_factory=dict)
    """By principal; one that is not here may list and get."""
    etags: Etags = "md5"
    """Of objects that are put from now on. `multipart`: with the number of parts, as of an upload in parts."""
    part_bytes: int = 8 << 20
    clock: Callable[[], float] = time.time
    _versions: dict[str, list[S3Object]] = field(default_factory=dict)
    """By key, the newest last."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add_folder(self, folder: Path | str, prefix: str = "") -> list[S3Object]:
        """All files below a folder, which have to stay as they are; a prefix that is a folder ends with a slash."""
        root = Path(folder).absolute()
        found = [location for location in sorted(root.rglob("*")) if location.is_file()]
        return [self.put(f"{prefix}{location.relative_to(root).as_posix()}", location) for location in found]

    def put(self, key: str, content: Content) -> S3Object:
        """A new object, or a new version or content of one; what is being sent of an old one goes on as it was."""
        kept = content if isinstance(content, bytes) else Path(content).absolute()
        size, mtime_ns = _measured(kept)
        with self._lock:
            made = S3Object(key, kept, size, self._etag(kept), self._now(key), self._new_version(), mtime_ns)
            self._add(made)
        return made

    def delete(self, key: str) -> None:
        """KeyError where there is none. With versions, only what is newest says that it is deleted."""
        with self._lock:
            if self.current(key) is None:
                raise KeyError(f"{self.name} has no object {key!r}")
            if self.versioned:
                self._add(S3Object(key, None, 0, None, self._now(key), self._new_version()))
            else:
                del self._versions[key]

    def current(self, key: str) -> S3Object | None:
        newest = self.newest(key)
        return None if newest is None or newest.is_deleted else newest

    def newest(self, key: str) -> S3Object | None:
        """It may be what says that the object was deleted."""
        with self._lock:
            versions = self._versions.get(key)
            return versions[-1] if versions else None

    def version(self, key: str, version: str) -> S3Object | None:
        with self._lock:
            return next((found for found in self._versions.get(key, ()) if found.version == version), None)

    def __iter__(self) -> Iterator[S3Object]:
        """Current objects in the order of their keys' bytes."""
        with self._lock:
            found = [versions[-1] for versions in self._versions.values() if not versions[-1].is_deleted]
        return iter(sorted(found, key=lambda one: one.key.encode()))

    def rights(self, key: Key | None) -> Grant:
        return self.public if key is None else self.public | self.grants.get(key.principal, Grant())

    def _add(self, made: S3Object) -> None:
        kept = [found for found in self._versions.get(made.key, []) if found.version != made.version]
        self._versions[made.key] = [*kept, made]

    def _new_version(self) -> str:
        return secrets.token_urlsafe(24) if self.versioned else UNVERSIONED

    def _now(self, key: str) -> int:
        """At least a second after what it replaces, so that a client that can compare times alone sees a difference."""
        newest = self.newest(key)
        return max(int(self.clock()), newest.modified + 1 if newest else 0)

    def _etag(self, content: Path | bytes) -> str | None:
        if self.etags == "none":
            return None
        part = self.part_bytes if self.etags == "multipart" else None
        if isinstance(content, bytes):
            return _etag_of(_pieces_of(content, part or _PIECE), is_multipart=part is not None)
        stat = content.stat()
        return _etag_of_file(content, part, stat.st_size, stat.st_mtime_ns)


def _measured(content: Path | bytes) -> tuple[int, int]:
    if isinstance(content, bytes):
        return len(content), 0
    stat = content.stat()
    return stat.st_size, stat.st_mtime_ns


class Buckets:
    def __init__(self) -> None:
        self._by_name: dict[str, Bucket] = {}

    def __iter__(self) -> Iterator[Bucket]:
        return iter(list(self._by_name.values()))

    def add(self, bucket: Bucket) -> None:
        self._by_name[bucket.name] = bucket

    def get(self, name: str) -> Bucket | None:
        return self._by_name.get(name)


@lru_cache(maxsize=10_000)
def _etag_of_file(location: Path, part: int | None, size: int, mtime_ns: int) -> str:
    """Each file is read once, as long as it does not change."""
    with location.open("rb", buffering=0) as file:
        return _etag_of(iter(lambda: file.read(part or _PIECE), b""), is_multipart=part is not None)


def _etag_of(pieces: Iterator[bytes], *, is_multipart: bool) -> str:
    """MD5 of the bytes, or of the MD5s of the parts with their number."""
    whole, of_parts, count = hashlib.md5(), hashlib.md5(), 0
    for piece in pieces:
        count += 1
        if is_multipart:
            of_parts.update(hashlib.md5(piece).digest())
        else:
            whole.update(piece)
    return f"{of_parts.hexdigest()}-{max(count, 1)}" if is_multipart else whole.hexdigest()


def _pieces_of(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))
