"""Finding a set by its key, and checking that it is what was sealed."""

from neuronmodel_api.config import Verification
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.store.keys import ArtifactKind
from neuronmodel_worker.store.manifest import SealedSet, read_checked
from neuronmodel_worker.store.quarantine import Quarantine
from neuronmodel_worker.store.verification import VerifyProgress, all_problems, full_problems
from neuronmodel_worker.store.volume_layout import OpenSet, Volume


class SetLookup:
    """Finds sets on a volume. Without a `quarantine` nothing is changed, and damage raises ArtifactDamaged."""

    def __init__(self, volume: Volume, quarantine: Quarantine | None) -> None:
        self._volume = volume
        self._quarantine = quarantine

    def find(
        self,
        kind: ArtifactKind,
        key: str,
        verification: Verification = Verification.QUICK,
        progress: VerifyProgress | None = None,
    ) -> SealedSet | None:
        while True:
            with self._volume.open(kind, key) as opened:
                if opened is None:
                    return None
                try:
                    return _check(opened, kind, key, verification, progress)
                except ArtifactDamaged as damage:
                    if not opened.is_at(opened.directory):
                        continue  # another set has the name by now: the damage may not be its own
                    if self._quarantine is None:
                        raise
                    self._quarantine.add(opened, kind, key, str(damage))

    def problems(
        self,
        kind: ArtifactKind,
        key: str,
        full: bool = False,
        progress: VerifyProgress | None = None,
        threads: int | None = None,
        quarantine: Quarantine | None = None,
    ) -> list[str]:
        while True:
            with self._volume.open(kind, key) as opened:
                if opened is None:
                    return []
                found = all_problems(opened.directory, kind, key, full, progress, threads)
                if not opened.is_at(opened.directory):
                    continue
                if found and quarantine:
                    more = f", and {len(found) - 1} more" if found[1:] else ""
                    damage = ArtifactDamaged(opened.directory, f"{found[0]}{more}")
                    quarantine.add(opened, kind, key, str(damage))
                return found


def _check(
    opened: OpenSet, kind: ArtifactKind, key: str, verification: Verification, progress: VerifyProgress | None
) -> SealedSet:
    manifest = read_checked(opened.directory, kind, key)
    if verification is Verification.FULL:
        for problem in full_problems(opened.directory, manifest, progress):
            raise ArtifactDamaged(opened.directory, problem)
    return SealedSet(opened.directory, manifest)
