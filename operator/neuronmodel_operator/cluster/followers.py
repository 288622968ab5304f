"""All followers of an operator: one for each mirrored kind, in each namespace that it watches, or in all."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Kind, Object
from neuronmodel_operator.cluster.follower import WATCH_SECONDS, Follower, ListsAndWatches
from neuronmodel_operator.cluster.mirror import Mirror
from neuronmodel_operator.cluster.mirrored_api import MIRRORED

SILENT_SECONDS: Final = WATCH_SECONDS + 60.0
"""A watch is renewed, or sends a bookmark, more often than this."""
FAILING_SECONDS: Final = 10.0
"""A watch that fails for a shorter time is a normal restart of the API server."""

Notify = Callable[[Kind, Object], None]
"""Called with an object that is new, changed or deleted."""


class Followers:
    def __init__(
        self,
        api: ListsAndWatches,
        namespaces: Sequence[str],
        notify: Notify,
        monotonic: Callable[[], float],
    ) -> None:
        self.mirrors: Mapping[Kind, Mirror] = {kind: Mirror() for kind in MIRRORED}
        self._monotonic = monotonic
        self._followers = [
            Follower(
                api,
                kind,
                namespace,
                # A user's claim carries no label of ours.
                "" if kind is client.CLAIM else names.LABEL_UID,
                self.mirrors[kind],
                lambda o, kind=kind: notify(kind, o),  # type: ignore[misc]
                monotonic,
            )
            for kind in MIRRORED
            for namespace in namespaces or (None,)
        ]

    async def run(self) -> None:
        """Runs until it is cancelled."""
        await asyncio.gather(*(follower.run() for follower in self._followers))

    async def listed(self) -> None:
        """Returns when the mirrors have what there is, as far as that can be listed."""
        await asyncio.gather(*(follower.tried.wait() for follower in self._followers))

    def is_current(self, kind: Kind, namespace: str) -> bool:
        """Whether the mirror of a kind has what there is in a namespace, or had a moment ago."""
        now = self._monotonic()
        of_kind = [each for each in self._followers if each.kind is kind and each.namespace in (None, namespace)]
        return all(each.listed.is_set() and not _is_failing(each, now) for each in of_kind)

    def silent(self) -> dict[str, float]:
        """Returns, by what is watched, the seconds of watches that have been silent for too long."""
        now = self._monotonic()
        return {
            str(follower): now - follower.seen_at
            for follower in self._followers
            if now - follower.seen_at > SILENT_SECONDS
        }

    def ages(self) -> dict[str, float]:
        """Returns, by kind, for how many seconds the watch that was silent longest has been; none before they begin."""
        now = self._monotonic()
        ages: dict[str, float] = {}
        for each in (each for each in self._followers if each.seen_at):
            ages[each.kind.kind] = max(ages.get(each.kind.kind, 0.0), now - each.seen_at)
        return ages

    def complaints(self) -> list[str]:
        """Returns a sentence for each kind that can't be listed or watched."""
        now = self._monotonic()
        return [
            f"The API server does not let the operator watch {follower}: {follower.problem}"
            for follower in self._failing(now)
        ]

    def _failing(self, now: float) -> Iterable[Follower]:
        for follower in self._followers:
            if _is_failing(follower, now):
                yield follower

    def sizes(self) -> list[tuple[str, int, int]]:
        """Returns each kind with the number of its objects and of their bytes."""
        return [(kind.kind, len(mirror), mirror.num_bytes) for kind, mirror in self.mirrors.items()]


def _is_failing(follower: Follower, now: float) -> bool:
    return follower.failing_since is not None and now - follower.failing_since >= FAILING_SECONDS
