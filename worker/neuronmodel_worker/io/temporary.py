"""The folder of a run's temporary files on the scratch volume.

The volume may outlive pods, and a killed process cleans up nothing: a compiler's work files alone may be gigabytes. So
each run locks its folder, the kernel releases the lock however the run ends, and the next run removes the folders that
are not locked. Several pods of a node may share the volume.
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
    """Creates this run's folder, locked until the process ends. Raises OSError."""
    parent = scratch / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    with _turn(parent):
        for left in parent.glob(f"{PREFIX}*"):
            _remove_unless_locked(left)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(OSError):  # no locks on folders in this file system: nobody will recognize it as abandoned
            fcntl.flock(_opened(folder), fcntl.LOCK_SH)
    return folder


@contextmanager
def _turn(parent: Path) -> Iterator[None]:
    """Keeps other runs from looking at a folder between its creation and its locking."""
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
    """Returns this run's folder if it is on that volume, otherwise `scratch`."""
    folder = Path(tempfile.gettempdir())
    return folder if folder.is_relative_to(scratch) else scratch
