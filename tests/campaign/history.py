"""Everything that becomes of the objects of a campaign's namespaces, in the order in which it was written.

The versions of objects of all kinds come from one counter, that of etcd, so that they say what was before what.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

import aiohttp

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Kind
from tests.cluster.operator.conditions import summary
from tests.waiting import PATIENCE_SECONDS

KINDS: Final = (client.MODEL, client.POD, client.JOB, client.DEPLOYMENT, client.SERVICE, client.CLAIM)
AGAIN_SECONDS: Final = 0.5

Object = dict[str, Any]
Subscriber = Callable[[str, Object], None]
"""Called with the type of an event and a pod."""


@dataclass(frozen=True)
class Version:
    """Of an object, once."""

    number: int
    """The resource version."""
    at: float
    """Monotonic seconds, when it was seen here."""
    kind: str
    is_deleted: bool
    object: Object

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])


@dataclass
class Chronicle:
    """One namespace."""

    versions: list[Version] = field(default_factory=list)
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    """What is there now, by kind and name."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    patience: float = PATIENCE_SECONDS

    def model(self) -> Object | None:
        return next((o for (kind, _), o in self.objects.items() if kind == client.MODEL.kind), None)

    def of_kind(self, kind: Kind) -> list[Object]:
        return [o for (each, _), o in self.objects.items() if each == kind.kind]

    async def until(self, holds: Callable[["Chronicle"], bool], what: str) -> None:
        end = monotonic() + self.patience
        async with self.changed:
            while not holds(self):
                left = end - monotonic()
                assert left > 0, f"still not {what}: {_summary(self.model())}"
                with suppress(TimeoutError):
                    # Not wait_for, which may swallow a cancellation.
                    async with asyncio.timeout(left):
                        await self.changed.wait()

    def keep(self, file: Path) -> None:
        """Writes every version, a line of JSON each, for whoever has to find out why a story fell."""
        with file.open("w") as opened:
            opened.writelines(f"{json.dumps(vars(version))}\n" for version in self.versions)


@dataclass
class History:
    """The namespaces whose names begin with `prefix`."""

    session: aiohttp.ClientSession
    server: str
    prefix: str
    patience: float
    """Seconds."""
    chronicles: dict[str, Chronicle] = field(default_factory=dict)
    subscribers: list[Subscriber] = field(default_factory=list)

    def of(self, namespace: str) -> Chronicle:
        return self.chronicles.setdefault(namespace, Chronicle(patience=self.patience))

    def forget(self, namespace: str) -> None:
        self.chronicles.pop(namespace, None)

    async def _follow(self, kind: Kind) -> None:
        path = f"{'/apis' if kind.group else '/api'}/{kind.api_version}/{kind.plural}"
        while True:
            try:
                version = await self._list(kind, path)
                await self._watch(kind, path, version)
            except (aiohttp.ClientError, OSError, ValueError):
                await asyncio.sleep(AGAIN_SECONDS)

    async def _list(self, kind: Kind, path: str) -> str:
        async with self.session.get(self.server + path, raise_for_status=True) as answer:
            found = await answer.json()
        there = {item["metadata"]["uid"] for item in found["items"]}
        for gone in [o for chronicle in self.chronicles.values() for o in chronicle.of_kind(kind)]:
            if gone["metadata"]["uid"] not in there:
                await self._see(kind, "DELETED", _deleted(gone))
        for item in found["items"]:
            await self._see(kind, "ADDED", item)
        return str(found["metadata"]["resourceVersion"])

    async def _watch(self, kind: Kind, path: str, version: str) -> None:
        query = {"watch": "true", "resourceVersion": version}
        async with self.session.get(self.server + path, params=query, raise_for_status=True) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                await self._see(kind, event["type"], event["object"])

    async def _see(self, kind: Kind, event: str, o: Object) -> None:
        meta = o["metadata"]
        namespace = meta["namespace"]
        if not namespace.startswith(self.prefix):
            return
        chronicle = self.of(namespace)
        is_deleted = event == "DELETED"
        chronicle.versions.append(Version(int(meta["resourceVersion"]), monotonic(), kind.kind, is_deleted, o))
        if is_deleted:
            chronicle.objects.pop((kind.kind, meta["name"]), None)
        else:
            chronicle.objects[kind.kind, meta["name"]] = o
        if kind is client.POD:
            for subscriber in self.subscribers:
                subscriber(event, o)
        async with chronicle.changed:
            chronicle.changed.notify_all()


@asynccontextmanager
async def following(
    session: aiohttp.ClientSession, server: str, prefix: str, patience: float
) -> AsyncIterator[History]:
    history = History(session, server, prefix, patience)
    tasks = [asyncio.create_task(history._follow(kind)) for kind in KINDS]
    try:
        yield history
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _deleted(o: Object) -> Object:
    """It went while nobody watched: as early as that can have been."""
    return o | {"metadata": o["metadata"] | {"resourceVersion": str(int(o["metadata"]["resourceVersion"]) + 1)}}


def _summary(model: Object | None) -> str:
    return "there is no NeuronModel" if model is None else summary(model)
