"""A namespace of its own on the real API server for each test."""

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.config import kube_config

from neuronmodel_api import names
from neuronmodel_operator import client
from neuronmodel_operator.client import Api, ApiError, Kind
from neuronmodel_operator.plan import ObjectRef

LOCAL_CLUSTER = Path("/var/lib/neuronmodel-cluster/kubeconfig")


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """Of the cluster that KUBECONFIG names, or of the local one."""
    if named := os.environ.get("KUBECONFIG"):
        return named
    if not LOCAL_CLUSTER.exists():
        assert os.environ.get("CI") != "true", "no cluster: `make up` makes one"
        pytest.skip("left out: there is no cluster; `make up` makes one, or set KUBECONFIG")
    return str(LOCAL_CLUSTER)


@pytest.fixture
async def api(kubeconfig: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
    async with client.connect(lambda verb, kind, status: None) as api:
        yield api


@pytest.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    name = f"operator-test-{secrets.token_hex(4)}"
    await api.create(client.NAMESPACE, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    made = await api.get(client.NAMESPACE, None, name)
    if made is not None:
        for model in await api.list(client.MODEL, name):
            await remove_finalizers(api, model)
        await delete(api, client.NAMESPACE, made)


async def remove_finalizers(api: Api, o: Any) -> None:
    meta = o["metadata"]
    try:
        await api.merge(client.MODEL, meta["namespace"], meta["name"], {"metadata": {"finalizers": None}})
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
