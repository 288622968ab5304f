"""What a test sees of NeuronModels over a time, and workers that are played for them: their pods run nowhere."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_api.config import Strategy
from neuronmodel_api.report import Report, Stage, State
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, ApiError
from neuronmodel_operator.decide.situation import READY_REPORT_GRACE
from tests.cluster.operator.conditions import condition, is_serving, summary
from tests.cluster.operator.conftest import model_manifest
from tests.unit.operator.simulated import component, config_of, result_of, stamp
from tests.waiting import PATIENCE_SECONDS

LOOK_SECONDS: Final = 0.25
REFUSED: Final = (400, 401, 403, 405, 415, 422)
"""What the API server answers the same however often it is asked."""
RUN: Final = "tests.example.com/run"
"""A label: whose NeuronModels and pods they are."""
SCHEDULER: Final = "played"
"""Nobody's name: no scheduler says anything of the pods."""
IMAGE: Final = "registry.invalid/worker:1"

Object = dict[str, Any]


@dataclass(frozen=True)
class Sight:
    """Of a NeuronModel, once."""

    asked_at: float
    """Monotonic seconds, before and after."""
    at: float
    model: Object

    @property
    def meta(self) -> Object:
        return dict(self.model["metadata"])

    @property
    def status(self) -> Object:
        return dict(self.model.get("status") or {})

    def condition(self, kind: str) -> Object:
        return condition(self.model, kind)

    @property
    def summary(self) -> str:
        return summary(self.model)

    @property
    def ready(self) -> Object:
        return self.condition("Ready")

    @property
    def is_serving(self) -> bool:
        """What is asked for now."""
        return is_serving(self.model)


@dataclass
class Played:
    """NeuronModels with the label RUN of one run of tests."""

    api: Api
    run: str
    held: set[str] = field(default_factory=set)
    """Names of NeuronModels whose workers do nothing."""
    seen: defaultdict[tuple[str, str], list[Sight]] = field(default_factory=lambda: defaultdict(list))
    """By namespace and name, as often as there was something new."""
    _looked: asyncio.Condition = field(default_factory=asyncio.Condition)
    _error: BaseException | None = None

    async def make(self, namespace: str, name: str, spec: Object) -> Object:
        manifest = model_manifest(name)
        manifest["metadata"]["labels"] = {RUN: self.run, names.LABEL_MODEL: name}
        worker = {"image": IMAGE, "schedulerName": SCHEDULER, "podLabels": {RUN: self.run}}
        manifest["spec"] |= spec | {"worker": worker | spec.get("worker", {})}
        return await self.api.create(client.MODEL, namespace, manifest)

    async def until(self, namespace: str, name: str, holds: Callable[[Sight], bool], what: str) -> Sight:
        """The sight for which it does."""
        end = monotonic() + PATIENCE_SECONDS
        async with self._looked:
            while not ((sights := self.seen[namespace, name]) and holds(sights[-1])):
                if self._error:  # nobody looks any more
                    raise self._error
                assert monotonic() < end, f"still not {what}: {sights[-1].summary if sights else None}"
                await self._looked.wait()
            return sights[-1]

    async def _keep_looking(self) -> None:
        try:
            while True:
                with suppress_passing():
                    await self._look()
                await asyncio.sleep(LOOK_SECONDS)
        except Exception as error:
            self._error = error
        finally:
            async with self._looked:
                self._looked.notify_all()

    async def _look(self) -> None:
        asked_at, mine = monotonic(), f"{RUN}={self.run}"
        models, pods = await asyncio.gather(
            self.api.list(client.MODEL, None, labels=mine), self.api.list(client.POD, None, labels=mine)
        )
        async with self._looked:
            for model in models:
                sights = self.seen[model["metadata"]["namespace"], model["metadata"]["name"]]
                if not sights or sights[-1].model != model:
                    sights.append(Sight(asked_at, monotonic(), model))
            self._looked.notify_all()
        await asyncio.gather(*(self._play(pod) for pod in pods))

    async def _play(self, pod: Object) -> None:
        meta, phase = pod["metadata"], pod["status"].get("phase", "Pending")
        if phase != "Pending" or "deletionTimestamp" in meta or meta["labels"][names.LABEL_MODEL] in self.held:
            return
        match component(pod):
            case names.COMPONENT_PREPARE:
                status = _prepared(pod)
            case names.COMPONENT_CLEANUP:
                status = _ended_well()
            case _:
                status = _answering()
        with suppress_passing():
            await self.api.merge(client.POD, meta["namespace"], meta["name"], {"status": status}, "status")


@contextmanager
def suppress_passing() -> Iterator[None]:
    """A busy API server's answer; the next look asks again. Raises what would be answered to that as well."""
    try:
        yield
    except ApiError as error:
        if error.status in REFUSED:
            raise


@asynccontextmanager
async def playing(api: Api, run: str) -> AsyncIterator[Played]:
    played = Played(api, run)
    looking = asyncio.create_task(played._keep_looking())
    try:
        yield played
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def _answering() -> Object:
    """Of a worker whose report nobody can ask for, as it has no address, and which has been ready for long enough that
    it is not waited for."""
    now = stamp(datetime.now(UTC) - READY_REPORT_GRACE)
    container = {"state": {"running": {"startedAt": now}}, "ready": True, "started": True}
    conditions = [_true("PodScheduled", now), _true("Ready", now), _true("ContainersReady", now)]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": [_container() | container]}


def _prepared(pod: Object) -> Object:
    """Of `prepare`, with its result."""
    now, config = datetime.now(UTC), config_of(pod)
    report = Report(
        pod_uid=pod["metadata"]["uid"],
        spec_hash=config.spec_hash,
        stage=Stage.PREPARE,
        state=State.SUCCEEDED,
        started_at=now,
        ended_at=now,
        result=result_of(config, 1, None, Strategy.SHARD_ON_COMPILE),
    )
    return _ended_well(report.termination_message())


def _ended_well(message: str = "") -> Object:
    now = stamp(datetime.now(UTC))
    end = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now, "message": message}
    container = {"state": {"terminated": end}, "ready": False}
    conditions = [_true("PodScheduled", now)]
    return {"phase": "Succeeded", "conditions": conditions, "containerStatuses": [_container() | container]}


def _container() -> Object:
    return {"name": names.CONTAINER, "image": IMAGE, "imageID": IMAGE, "restartCount": 0}


def _true(kind: str, since: str) -> Object:
    return {"type": kind, "status": "True", "lastTransitionTime": since}
