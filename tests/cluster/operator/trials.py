"""The operator's writes that are tried: how to cause each, where a refusal is reported, and how it looks once done."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_operator.cluster import client, lease_record
from neuronmodel_operator.cluster.client import Api, Kind
from neuronmodel_operator.state.plan import ObjectRef
from tests.cluster.operator.played import IMAGE, Played, Sight
from tests.cluster.operator.process import OperatorProcess, until, user_name
from tests.cluster.operator.storage import make_volume, requested_size
from tests.cluster.operator.webhook import ANSWERS, SILENT, Answer, Webhook

OTHER_PORT: Final = 9000
VARIABLE: Final = {"name": "ASKED_FOR", "value": "later"}

Object = dict[str, Any]


@dataclass
class Stage:
    """Where trials take place."""

    api: Api
    played: Played
    webhook: Webhook
    operator: OperatorProcess
    home: str
    """The namespace of the operator's account, and of all trials but those about what a namespace has one of."""
    turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """By namespace, where one trial at a time takes place."""

    @property
    def nobodys_turn(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    @property
    def account(self) -> str:
        return user_name(self.home)

    @property
    def storage_class(self) -> str:
        return self.home

    def namespace_of(self, write: "Write", answer: Answer) -> str:
        return own_namespace(self.home, answer) if write.has_own_namespace else self.home


def own_namespace(home: str, answer: Answer) -> str:
    return f"{home}-{answer.name}"


@dataclass
class Trial:
    """One NeuronModel, while one write of the operator is refused."""

    stage: Stage
    namespace: str
    name: str
    serves: bool
    """It did before; it is changed while the write is refused."""
    before: frozenset[str] = frozenset()
    """UIDs of the Jobs that were there."""

    @property
    def labels(self) -> dict[str, str]:
        """Of it and of everything that it owns."""
        return {names.LABEL_MODEL: self.name}

    @property
    def sights(self) -> list[Sight]:
        return self.stage.played.seen[self.namespace, self.name]

    async def make(self, **artifacts: str) -> None:
        template = {"size": "1Gi", "storageClassName": self.stage.storage_class}
        spec = {"artifacts": {"template": template} | artifacts}
        await self.stage.played.make(self.namespace, self.name, spec)

    async def begin_serving(self) -> None:
        await self.make()
        await self.until(lambda sight: sight.is_serving, "serving")

    async def change(self, spec: Object) -> None:
        await self.stage.api.merge(client.MODEL, self.namespace, self.name, {"spec": spec})

    async def remove(self) -> None:
        """What is over is no burden for what is still tried."""
        await self.change({"artifacts": {"retention": "Retain"}})
        meta = (await self.get(client.MODEL, self.name))["metadata"]
        ref = ObjectRef(names.API_VERSION, names.KIND, self.name, meta["uid"])
        await self.stage.api.delete(client.MODEL, self.namespace, ref)

    async def get(self, kind: Kind, name: str) -> Object:
        return await self.stage.api.get(kind, self.namespace, name) or {}

    async def jobs(self) -> frozenset[str]:
        labels = ",".join(f"{key}={value}" for key, value in self.labels.items())
        jobs = await self.stage.api.list(client.JOB, self.namespace, labels=labels)
        return frozenset(job["metadata"]["uid"] for job in jobs)

    async def warnings(self, reason: str) -> list[str]:
        """Of Events."""
        fields = f"involvedObject.name={self.name},type=Warning,reason={reason}"
        found = await self.stage.api.list(client.EVENT, self.namespace, fields=fields)
        return [event["message"] for event in found]

    async def until(self, holds: Callable[[Sight], bool], what: str) -> Sight:
        return await self.stage.played.until(self.namespace, self.name, holds, what)


Act = Callable[[Trial], Awaitable[None]]


@dataclass(frozen=True)
class Write:
    name: str
    described: str
    of: tuple[str, str, str]
    """Group, version and resource."""
    is_written: Callable[[Trial], Awaitable[bool]]
    """As it is asked for."""
    ask: Act
    """Of a NeuronModel that serves."""
    condition: str | None = "Ready"
    """The condition that reports it, in addition to Ready; None: no condition does."""
    operations: tuple[str, ...] = ("CREATE", "UPDATE")
    retention: str = "Retain"
    """Of a new NeuronModel."""
    make_room: Act | None = None
    """Before it serves."""
    set_up: Act | None = None
    """Makes a new NeuronModel before the write is refused; None: it is made then."""
    select: Callable[[Trial], Object] | None = None
    """Other than by label."""
    is_reported: Callable[[Trial, Answer], Awaitable[bool]] | None = None
    """Where no condition can."""
    reported_in: str | None = None
    """Other than in the condition, with the answer's reason."""
    ask_again: Act | None = None
    """After the refusal, of what is not tried again by itself."""
    answers: tuple[Answer, ...] = ANSWERS
    is_of_new: bool = True
    changes_spec: bool = True
    has_own_namespace: bool = False


def _asking(**spec: Any) -> Act:
    return lambda trial: trial.change(spec)


async def _is_service_written(trial: Trial) -> bool:
    ports = (await trial.get(client.SERVICE, names.service(trial.name))).get("spec", {}).get("ports", [{}])
    return bool(ports[0].get("port") == (OTHER_PORT if trial.serves else 8000))


async def _delete_service(trial: Trial) -> None:
    found = await trial.get(client.SERVICE, names.service(trial.name))
    ref = ObjectRef("v1", "Service", trial.name, found["metadata"]["uid"])
    await trial.stage.api.delete(client.SERVICE, trial.namespace, ref)


async def _is_service_there(trial: Trial) -> bool:
    return bool(await trial.get(client.SERVICE, names.service(trial.name)))


async def _is_claim_written(trial: Trial) -> bool:
    size = await requested_size(trial.stage.api, trial.namespace, trial.name)
    return size == ("2Gi" if trial.serves else "1Gi")


async def _make_volume(trial: Trial) -> None:
    stage = trial.stage
    await make_volume(stage.api, stage.played.run, stage.storage_class, trial.namespace, trial.name)


async def _is_job_written(trial: Trial) -> bool:
    return bool(await trial.jobs() - trial.before)


async def _is_job_deleted(trial: Trial) -> bool:
    return not await trial.jobs() & trial.before


async def _make_with_a_job_that_never_begins(trial: Trial) -> None:
    trial.stage.played.held.add(trial.name)
    await trial.make()
    await until(trial.jobs)


async def _outdate_job(trial: Trial) -> None:
    await trial.change(
        {"parallelism": {"tensorParallelDegree": 2}} if trial.serves else {"worker": {"image": OTHER_IMAGE}}
    )


async def _is_deployment_written(trial: Trial) -> bool:
    deployment = await trial.get(client.DEPLOYMENT, names.deployment(trial.name))
    if not deployment:
        return False
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return not trial.serves or VARIABLE in container["env"]


async def _holds_finalizer(trial: Trial) -> bool:
    return names.FINALIZER in (await trial.get(client.MODEL, trial.name))["metadata"].get("finalizers", ())


async def _is_status_written(trial: Trial) -> bool:
    model = await trial.get(client.MODEL, trial.name)
    return bool(model.get("status", {}).get("observedGeneration") == model["metadata"]["generation"])


async def _is_reported_by_an_event(trial: Trial, answer: Answer) -> bool:
    return any(answer.words in message for message in await trial.warnings(STATUS_NOT_WRITTEN))


async def _is_reported_by_the_log(trial: Trial, answer: Answer) -> bool:
    """And the status is right all the same."""
    words = "did not answer" if answer.waits_seconds else answer.words
    messages = trial.stage.operator.messages(f"{trial.namespace}/{trial.name}: Event ")
    return bool(trial.sights) and trial.sights[-1].is_serving and any(words in each for each in messages)


async def _is_an_event_written(trial: Trial) -> bool:
    fields = f"involvedObject.name={trial.name},reason=WorkerRolled"
    return bool(await trial.stage.api.list(client.EVENT, trial.namespace, fields=fields))


async def _is_acted_without_lease(trial: Trial, answer: Answer) -> bool:
    """And what is asked for is done all the same."""
    words = "did not answer" if answer is SILENT else answer.words
    message = _last_of_lease(trial)
    return bool(trial.sights) and trial.sights[-1].is_serving and "acting without" in message and words in message


async def _holds_lease(trial: Trial) -> bool:
    return _last_of_lease(trial).startswith("holding")


def _last_of_lease(trial: Trial) -> str:
    messages = trial.stage.operator.messages(f"the Lease {trial.namespace}/{lease_record.NAME}")
    return messages[-1] if messages else ""


def _of_events(trial: Trial) -> Object:
    """They have no labels."""
    return {"expression": f"object.involvedObject.name == '{trial.name}'"}


def _of_the_namespace(trial: Trial) -> Object:
    return {}


OTHER_IMAGE: Final = f"{IMAGE}.1"
STATUS_NOT_WRITTEN: Final = "StatusNotWritten"
_MODELS: Final = (names.GROUP, names.VERSION, names.PLURAL)
_OTHER_PORT: Final = _asking(serving={"port": OTHER_PORT})
_WITH_VARIABLE: Final = _asking(worker={"env": [VARIABLE]})

SERVICE: Final = Write("service", "Service", ("", "v1", "services"), _is_service_written, _OTHER_PORT)
WRITES: Final = (
    SERVICE,
    Write(
        *("gone", "Service that somebody deleted", ("", "v1", "services"), _is_service_there, _delete_service),
        is_of_new=False,
        changes_spec=False,
    ),
    Write(
        *("claim", "PersistentVolumeClaim", ("", "v1", "persistentvolumeclaims"), _is_claim_written),
        _asking(artifacts={"template": {"size": "2Gi"}}),
        condition="ArtifactsReady",
        make_room=_make_volume,
    ),
    Write(
        *("job", "Job", ("batch", "v1", "jobs"), _is_job_written, _asking(parallelism={"tensorParallelDegree": 2})),
        condition="Scheduled",
    ),
    Write(
        *("deletion", "Job, to be deleted", ("batch", "v1", "jobs"), _is_job_deleted, _outdate_job),
        operations=("DELETE",),
        set_up=_make_with_a_job_that_never_begins,
    ),
    Write(
        *("deployment", "Deployment", ("apps", "v1", "deployments"), _is_deployment_written, _WITH_VARIABLE),
        condition="Scheduled",
    ),
    Write(
        *("finalizer", "NeuronModel: finalizer", _MODELS, _holds_finalizer),
        _asking(artifacts={"retention": "Delete"}),
        retention="Delete",
    ),
    Write(
        *("status", "NeuronModel: status", (*_MODELS[:2], f"{names.PLURAL}/status"), _is_status_written, _OTHER_PORT),
        condition=None,
        is_reported=_is_reported_by_an_event,
        reported_in=f"Event: `{STATUS_NOT_WRITTEN}`",
    ),
    Write(
        *("event", "Event", ("", "v1", "events"), _is_an_event_written, _OTHER_PORT),
        condition=None,
        select=_of_events,
        is_reported=_is_reported_by_the_log,
        reported_in="the operator's log",
        ask_again=_WITH_VARIABLE,
    ),
    Write(
        *("lease", "Lease", ("coordination.k8s.io", "v1", "leases"), _holds_lease, _OTHER_PORT),
        condition=None,
        select=_of_the_namespace,
        is_reported=_is_acted_without_lease,
        reported_in="the operator's log, /readyz",
        has_own_namespace=True,
    ),
)
