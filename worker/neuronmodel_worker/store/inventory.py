"""Everything on a volume that takes up space, and who needs it."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from neuronmodel_worker.store.atomic_files import nbytes_below
from neuronmodel_worker.store.keys import KINDS, ArtifactKind
from neuronmodel_worker.store.locks import writer_is_dead
from neuronmodel_worker.store.references import References
from neuronmodel_worker.store.staging import lock_path, set_of, stagings
from neuronmodel_worker.store.volume_layout import Volume

What = Literal["set", "staging", "quarantined"]
NAMED = 3
"""How many items, and how many owners of each, a sentence names."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something on the volume that takes up space. `since` says when it lost its last reference, was put into
    quarantine or was left by its writer, in seconds since the epoch."""

    what: What
    kind: ArtifactKind | None
    key: str
    directory: Path
    nbytes: int
    since: float
    owners: tuple[str, ...] = ()
    in_use: bool = False
    living: bool = False
    """Whether a writer is at work in it."""

    @property
    def may_go(self) -> bool:
        """A damaged set may go in spite of its owners: they need one that is whole."""
        return self.is_unneeded or self.what == "quarantined"

    @property
    def is_unneeded(self) -> bool:
        """Nobody refers to its key, serves it or writes it."""
        return not (self.owners or self.in_use or self.living)


class Inventory:
    """Lists the items of a volume."""

    def __init__(self, volume: Volume, references: References) -> None:
        self._volume = volume
        self._references = references

    def items(self, keys_in_use: Iterable[str] = (), without: Iterable[str] = ()) -> list[Item]:
        """All items. The references of the owners in `without` count as removed just now."""
        in_use, removed = set(keys_in_use), set(without)
        sets = [self._sealed(kind, key, key in in_use) for kind in KINDS for key in self._volume.keys(kind)]
        staged = [self._staged(directory, in_use) for directory in stagings(self._volume.staging)]
        quarantined = [self._quarantined(directory, in_use) for directory in stagings(self._volume.quarantine)]
        return [_without(item, removed) for item in (*sets, *staged, *quarantined) if item]

    def in_use(self, keep: Iterable[str] = ()) -> str:
        """A sentence on the largest items that somebody needs, for whoever decides between them; empty without any."""
        needed = sorted((item for item in self.items(keep) if not item.may_go), key=lambda item: -item.nbytes)
        if not needed:
            return ""
        more = f", and {len(needed) - NAMED} more" if len(needed) > NAMED else ""
        return f"In use are {'; '.join(_description(item) for item in needed[:NAMED])}{more}."

    def _sealed(self, kind: ArtifactKind, key: str, in_use: bool) -> Item | None:
        directory = self._volume.path(kind, key)
        try:
            made = directory.stat().st_mtime
        except FileNotFoundError:
            return None
        since = max(made, self._references.changed(key) or 0)
        owners = tuple(self._references.owners(key))
        return Item("set", kind, key, directory, nbytes_below(directory), since, owners, in_use)

    def _staged(self, directory: Path, in_use: set[str]) -> Item | None:
        kind, key = set_of(directory)
        with suppress(FileNotFoundError), writer_is_dead(lock_path(directory), self._volume.timings) as dead:
            since = max(directory.stat().st_mtime, self._references.changed(key) or 0)
            owners = tuple(self._references.owners(key))
            return Item(
                "staging", kind, key, directory, nbytes_below(directory), since, owners, key in in_use, not dead
            )
        return None

    def _quarantined(self, directory: Path, in_use: set[str]) -> Item | None:
        kind, key = set_of(directory)
        with suppress(FileNotFoundError):
            since, owners = directory.stat().st_ctime, tuple(self._references.owners(key))
            return Item("quarantined", kind, key, directory, nbytes_below(directory), since, owners, key in in_use)
        return None


def _without(item: Item, removed: set[str]) -> Item:
    owners = tuple(each for each in item.owners if each not in removed)
    return item if owners == item.owners else replace(item, owners=owners, since=time.time())


def _description(item: Item) -> str:
    what = "what is being written of " if item.living else "the started " if item.what == "staging" else ""
    users = [*item.owners[:NAMED], *(["running pods"] if item.in_use else []), *(["its writer"] if item.living else [])]
    more = f" and {len(item.owners) - NAMED} more" if len(item.owners) > NAMED else ""
    return f"{what}{item.kind} {item.key} with {item.nbytes:,} bytes, for {', '.join(users)}{more}"
