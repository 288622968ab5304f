"""A namespace of its own on the real API server for each test."""

import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from kubernetes.aio.config import kube_config

from hack.cluster.layout import LAYOUT
from hack.cluster.locks import one_at_a_time
from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, ApiError, Kind
from neuronmodel_operator.state.plan import ObjectRef
from tests.cluster.conftest import TESTS, Kubectl, wait_until
from tests.waiting import PATIENCE_SECONDS

# The release that end-to-end tests install.
OF_RELEASE = ("--namespace=neuronmodel-system", "--selector=app.kubernetes.io/instance=neuronmodel")
DEPLOYMENT = ("deployment/neuronmodel", "--namespace=neuronmodel-system")


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """Of the cluster that KUBECONFIG names, or of the local one."""
    if named := os.environ.get("KUBECONFIG"):
        return named
    if not LAYOUT.kubeconfig.exists():
        assert os.environ.get("CI") != "true", "no cluster: `make up` makes one"
        pytest.skip("left out: there is no cluster; `make up` makes one, or set KUBECONFIG")
    return str(LAYOUT.kubeconfig)


@pytest.fixture(scope="module", autouse=True)
def installed_operator_rests(kubeconfig: str) -> Iterator[None]:
    """On the local cluster, where end-to-end tests leave one."""
    if kubeconfig != str(LAYOUT.kubeconfig):
        yield
        return
    with installed_operator_at_rest():
        yield


@contextmanager
def installed_operator_at_rest() -> Iterator[None]:
    """It would see to the tests' NeuronModels as well, before the one that is tested does, or amid what is looked
    at."""
    kubectl = Kubectl(LAYOUT.kubeconfig)
    with one_at_a_time(TESTS):
        if not kubectl("get", *DEPLOYMENT, "--ignore-not-found", "--output=name"):
            yield
            return
        scale(kubectl, 0)
        try:
            wait_until(lambda: not kubectl("get", "pods", *OF_RELEASE, "--output=name"), "the operator to rest")
            yield
        finally:
            scale(kubectl, 1)
            kubectl("rollout", "status", *DEPLOYMENT, f"--timeout={PATIENCE_SECONDS:.0f}s")


def scale(kubectl: Kubectl, replicas: int) -> None:
    """As Helm does it, which would refuse to take the field from somebody else."""
    change = json.dumps({"spec": {"replicas": replicas}})
    kubectl("patch", *DEPLOYMENT, "--type=merge", "--field-manager=helm", f"--patch={change}")


@pytest.fixture
async def api(kubeconfig: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
    async with client.connect(lambda verb, kind, status: None) as api:
        yield api


@pytest.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    async with made_namespace(api, f"operator-test-{secrets.token_hex(4)}") as name:
        yield name


@asynccontextmanager
async def made_namespace(api: Api, name: str) -> AsyncIterator[str]:
    await api.create(client.NAMESPACE, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        yield name
    finally:
        await remove_namespace(api, name)


async def remove_namespace(api: Api, name: str) -> None:
    """Does not wait until it is gone."""
    made = await api.get(client.NAMESPACE, None, name)
    if made is not None:
        for model in await api.list(client.MODEL, name):
            await remove_finalizers(api, model)
        with suppress_gone():
            await delete(api, client.NAMESPACE, made)


async def remove_finalizers(api: Api, o: Any) -> None:
    meta = o["metadata"]
    with suppress_gone():
        await api.merge(client.MODEL, meta["namespace"], meta["name"], {"metadata": {"finalizers": None}})


@contextmanager
def suppress_gone() -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        if error.status != 404:
            raise


async def delete(api: Api, kind: Kind, o: Any) -> None:
    meta = o["metadata"]
    ref = ObjectRef(kind.api_version, kind.kind, meta["name"], meta["uid"])
    await api.delete(kind, meta.get("namespace"), ref)


def model_manifest(name: str = "smol") -> dict[str, Any]:
    """The smallest NeuronModel."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"source": {"persistentVolumeClaim": {"claimName": "models", "path": "SmolLM2"}}},
            "engine": "CPU",
            "parallelism": {"tensorParallelDegree": 1},
            "artifacts": {"template": {"size": "1Gi"}},
        },
    }
