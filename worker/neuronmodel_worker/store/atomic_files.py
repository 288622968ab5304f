"""Writing files of the store so that each is whole or absent, and taking their digests."""

import glob
import os
import shutil
import stat
import struct
from contextlib import suppress
from pathlib import Path

import xxhash

from neuronmodel_worker.checkpoint import MAX_HEADER_BYTES
from neuronmodel_worker.io.disk import sync
from neuronmodel_worker.store.locks import create_locked

# The Job and the worker share a group, not always a user.
FILE_MODE, DIRECTORY_MODE = 0o660, 0o770
HIDDEN = "."
TEMPORARY = f"{HIDDEN}new-"
SAFETENSORS = ".safetensors"
READ_BYTES = 8 << 20
Digest = xxhash.xxh3_128


def matching(root: Path, pattern: str) -> list[Path]:
    """The paths that match a pattern, sorted. Path.glob fails when a folder is removed meanwhile."""
    return sorted(root / name for name in glob.glob(pattern, root_dir=root, include_hidden=True))  # noqa: PTH207


def make_directory(directory: Path) -> None:
    """Make a directory and its parents, with each name synced to the disk and writable by the group."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    with suppress(FileExistsError):
        directory.mkdir()
        open_to_group(directory)
        sync(directory.parent)


def open_to_group(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    wanted = mode | (DIRECTORY_MODE if path.is_dir() else FILE_MODE)
    if wanted != mode:
        with suppress(PermissionError):  # it belongs to another user, who has set the mode
            path.chmod(wanted)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably. The temporary file is locked, so that a clean-up leaves it alone."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.urandom(4).hex()}")
    try:
        with os.fdopen(create_locked(temporary), "wb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove_tree(path: Path) -> None:
    """Remove what can be removed: on some volumes a file that another node has open stays until it is closed there."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def nbytes_below(directory: Path) -> int:
    """The size of a folder; a file with several names counts by its share."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                found = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - os.walk gives strings
                total += found.st_size // max(1, found.st_nlink)
    return total


def header_digest(path: Path) -> str | None:
    """The xxh3-128 of the bytes before the tensors of a safetensors file; None where there is no header."""
    with path.open("rb", buffering=0) as file:
        prefix = file.read(8)
        if len(prefix) < 8 or (nbytes := struct.unpack("<Q", prefix)[0]) > MAX_HEADER_BYTES:
            return None
        header = file.read(nbytes)
    return xxhash.xxh3_128(prefix + header).hexdigest() if len(header) == nbytes else None


def whole_digest(path: Path) -> str:
    state = Digest()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            state.update(data)
    return state.hexdigest()
