"""Digests of files as git and git LFS name them; each file is read once for each, as long as it does not change."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PIECE = 4 << 20
_known: dict[tuple[str, Path, int, int, int], str] = {}
_lock = threading.Lock()


def sha256(path: Path) -> str:
    return _remembered("sha256", path, lambda: _digest(hashlib.sha256(), path))


def git_blob(path: Path) -> str:
    """The name of a file's content in git."""
    start = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    return _remembered("git", path, lambda: _digest(start, path))


def git_blob_of(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(oid: str, size: int) -> bytes:
    """What git holds in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def _remembered(kind: str, path: Path, compute: Callable[[], str]) -> str:
    stat = path.stat()
    key = (kind, path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    with _lock:
        if key not in _known:
            _known[key] = compute()
        return _known[key]


def _digest(digest: Any, path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return str(digest.hexdigest())
