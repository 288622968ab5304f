"""How much the tier may write, and which copies go for it: a pure function of what there is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LEFT_FREE: Final = 10
"""Percent of the volume, or of what the pod may write to it, that the tier leaves to others."""


@dataclass(frozen=True, slots=True)
class CachedCopy:
    """A copy that is there; `used_at` in seconds since the epoch; `held`: a worker that lives loaded from it."""

    kind: str
    key: str
    nbytes: int
    used_at: float
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class VolumeSpace:
    """`limit_bytes` is what the pod may write in all before it is evicted; `used_bytes` of that are written."""

    total_bytes: int
    free_bytes: int
    limit_bytes: int | None = None
    used_bytes: int = 0

    @property
    def writable_bytes(self) -> int:
        """What may be written now; negative where too much is already."""
        writable = self.free_bytes - _left_free(self.total_bytes)
        if self.limit_bytes is None:
            return writable
        return min(writable, self.limit_bytes - _left_free(self.limit_bytes) - self.used_bytes)


def _left_free(nbytes: int) -> int:
    return nbytes * LEFT_FREE // 100


def evictions(space: VolumeSpace, needed_bytes: int, kept: Iterable[CachedCopy]) -> list[CachedCopy] | None:
    """The copies that have to go for `needed_bytes`, the longest unused first; None: all of them would not do."""
    missing, going = needed_bytes - space.writable_bytes, list[CachedCopy]()
    for copy in sorted((each for each in kept if not each.in_use), key=lambda each: each.used_at):
        if missing <= 0:
            break
        going.append(copy)
        missing -= copy.nbytes
    return going if missing <= 0 else None
