"""The directories of an artifact store on its volume.

compiled/<key>/…            shards/<key>/weights/…          sets, each with a manifest.json
staging/<kind>-<key>-…/     sets that are being written; staging/removed-…/ sets that are being removed
quarantine/<kind>-<key>-…/  sets that failed a check, each with a file next to it that has the reason
refs/<key>/<owner>          who needs a set
leases/<kind>-<key>         who builds a set
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsTooNew, ArtifactsUnreadable
from neuronmodel_worker.store.keys import KINDS, ArtifactKind, is_key
from neuronmodel_worker.store.locks import LeaseTimings, is_at
from neuronmodel_worker.store.manifest import MANIFEST, read_manifest

STAGING, QUARANTINE, LEASES = "staging", "quarantine", "leases"


@dataclass(frozen=True, slots=True)
class OpenSet:
    """The directory of a set, held open, so that it is not mistaken for another one that gets its name."""

    directory: Path
    descriptor: int

    def is_at(self, path: Path) -> bool:
        return is_at(self.descriptor, path)


@dataclass(frozen=True, slots=True)
class Volume:
    """The places of a store below `root`; `timings` says how long its writers are waited for."""

    root: Path
    timings: LeaseTimings

    @property
    def staging(self) -> Path:
        return self.root / STAGING

    @property
    def quarantine(self) -> Path:
        return self.root / QUARANTINE

    @property
    def leases(self) -> Path:
        return self.root / LEASES

    def path(self, kind: ArtifactKind, key: str) -> Path:
        return self.root / kind / key

    def has(self, kind: ArtifactKind, key: str) -> bool:
        """Whether a set of that key was sealed, damaged or not."""
        return (self.path(kind, key) / MANIFEST).exists()

    def keys(self, kind: ArtifactKind) -> list[str]:
        try:
            return sorted(each.name for each in (self.root / kind).iterdir() if is_key(each.name))
        except FileNotFoundError:
            return []

    def inputs(self, kind: ArtifactKind, key: str) -> dict[str, object] | None:
        """The inputs of a set's key; None where its manifest cannot be read."""
        try:
            return dict(read_manifest(self.path(kind, key)).inputs)
        except (OSError, ArtifactDamaged, ArtifactsTooNew):
            return None

    @property
    def is_new(self) -> bool:
        """Whether no set was ever sealed here. False where the volume cannot be read."""
        return all(_is_empty(directory) for directory in (*(self.root / kind for kind in KINDS), self.quarantine))

    @contextmanager
    def open(self, kind: ArtifactKind, key: str) -> Iterator[OpenSet | None]:
        """The directory of a set; None where there is none. Raises ArtifactsUnreadable."""
        directory = self.path(kind, key)
        try:
            descriptor = os.open(directory, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        except OSError as error:
            raise ArtifactsUnreadable(directory, error) from error
        try:
            yield OpenSet(directory, descriptor)
        finally:
            os.close(descriptor)


def _is_empty(directory: Path) -> bool:
    try:
        return next(directory.iterdir(), None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False
