"""The folder of a run's temporary files on the scratch volume.

That volume may outlive pods, and who is killed clears up nothing: a compiler's work alone may be gigabytes. So a run
holds a lock on its folder, which the kernel lets go of however the run ends, and the next run removes the folders that
nobody holds. Several pods of a node may share the volume.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

FOLDER: Final = "tmp"
PREFIX: Final = "run-"


def make_folder(scratch: Path) -> Path:
    """Held until this process ends. Raises OSError."""
    parent = scratch / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    with _turn(parent):
        for left in parent.glob(f"{PREFIX}*"):
            _remove_unless_locked(left)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(OSError):  # a file system without locks on folders: nobody can tell that it is left
            fcntl.flock(_opened(folder), fcntl.LOCK_SH)
    return folder


@contextmanager
def _turn(parent: Path) -> Iterator[None]:
    """Nobody looks at a folder between its making and its locking."""
    descriptor = _opened(parent)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unless_locked(folder: Path) -> None:
    with suppress(OSError):
        descriptor = _opened(folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def within(scratch: Path) -> Path:
    """This run's folder, where it has one on that volume."""
    folder = Path(tempfile.gettempdir())
    return folder if folder.is_relative_to(scratch) else scratch
