"""Kubelets and workers by the thousand: one server answers for all their addresses."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from time import monotonic
from typing import Any, Final

import aiohttp
from aiohttp import web

from hack.cluster.layout import PLAYED_NETWORK
from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, Kind
from tests.campaign.workers import Behaviour, PlayedPod
from tests.cluster.operator.conditions import is_serving
from tests.cluster.operator.played import SCHEDULER

AGAIN_SECONDS: Final = 0.5

Object = dict[str, Any]
Place = tuple[str, str]
"""Namespace and name of a NeuronModel."""


@dataclass
class Times:
    """When something was first seen of NeuronModels, in monotonic seconds."""

    status: dict[Place, float] = field(default_factory=dict)
    job: dict[Place, float] = field(default_factory=dict)
    serving: dict[tuple[Place, int], float] = field(default_factory=dict)
    """By generation too."""


@dataclass
class Fleet:
    api: Api
    session: aiohttp.ClientSession
    reports: dict[str, str] = field(default_factory=dict)
    """Of clones, by address."""
    times: Times = field(default_factory=Times)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    addresses: Any = field(default_factory=lambda: itertools.islice(IPv4Network(PLAYED_NETWORK).hosts(), 256, None))
    num_questions: int = 0
    _played: dict[str, tuple[PlayedPod, asyncio.Task[None]]] = field(default_factory=dict)
    _by_address: dict[str, PlayedPod] = field(default_factory=dict)
    _behaviours: dict[str, Behaviour] = field(default_factory=dict)

    async def follow(self, kind: Kind) -> None:
        """Until it is cancelled."""
        path = f"{'/apis' if kind.group else '/api'}/{kind.api_version}/{kind.plural}"
        while True:
            with suppress(aiohttp.ClientError, OSError, ValueError):
                await self._watch(kind, path)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _watch(self, kind: Kind, path: str) -> None:
        """From what is there now: what was there before was seen."""
        async with self.session.get(self.api.server + path, params={"limit": "1"}, raise_for_status=True) as answer:
            version = (await answer.json())["metadata"]["resourceVersion"]
        query = {"watch": "true", "resourceVersion": version}
        async with self.session.get(self.api.server + path, params=query, raise_for_status=True) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                self._see(kind, event["type"], event["object"])
                self.changed.set()

    def _see(self, kind: Kind, event: str, o: Object) -> None:
        meta, now = o["metadata"], monotonic()
        if kind is client.POD:
            self._play(event, o)
        elif kind is client.JOB and event == "ADDED":
            place = (meta["namespace"], meta["labels"].get(names.LABEL_MODEL, ""))
            self.times.job.setdefault(place, now)
        elif kind is client.MODEL and o.get("status"):
            place = (meta["namespace"], meta["name"])
            self.times.status.setdefault(place, now)
            if is_serving(o):
                self.times.serving.setdefault((place, meta["generation"]), now)

    def _play(self, event: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if event == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            if found := self._played.pop(uid, None):
                found[1].cancel()
                self._by_address.pop(found[0].address, None)
        elif event == "ADDED" and pod["spec"].get("schedulerName") == SCHEDULER and not pod["status"].get("podIP"):
            model = pod["metadata"]["labels"][names.LABEL_MODEL]
            behaviour = self._behaviours.setdefault(f"{pod['metadata']['namespace']}/{model}", Behaviour())
            played = PlayedPod(self.api, pod, str(next(self.addresses)), behaviour)
            self._by_address[played.address] = played
            self._played[uid] = (played, asyncio.create_task(played.live()))

    async def status(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.num_questions += 1
        address = request.transport.get_extra_info("sockname")[0]
        if text := self.reports.get(address):
            return web.Response(text=text, content_type="application/json")
        played = self._by_address.get(address)
        if played is None or played.report is None:
            return web.Response(status=404)
        return web.json_response(played.report.to_json())

    def report_at(self, address: str) -> str:
        report = self._by_address[address].report
        assert report is not None
        return json.dumps(report.to_json())

    async def stop(self) -> None:
        for _, task in self._played.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in self._played.values()), return_exceptions=True)


@asynccontextmanager
async def assembled(api: Api, session: aiohttp.ClientSession) -> AsyncIterator[Fleet]:
    fleet = Fleet(api, session)
    application = web.Application()
    application.router.add_get("/status", fleet.status)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, port=names.ADMIN_PORT).start()
    following = [asyncio.create_task(fleet.follow(kind)) for kind in (client.MODEL, client.JOB, client.POD)]
    try:
        yield fleet
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await fleet.stop()
        await runner.cleanup()
