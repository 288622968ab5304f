"""Kubelets and workers that are played: every pod of the campaign is placed, runs, reports at an address of its own and
ends or becomes ready, as real ones do."""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Network
from typing import Any, Final

from aiohttp import web

from hack.cluster.layout import PLAYED_NETWORK
from neuronmodel_api import exits, names
from neuronmodel_api.config import Strategy, WorkerConfig
from neuronmodel_api.report import MAX_REPORT_BYTES, Failure, PhaseReport, Progress, Report, Stage, State
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, ApiError
from tests.campaign.history import Chronicle, History
from tests.cluster.operator.played import IMAGE, SCHEDULER
from tests.unit.operator.simulated import component, config_of, result_of, stamp

STEP_SECONDS: Final = 0.15
"""Between two states of a pod."""
AGAIN_SECONDS: Final = 0.5
STAGES: Final = {"prepare": Stage.PREPARE, "serve": Stage.SERVE, "cleanup": Stage.CLEANUP}

Object = dict[str, Any]
Answer = Callable[[web.Request, Report], Awaitable[web.StreamResponse]]


async def _hang(request: web.Request, report: Report) -> web.StreamResponse:
    await asyncio.sleep(HANG_SECONDS)
    return web.Response()


async def _cut(request: web.Request, report: Report) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _drip(request: web.Request, report: Report) -> web.StreamResponse:
    """A byte at a time, without an end."""
    answer = web.StreamResponse()
    with suppress(ConnectionError):
        await answer.prepare(request)
        for byte in json.dumps(report.to_json()).encode():
            await answer.write(bytes([byte]))
            await asyncio.sleep(DRIP_SECONDS)
    return answer


def _answering(make: Callable[[Report], web.Response]) -> Answer:
    async def answer(request: web.Request, report: Report) -> web.StreamResponse:
        return make(report)

    return answer


def _of(report: Report, **changes: Any) -> web.Response:
    return web.json_response(report.model_copy(update=changes).to_json())


HANG_SECONDS: Final = 5.0
DRIP_SECONDS: Final = 0.05
WORKER_ANSWERS: Final[dict[str, Answer]] = {
    "answered with 500": _answering(lambda report: web.Response(status=500)),
    "answered with 302": _answering(lambda report: web.Response(status=302, headers={"Location": "/status"})),
    "that is no JSON": _answering(lambda report: web.Response(text="<html>")),
    "that is JSON and no report": _answering(lambda report: web.json_response({"state": "Ready"})),
    "longer than a report may be": _answering(lambda report: web.Response(body=b" " * 2 * MAX_REPORT_BYTES)),
    "of another pod": _answering(lambda report: _of(report, pod_uid="another")),
    "of another spec": _answering(lambda report: _of(report, spec_hash="another")),
    "that says Ready too early": _answering(lambda report: _of(report, state=State.READY)),
    "cut": _cut,
    "never answered": _hang,
    "a byte at a time": _drip,
}


@dataclass
class Befallen:
    """Answers in place of the first `times` reports."""

    answer: Answer
    times: int
    num_used: int = 0


@dataclass
class Behaviour:
    """Of the workers of one namespace."""

    fails: Callable[[WorkerConfig], Failure | None] = lambda config: None
    """Of prepare."""
    built: set[str] = field(default_factory=set)
    """Keys of shards that are sealed on the volume."""
    answer: Befallen | None = None


@dataclass
class PlayedPod:
    api: Api
    pod: Object
    address: str
    behaviour: Behaviour
    report: Report | None = None
    num_restarts: int = 0
    is_crashed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])

    async def live(self) -> None:
        """Until the pod is over, or deleted."""
        with suppress(asyncio.CancelledError):
            while not await self._run():
                self.num_restarts += 1
                self.is_crashed.clear()

    async def _run(self) -> bool:
        """One run of its container. Returns whether it was the last."""
        config, stage = config_of(self.pod), STAGES[component(self.pod)]
        began = datetime.now(UTC)
        self.report = Report(
            pod_uid=self.uid, spec_hash=config.spec_hash, stage=stage, state=State.RUNNING, started_at=began,
            progress=Progress(phase="SourceOpened", started_at=began),
        )  # fmt: skip
        running = {"state": {"running": {"startedAt": stamp(began)}}, "started": True, "ready": False}
        if self.num_restarts:
            running["lastState"] = {"terminated": self._killed()}
        await self._write("Running", running, began, is_ready=False)
        await asyncio.sleep(STEP_SECONDS)
        now = datetime.now(UTC)
        done = self._done(config, stage, began, now)
        if done.state is State.READY:
            self.report = done
            await self._write("Running", running | {"ready": True}, began, is_ready=True)
            await self.is_crashed.wait()
            return False
        is_well = done.state is State.SUCCEEDED
        end = {"exitCode": exits.OK if is_well else exits.BAD_INPUT, "reason": "Completed" if is_well else "Error"}
        times = {"startedAt": stamp(began), "finishedAt": stamp(now)}
        terminated = {"state": {"terminated": end | times | {"message": done.termination_message()}}, "ready": False}
        self.report = None
        await self._write("Succeeded" if is_well else "Failed", terminated, began, is_ready=False)
        return True

    def _done(self, config: WorkerConfig, stage: Stage, began: datetime, now: datetime) -> Report:
        assert self.report is not None
        milliseconds = int((now - began).total_seconds() * 1000)
        half = milliseconds // 2
        tier = "Artifacts" if config.shards_key in self.behaviour.built else "Source"
        phases = (
            PhaseReport(name="SourceOpened", started_at=began, milliseconds=half),
            PhaseReport(
                name="Read" if stage is Stage.SERVE and tier == "Artifacts" else "Sharded",
                started_at=began + timedelta(milliseconds=half), milliseconds=milliseconds - half, bytes=1_000_000,
            ),
        )  # fmt: skip
        update: Object = {"phases": phases, "progress": None}
        if stage is Stage.SERVE:
            return self.report.model_copy(update=update | {"state": State.READY, "ready_at": now, "tier": tier})
        if stage is Stage.PREPARE and (failure := self.behaviour.fails(config)):
            return self.report.model_copy(update=update | {"state": State.FAILED, "ended_at": now, "failure": failure})
        update |= {"state": State.SUCCEEDED, "ended_at": now}
        if stage is Stage.PREPARE:
            result = result_of(config, 1, None, Strategy.SHARD_ON_COMPILE)
            if result.shards_key and result.shards_key not in self.behaviour.built:
                self.behaviour.built.add(result.shards_key)
                result = result_of(config, 1, "There were no shards.", Strategy.SHARD_ON_COMPILE)
            update["result"] = result
        return self.report.model_copy(update=update)

    def _killed(self) -> Object:
        now = stamp(datetime.now(UTC))
        return {"exitCode": 137, "reason": "OOMKilled", "startedAt": now, "finishedAt": now}

    async def _write(self, phase: str, container: Object, since: datetime, *, is_ready: bool) -> None:
        status = {"name": names.CONTAINER, "image": IMAGE, "imageID": IMAGE, "restartCount": self.num_restarts}
        status["containerID"] = f"played://{self.uid}-{self.num_restarts}"
        conditions = [
            {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": stamp(datetime.now(UTC))}
            for kind, holds in (("PodScheduled", True), ("Ready", is_ready), ("ContainersReady", is_ready))
        ]
        written = {
            "phase": phase, "podIP": self.address, "podIPs": [{"ip": self.address}], "startTime": stamp(since),
            "conditions": conditions, "containerStatuses": [status | container],
        }  # fmt: skip
        meta = self.pod["metadata"]
        while True:
            try:
                await self.api.merge(client.POD, meta["namespace"], meta["name"], {"status": written}, "status")
                return
            except ApiError as error:
                if error.status == 404:
                    raise asyncio.CancelledError from None
                await asyncio.sleep(AGAIN_SECONDS)


@dataclass
class PlayedWorkers:
    api: Api
    history: History
    behaviours: defaultdict[str, Behaviour] = field(default_factory=lambda: defaultdict(Behaviour))
    """By namespace."""
    pods: dict[str, tuple[PlayedPod, asyncio.Task[None]]] = field(default_factory=dict)
    """By UID."""
    _by_address: dict[str, PlayedPod] = field(default_factory=dict)
    _sites: dict[str, web.TCPSite] = field(default_factory=dict)
    _addresses: Any = field(default_factory=lambda: itertools.cycle(IPv4Network(PLAYED_NETWORK).hosts()))
    _runner: web.AppRunner | None = None
    _beginnings: set[asyncio.Task[None]] = field(default_factory=set)

    def see(self, event: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if event == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            if found := self.pods.pop(uid, None):
                found[1].cancel()
                self._by_address.pop(found[0].address, None)
                self._later(self._close(found[0].address))
        elif uid not in self.pods and pod["spec"].get("schedulerName") == SCHEDULER:
            played = PlayedPod(self.api, pod, str(next(self._addresses)), self.behaviours[pod["metadata"]["namespace"]])
            self._by_address[played.address] = played
            self.pods[uid] = (played, asyncio.create_task(self._begin(played)))

    def crash(self, namespace: str) -> None:
        """The workers of a namespace are killed, and started again by their kubelet."""
        for played, _ in self.pods.values():
            if played.pod["metadata"]["namespace"] == namespace and component(played.pod) == names.COMPONENT_SERVE:
                played.is_crashed.set()

    async def _begin(self, played: PlayedPod) -> None:
        assert self._runner is not None
        site = self._sites[played.address] = web.TCPSite(self._runner, played.address, names.ADMIN_PORT)
        await site.start()
        await self._until_it_can_run(played.pod)
        await played.live()

    async def _until_it_can_run(self, pod: Object) -> None:
        """No kubelet runs a pod before its claims are there."""
        volumes = pod["spec"].get("volumes", ())
        claims = {each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each}
        there = partial(_has_claims, claims)
        with suppress(AssertionError):
            await self.history.of(pod["metadata"]["namespace"]).until(there, "claims")

    async def _close(self, address: str) -> None:
        if site := self._sites.pop(address, None):
            with suppress(RuntimeError):
                await site.stop()

    def _later(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._beginnings.add(task)
        task.add_done_callback(self._beginnings.discard)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        played = self._by_address.get(request.transport.get_extra_info("sockname")[0])
        if played is None or played.report is None:
            return web.Response(status=404)
        befallen = played.behaviour.answer
        if befallen and befallen.num_used < befallen.times:
            befallen.num_used += 1
            return await befallen.answer(request, played.report)
        return web.json_response(played.report.to_json())


def _has_claims(names_of_claims: set[str], chronicle: Chronicle) -> bool:
    return names_of_claims <= {claim["metadata"]["name"] for claim in chronicle.of_kind(client.CLAIM)}


@asynccontextmanager
async def playing(api: Api, history: History) -> AsyncIterator[PlayedWorkers]:
    workers = PlayedWorkers(api, history)
    application = web.Application()
    application.router.add_get("/status", workers._status)
    workers._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await workers._runner.setup()
    history.subscribers.append(workers.see)
    try:
        yield workers
    finally:
        history.subscribers.remove(workers.see)
        for _, task in workers.pods.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in workers.pods.values()), return_exceptions=True)
        await workers._runner.cleanup()
