"""How much the cache may write, and which copies it evicts for that: pure functions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LEFT_FREE: Final = 10
"""Percentage of the volume, or of what the pod may write to it, that the cache leaves free."""


@dataclass(frozen=True, slots=True)
class CachedCopy:
    """A copy on the volume. `used_at` is in seconds since the epoch; `in_use` means that a running worker loaded from
    it."""

    kind: str
    key: str
    nbytes: int
    used_at: float
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class VolumeSpace:
    """The volume's space. `limit_bytes` is what the pod may write before it is evicted, of which `used_bytes` are
    written."""

    total_bytes: int
    free_bytes: int
    limit_bytes: int | None = None
    used_bytes: int = 0

    @property
    def writable_bytes(self) -> int:
        """How much may be written now; negative if too much is written already."""
        writable = self.free_bytes - _left_free(self.total_bytes)
        if self.limit_bytes is None:
            return writable
        return min(writable, self.limit_bytes - _left_free(self.limit_bytes) - self.used_bytes)


def _left_free(nbytes: int) -> int:
    return nbytes * LEFT_FREE // 100


def evictions(space: VolumeSpace, needed_bytes: int, kept: Iterable[CachedCopy]) -> list[CachedCopy] | None:
    """Returns the copies to evict for `needed_bytes`, the least recently used first, or None if evicting all would not
    do."""
    missing, going = needed_bytes - space.writable_bytes, list[CachedCopy]()
    for copy in sorted((each for each in kept if not each.in_use), key=lambda each: each.used_at):
        if missing <= 0:
            break
        going.append(copy)
        missing -= copy.nbytes
    return going if missing <= 0 else None
