"""How sets leave their names: a set is whole under its name, or renamed into `staging/`, where any writer deletes it.

A rename makes nothing new, so that a set can be removed from a volume that is full.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuronmodel_worker.io.disk import FULL, sync
from neuronmodel_worker.store.atomic_files import HIDDEN, TEMPORARY, matching, remove_tree
from neuronmodel_worker.store.keys import KINDS
from neuronmodel_worker.store.locks import create_locked, writer_is_dead
from neuronmodel_worker.store.references import REFERENCES
from neuronmodel_worker.store.staging import LOCK_SUFFIX, lock_path
from neuronmodel_worker.store.volume_layout import LEASES, Volume

REMOVED = "removed"
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
"""What a rename to the name of a set raises where somebody else has published one."""
REMOVAL_POLL_SECONDS = 0.05


def remove_renamed(volume: Volume, directory: Path) -> None:
    """Rename a directory into `staging/` and delete it there."""
    renamed = _name_for_removal(volume, directory.name)
    directory.rename(renamed)
    remove_tree(renamed)


def restore(volume: Volume, renamed: Path, directory: Path) -> None:
    """Undo the rename of a set; where another set has its name by now, the renamed one is removed."""
    try:
        renamed.rename(directory)
        sync(directory.parent)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        remove_renamed(volume, renamed)


@contextmanager
def removing(volume: Volume, key: str) -> Iterator[Path]:
    """A name in `staging/` for a set that is removed, locked so that nobody else deletes it within the context."""
    renamed = _name_for_removal(volume, key)
    try:
        lock = create_locked(lock_path(renamed))
    except OSError as error:
        if error.errno not in FULL:
            raise
        yield renamed
        return
    try:
        yield renamed
    finally:
        with suppress(OSError):
            lock_path(renamed).unlink(missing_ok=True)
        os.close(lock)


def _name_for_removal(volume: Volume, name: str) -> Path:
    return volume.staging / f"{REMOVED}-{name}-{os.urandom(6).hex()}"


def wait_for_removals(volume: Volume, key: str) -> None:
    """Wait until nobody is removing the set of that key.

    Whoever is about to remove it may not have seen a reference that was just made: only after its decision can a set
    that is found under the key be relied on.
    """
    timings, began = volume.timings, volume.timings.clock()
    for lock in sorted(volume.staging.glob(f"{REMOVED}-{key}-*{LOCK_SUFFIX}")):
        while timings.clock() - began < timings.lapse_seconds:
            with writer_is_dead(lock, timings) as dead:
                if dead:
                    break
            timings.pause(min(timings.poll_seconds, REMOVAL_POLL_SECONDS))


def remove_unfinished_files(volume: Volume) -> None:
    """Remove small files whose writers died before the rename to their names, and leases whose holders died."""
    leases = (f"{LEASES}/{begin}{kind}-*" for begin in ("", HIDDEN) for kind in KINDS)
    for pattern in (f"*/{TEMPORARY}*", f"{REFERENCES}/*/{TEMPORARY}*", *leases):
        for path in matching(volume.root, pattern):
            with suppress(FileNotFoundError), writer_is_dead(path, volume.timings) as dead:
                if dead:
                    path.unlink()
