"""Quarantine: sets that failed a check, out of the way of whoever builds them again, each with the reason.

quarantine/<kind>-<key>-<random>/               the set
quarantine/<kind>-<key>-<random>.reason.txt     the reason, written before the set comes
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_worker.io.disk import FULL, sync, writing_to
from neuronmodel_worker.store.atomic_files import FILE_MODE, make_directory
from neuronmodel_worker.store.keys import ArtifactKind
from neuronmodel_worker.store.locks import create_locked, writer_is_dead
from neuronmodel_worker.store.removal import remove_renamed, restore
from neuronmodel_worker.store.volume_layout import OpenSet, Volume

REASON = ".reason.txt"


@dataclass(frozen=True, slots=True)
class Quarantined:
    kind: ArtifactKind
    key: str
    reason: str
    directory: Path


class Quarantine:
    """The quarantine of a volume; `added` are the sets that this process has put there."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.added: list[Quarantined] = []

    def add(self, damaged: OpenSet, kind: ArtifactKind, key: str, reason: str) -> None:
        """Move a set here, unless somebody else was quicker. The reason is written first: a set without one tells
        nobody anything."""
        directory = self._volume.quarantine / f"{kind}-{key}-{os.urandom(6).hex()}"
        with writing_to(self._volume.root):
            make_directory(directory.parent)
            with _reason_file(reason, reason_path(directory)) as keep:
                try:
                    damaged.directory.rename(directory)
                except FileNotFoundError:  # somebody else has moved it
                    return
                if not damaged.is_at(directory):  # somebody else has moved it, and built a good one since
                    restore(self._volume, directory, damaged.directory)
                    return
                keep()
            sync(directory.parent)
            sync(damaged.directory.parent)
        self.added.append(Quarantined(kind, key, reason, directory))

    def remove(self, directory: Path) -> None:
        remove_renamed(self._volume, directory)
        reason_path(directory).unlink(missing_ok=True)

    def remove_orphaned_reasons(self) -> None:
        """Remove reasons whose writers died before the set was moved."""
        for path in sorted(self._volume.quarantine.glob(f"*{REASON}")):
            directory = path.with_name(path.name.removesuffix(REASON))
            if not directory.exists():
                with writer_is_dead(path, self._volume.timings) as dead:
                    if dead and not directory.exists():
                        path.unlink(missing_ok=True)


def reason_path(directory: Path) -> Path:
    return directory.with_name(directory.name + REASON)


def read_reason(directory: Path) -> str:
    """Why a set was put into quarantine."""
    try:
        return reason_path(directory).read_text(errors="replace").strip()
    except OSError:
        return "nobody wrote down why"


@contextmanager
def _reason_file(reason: str, path: Path) -> Iterator[Callable[[], None]]:
    """A file with the reason, locked so that nobody takes its writer for dead. It is removed at the end of the context
    unless the function that the context gives was called. On a full volume it stays empty."""
    descriptor, is_kept = create_locked(path), threading.Event()
    try:
        try:
            os.fchmod(descriptor, FILE_MODE)
            os.write(descriptor, f"{reason}\n".encode())
            os.fsync(descriptor)
            sync(path.parent)
        except OSError as error:
            if error.errno not in FULL:
                raise
        yield is_kept.set
    finally:
        if not is_kept.is_set():
            path.unlink(missing_ok=True)
        os.close(descriptor)
