"""What may go from a store, and in which order: what nobody refers to, by its age and by the room that is wanted."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuronmodel_worker.store.keys import Kind

OLD_SECONDS = 7 * 86400.0

What = Literal["set", "staging", "quarantined"]


@dataclass(frozen=True, slots=True)
class Item:
    """Something on the volume that takes room. `since`: when it lost its last reference, was put apart or was left, in
    seconds since the epoch."""

    what: What
    kind: Kind | None
    key: str
    directory: Path
    nbytes: int
    since: float
    owners: tuple[str, ...] = ()
    in_use: bool = False
    living: bool = False
    """A writer is at work in it."""

    @property
    def may_go(self) -> bool:
        """Those who refer to a damaged set need one that is whole."""
        return self.is_unneeded or self.what == "quarantined"

    @property
    def is_unneeded(self) -> bool:
        """Nobody refers to its key, serves it or writes it."""
        return not (self.owners or self.in_use or self.living)


@dataclass(frozen=True, slots=True)
class Policy:
    """`keep` are keys that are needed though nobody refers to them, above all those that templates of pods name.
    `want_bytes`: so much is to be free afterwards; older things go first until it is. `dry_run`: only say."""

    older_than_seconds: float | None = OLD_SECONDS
    want_bytes: int = 0
    keep: frozenset[str] = frozenset()
    dry_run: bool = False
    without: frozenset[str] = frozenset()
    """Owners whose references count as removed just now."""
    now: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Collected:
    """`items` went, or would go."""

    items: tuple[Item, ...]
    free_bytes: int

    @property
    def nbytes(self) -> int:
        return sum(item.nbytes for item in self.items)


RANK = {"quarantined": 0, "staging": 1, "set": 2}


def in_order(items: list[Item]) -> list[Item]:
    """What may go, the least useful first: what is damaged, what is half, then whole sets, the oldest first."""
    return sorted((item for item in items if item.may_go), key=lambda item: (RANK[item.what], item.since))


NAMED = 3


def would_make_room(items: list[Item]) -> str:
    """The largest things that somebody needs, as a sentence for who has to decide between them; empty without any."""
    needed = sorted((item for item in items if not item.may_go), key=lambda item: -item.nbytes)
    if not needed:
        return ""
    more = f", and {len(needed) - NAMED} more" if len(needed) > NAMED else ""
    return f"In use are {'; '.join(_needed(item) for item in needed[:NAMED])}{more}."


def _needed(item: Item) -> str:
    what = "what is being written of " if item.living else "the started " if item.what == "staging" else ""
    users = [*item.owners[:NAMED], *(["running pods"] if item.in_use else []), *(["its writer"] if item.living else [])]
    more = f" and {len(item.owners) - NAMED} more" if len(item.owners) > NAMED else ""
    return f"{what}{item.kind} {item.key} with {item.nbytes:,} bytes, for {', '.join(users)}{more}"
