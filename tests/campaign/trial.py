"""One NeuronModel in a namespace of its own, with an operator of its own behind a fault proxy of its own."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, ApiError
from neuronmodel_operator.state.plan import ObjectRef
from tests.campaign.history import Chronicle, History
from tests.campaign.workers import Behaviour, PlayedWorkers
from tests.cluster.operator.conditions import condition, is_serving
from tests.cluster.operator.conftest import delete, model_manifest, remove_namespace
from tests.cluster.operator.played import IMAGE, SCHEDULER
from tests.cluster.operator.process import OperatorProcess
from tests.faults.proxy import FaultProxy, proxy_of, write_kubeconfig_of_proxy
from tests.waiting import PATIENCE_SECONDS

MODEL: Final = "smol"
READ_WRITE_MANY: Final = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}

NOT_FOUND: Final = 404
AGAIN_SECONDS: Final = 0.5

Object = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """Where trials take place."""

    api: Api
    history: History
    workers: PlayedWorkers
    home: str
    """The namespace of the operators' account, and the beginning of the names of all others."""
    account: Path
    """The kubeconfig of that account."""
    folder: Path
    storage_class: str


@dataclass
class Trial:
    stage: Stage
    namespace: str
    proxy: FaultProxy
    operator: OperatorProcess
    num_kills: int = 0

    @property
    def api(self) -> Api:
        return self.stage.api

    @property
    def chronicle(self) -> Chronicle:
        return self.stage.history.of(self.namespace)

    @property
    def behaviour(self) -> Behaviour:
        return self.stage.workers.behaviours[self.namespace]

    @property
    def template(self) -> Object:
        """Of the claim for artifacts, which several replicas can share."""
        return {"size": "1Gi", "storageClassName": self.stage.storage_class, "accessModes": ["ReadWriteMany"]}

    async def make(self, **spec: Any) -> None:
        manifest = model_manifest(MODEL)
        manifest["spec"] |= {
            "artifacts": {"template": self.template},
            "worker": {"image": IMAGE, "schedulerName": SCHEDULER},
        } | spec
        await insist(lambda: self._create(manifest))

    async def _create(self, manifest: Object) -> None:
        try:
            await self.api.create(client.MODEL, self.namespace, manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":  # by a call whose answer was lost
                raise

    async def change(self, spec: Object) -> None:
        """Returns when the change was seen, so that what is waited for then is what follows it."""
        changed = await insist(lambda: self.api.merge(client.MODEL, self.namespace, MODEL, {"spec": spec}))

        def is_seen(chronicle: Chronicle) -> bool:
            model = chronicle.model()
            return model is not None and model["metadata"]["generation"] >= changed["metadata"]["generation"]

        await self.chronicle.until(is_seen, "the change")

    async def delete(self) -> None:
        model = await insist(lambda: self.api.get(client.MODEL, self.namespace, MODEL))
        assert model is not None
        ref = ObjectRef(names.API_VERSION, names.KIND, MODEL, model["metadata"]["uid"])
        await insist(lambda: self._delete(ref))

    async def _delete(self, ref: ObjectRef) -> None:
        try:
            await self.api.delete(client.MODEL, self.namespace, ref)
        except ApiError as error:
            if error.status != NOT_FOUND:  # by a call whose answer was lost
                raise

    async def until_serving(self) -> None:
        await self.chronicle.until(lambda chronicle: is_serving(chronicle.model()), "serving")

    async def until_ready_is(self, status: str, reason: str) -> None:
        def holds(chronicle: Chronicle) -> bool:
            ready = condition(chronicle.model() or {}, "Ready")
            return (ready.get("status"), ready.get("reason")) == (status, reason)

        await self.chronicle.until(holds, f"Ready {status} {reason}")

    async def until_gone(self) -> None:
        await self.chronicle.until(lambda chronicle: chronicle.model() is None, "gone")

    async def delete_namespace(self) -> None:
        namespace = await insist(lambda: self.api.get(client.NAMESPACE, None, self.namespace))
        assert namespace is not None
        await insist(lambda: delete(self.api, client.NAMESPACE, namespace))

    async def until_namespace_is_gone(self) -> None:
        end = monotonic() + self.stage.history.patience
        while await insist(lambda: self.api.get(client.NAMESPACE, None, self.namespace)) is not None:
            assert monotonic() < end, f"the namespace is still there: {await self._what_holds_the_namespace()}"
            await asyncio.sleep(AGAIN_SECONDS)

    async def _what_holds_the_namespace(self) -> str:
        namespace = await self.api.get(client.NAMESPACE, None, self.namespace) or {}
        return "; ".join(each["message"] for each in namespace.get("status", {}).get("conditions", ()))

    async def until_quiet(self, seconds: float) -> None:
        """Until nothing was written to any object for as long."""
        end = monotonic() + self.stage.history.patience
        while monotonic() < end:
            versions = self.chronicle.versions
            pause = seconds - (monotonic() - versions[-1].at) if versions else seconds
            if pause <= 0:
                return
            await asyncio.sleep(pause)

    @property
    def num_befallen(self) -> int:
        """How often a fault came about."""
        reports = self.behaviour.answer.num_used if self.behaviour.answer else 0
        return self.proxy.num_befallen + self.proxy.event_faults.num_befallen + self.num_kills + reports

    def kill_operator(self) -> None:
        """It is started again at once, as a kubelet does."""
        self.num_kills += 1
        self.operator.end(signal.SIGKILL)
        self.operator.start()


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """What users do while the API server is away: they ask again."""
    end = monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except ApiError as error:
            if 400 <= error.status < 429 or monotonic() > end:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


@asynccontextmanager
async def beginning(stage: Stage, name: str, clock_offset: float = 0.0) -> AsyncIterator[Trial]:
    """A trial in the namespace of that name, with an operator that has begun. `clock_offset`: by how many seconds its
    clock is ahead."""
    async with behind_one_operator(stage, [name], clock_offset) as (trial,):
        yield trial


@asynccontextmanager
async def behind_one_operator(
    stage: Stage, names_of_trials: Sequence[str], clock_offset: float = 0.0
) -> AsyncIterator[Sequence[Trial]]:
    """Trials in namespaces of those names, which share an operator and its proxy."""
    namespaces = [f"{stage.home}-{name}" for name in names_of_trials]
    async with AsyncExitStack() as stack:
        for namespace in namespaces:
            await stage.api.create(client.NAMESPACE, None, {"metadata": {"name": namespace}})
            stack.push_async_callback(insist, partial(remove_namespace, stage.api, namespace))
            stack.callback(stage.history.forget, namespace)
            spec = READ_WRITE_MANY | {"storageClassName": stage.storage_class}
            await stage.api.create(client.CLAIM, namespace, {"metadata": {"name": "models"}, "spec": spec})
        proxy = await stack.enter_async_context(proxy_of(stage.account).running())
        files = stage.folder / names_of_trials[0]
        write_kubeconfig_of_proxy(stage.account, proxy, files.with_suffix(".kubeconfig"))
        kubeconfig, log = files.with_suffix(".kubeconfig"), files.with_suffix(".log")
        operator = OperatorProcess(namespaces, kubeconfig, log, forks=True, clock_offset=clock_offset)
        stack.callback(operator.kill_if_alive)
        operator.start()
        yield [Trial(stage, namespace, proxy, operator) for namespace in namespaces]
