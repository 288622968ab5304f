"""Keeps a mirror up to date: lists the objects of one kind page by page, then watches from there.

Unlike kopf's watching, a list says what is gone as well, and a gap alone leads to no list: the watch goes on from the
last version that it or a bookmark named, as long as the API server still knows that.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from neuronmodel_operator.cluster.backoff import doubling
from neuronmodel_operator.cluster.client import ApiError, Kind, Object, Page
from neuronmodel_operator.cluster.mirror import Mirror

PAGE: Final = 500
"""Objects in one answer to a list."""
WATCH_SECONDS: Final = 300
"""After which everything is listed again, and compared: a change that the watch missed is found within this time."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 10.0
GONE: Final = 410

_log = logging.getLogger(__name__)

Event = dict[str, Any]
"""As a watch sends it: `type` and `object`."""
Notify = Callable[[Object], None]
"""Called with an object that is new, changed or deleted, after the mirror has it."""


class ListsAndWatches(Protocol):
    """What a follower needs of `client.Api`. Both raise ApiError."""

    async def list_page(self, kind: Kind, namespace: str | None, labels: str, limit: int, rest: str) -> Page: ...

    def watch(self, kind: Kind, namespace: str | None, labels: str, version: str, seconds: int) -> AsyncIterator[Event]:
        """Ends after that many seconds, or when the connection does."""
        ...


class OutdatedWatchError(Exception):
    """The API server no longer knows the version: everything has to be listed again."""


@dataclass
class Follower:
    """Follows the objects of one kind in one namespace, or in all."""

    api: ListsAndWatches
    kind: Kind
    namespace: str | None
    labels: str
    mirror: Mirror
    notify: Notify
    monotonic: Callable[[], float]
    sleep: Callable[[float], Any] = asyncio.sleep
    jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, hides nothing)
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the mirror has what there was."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a list has succeeded or failed."""
    num_lists: int = 0
    seen_at: float = 0.0
    """When the API server last sent something, or let a watch begin, in monotonic seconds."""
    failing_since: float | None = None
    """When the first of the failures in a row happened."""
    problem: str = ""
    """The last of them, in a sentence."""
    _listed_at: float = 0.0
    _version: str = ""
    """From which the watch goes on; empty: everything has to be listed."""

    def __str__(self) -> str:
        return f"{self.kind.plural} in {f'namespace {self.namespace}' if self.namespace else 'all namespaces'}"

    async def run(self) -> None:
        """Runs until it is cancelled."""
        failures = 0
        self.seen_at = self.monotonic()
        while True:
            try:
                if not self._version or self.monotonic() - self._listed_at >= WATCH_SECONDS:
                    self._version = await self._list()
                await self._watch()
                failures = 0
                self._works()
            except OutdatedWatchError:
                self._version = ""
            except ApiError as error:
                failures += 1
                self.tried.set()
                self.failing_since = self.monotonic() if self.failing_since is None else self.failing_since
                self.problem = error.message
                if error.status == GONE:
                    self._version = ""
                pause = max(doubling(FIRST_PAUSE_SECONDS, failures, LONGEST_PAUSE_SECONDS), error.retry_after or 0.0)
                _log.info("watching %s: %s; again in %.1f s", self.kind.plural, error, pause)
                await self.sleep(pause * self.jitter())

    async def _list(self) -> str:
        """Returns the version to watch from: that of the first page, as later ones are of the same moment."""
        self.num_lists += 1
        self.mirror.begin_list()
        version, rest = "", ""
        while True:
            page = await self.api.list_page(self.kind, self.namespace, self.labels, PAGE, rest)
            for item in page.items:
                self._put(item)
            version, rest = version or page.version, page.rest
            if not rest:
                break
        for o in self.mirror.end_list([self.namespace] if self.namespace else []):
            self.notify(o)
        self.listed.set()
        self.tried.set()
        self._listed_at = self.monotonic()
        self._works()
        return version

    def _works(self) -> None:
        self.seen_at, self.failing_since = self.monotonic(), None

    async def _watch(self) -> None:
        """Until the watch ends; what was seen by then is not asked for again."""
        async for event in self.api.watch(self.kind, self.namespace, self.labels, self._version, WATCH_SECONDS):
            o = event["object"]
            self.seen_at = self.monotonic()
            if event["type"] == "ERROR":
                if o.get("code") == GONE:
                    raise OutdatedWatchError
                raise ApiError(o.get("code") or 0, o.get("reason") or "Unknown", o.get("message") or "a watch failed")
            if event["type"] == "DELETED":
                self.mirror.remove(o)
                self.notify(o)
            elif event["type"] in ("ADDED", "MODIFIED"):
                self._put(o)
            self._version = o["metadata"]["resourceVersion"]
            self.failing_since = None

    def _put(self, o: Object) -> None:
        # The items of a list have neither field.
        whole = {"apiVersion": self.kind.api_version, "kind": self.kind.kind, **o}
        if self.mirror.put(whole):
            self.notify(whole)
