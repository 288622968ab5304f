"""A namespace in which the operator works behind a proxy, which records what it writes and goes wrong as it is told."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from kubernetes.aio.config import kube_config

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, Kind
from neuronmodel_operator.state.plan import ObjectRef
from tests.cluster.conftest import Kubectl
from tests.cluster.operator.conftest import made_namespace
from tests.cluster.operator.played import Played, Sight, playing
from tests.cluster.operator.process import OperatorProcess, fetch, is_healthy, make_account, until
from tests.cluster.operator.storage import STORAGE_CLASS, VOLUME, remove, source_claim, storage_class
from tests.faults.proxy import FaultProxy, Recorded, proxy_of, write_kubeconfig_of_proxy

Object = dict[str, Any]


@dataclass
class Place:
    """A namespace, its operator, and the workers that are played in it."""

    api: Api
    namespace: str
    kubectl: Kubectl
    proxy: FaultProxy
    played: Played
    operator: OperatorProcess

    async def start(self) -> None:
        """Returns when the operator watches."""
        self.operator.start()
        await until(lambda: is_healthy(self.operator))

    async def make(self, name: str = "smol", **spec: Any) -> "Model":
        template = {"template": {"size": "1Gi", "storageClassName": self.namespace}}
        artifacts = template | spec.pop("artifacts", {})
        made = await self.played.make(self.namespace, name, {"artifacts": artifacts} | spec)
        return Model(self, name, made["metadata"]["uid"])

    async def get(self, kind: Kind, name: str) -> Object:
        return await self.api.get(kind, self.namespace, name) or {}

    async def by_kubectl(self, *arguments: str) -> None:
        await asyncio.to_thread(self.kubectl, *arguments, f"--namespace={self.namespace}")

    async def has_passed(self) -> bool:
        """Whether the operator has seen to some NeuronModel since it was started."""
        return 'reconciles_total{outcome="Done"}' in await fetch(self.operator, "metrics")


@dataclass
class Model:
    """A NeuronModel of a place."""

    place: Place
    name: str
    uid: str

    @property
    def claim(self) -> str:
        return names.templated_claim(self.name)

    async def until(self, holds: Callable[[Sight], bool], what: str) -> Sight:
        return await self.place.played.until(self.place.namespace, self.name, holds, what)

    async def serving(self) -> Sight:
        """What it serves is what was asked for before."""
        generation = (await self.place.get(client.MODEL, self.name))["metadata"]["generation"]

        def holds(sight: Sight) -> bool:
            is_later = sight.meta["uid"] == self.uid and sight.meta["generation"] >= generation
            return sight.is_serving and is_later

        return await self.until(holds, "serving")

    async def change(self, spec: Object) -> None:
        await self.place.api.merge(client.MODEL, self.place.namespace, self.name, {"spec": spec})

    async def deployment(self) -> Object:
        return await self.place.get(client.DEPLOYMENT, self.name)

    async def all_of(self, kind: Kind) -> list[Object]:
        """What has its label."""
        labels = f"{names.LABEL_MODEL}={self.name}"
        return list(await self.place.api.list(kind, self.place.namespace, labels=labels))

    async def has_none_of(self, *kinds: Kind) -> bool:
        return not any([await self.all_of(kind) for kind in kinds])

    async def events(self, reason: str) -> list[Object]:
        fields = f"involvedObject.name={self.name},reason={reason}"
        return list(await self.place.api.list(client.EVENT, self.place.namespace, fields=fields))

    async def delete(self, propagation: Literal["Background", "Foreground"] = "Background") -> None:
        ref = ObjectRef(names.API_VERSION, names.KIND, self.name, self.uid, propagation)
        await self.place.api.delete(client.MODEL, self.place.namespace, ref)

    async def is_gone(self) -> bool:
        found = await self.place.get(client.MODEL, self.name)
        return not found or found["metadata"]["uid"] != self.uid

    @property
    def writes(self) -> list[Recorded]:
        """The operator's, to it and to what is named after it."""
        return [each for each in self.place.proxy.writes if self._is_about(each)]

    def written(self, resource: str, verb: str) -> list[Recorded]:
        """Those that the API server took."""
        return [each for each in self.attempted(resource, verb) if each.status < 400]

    def attempted(self, resource: str, verb: str) -> list[Recorded]:
        return [each for each in self.writes if (each.request.resource, each.request.verb) == (resource, verb)]

    def refused(self, *statuses: int) -> list[str]:
        """Those that were answered so."""
        return [str(each.request) for each in self.writes if each.status in statuses]

    def _is_about(self, write: Recorded) -> bool:
        name = write.request.name or str((write.body or {}).get("metadata", {}).get("name", ""))
        return name == self.name or names.is_workload_of(self.name, name)


@asynccontextmanager
async def placed(api: Api, kubeconfig: str, folder: Path) -> AsyncIterator[Place]:
    account, by_proxy, log = folder / "account", folder / "by-proxy", folder / "operator.log"
    async with made_namespace(api, f"operator-test-{secrets.token_hex(4)}") as namespace:
        await make_account(api, namespace, Path(kubeconfig), account)
        await api.create(STORAGE_CLASS, None, storage_class(namespace))
        try:
            await api.create(client.CLAIM, namespace, source_claim(namespace))
            async with proxy_of(account).running() as proxy, playing(api, namespace) as played:
                write_kubeconfig_of_proxy(account, proxy, by_proxy)
                operator = OperatorProcess([namespace], by_proxy, log)
                try:
                    yield Place(api, namespace, Kubectl(Path(kubeconfig)), proxy, played, operator)
                finally:
                    operator.kill_if_alive()
                    print(log.read_text() if log.exists() else "")
        finally:
            await remove(api, namespace, STORAGE_CLASS, VOLUME)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(kubeconfig: str) -> AsyncIterator[Api]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
        async with client.connect(lambda verb, kind, status: None) as api:
            yield api


@pytest_asyncio.fixture(loop_scope="module")
async def place(api: Api, kubeconfig: str, tmp_path: Path) -> AsyncIterator[Place]:
    """A place of the test's own, whose operator has not been started."""
    async with placed(api, kubeconfig, tmp_path) as own:
        yield own


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def common(api: Api, kubeconfig: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """The place of tests with NeuronModels of different names, as an operator takes seconds to start."""
    async with placed(api, kubeconfig, tmp_path_factory.mktemp("common")) as shared:
        await shared.start()
        yield shared
