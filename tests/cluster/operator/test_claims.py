"""Claims that get no volume, by the words of a real volume controller and a real scheduler."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api
from tests.cluster.operator.conftest import delete, model_manifest
from tests.cluster.operator.process import OperatorProcess, make_account, until

IMAGE = "registry.invalid/worker:1"
"""Never pulled: the pods get no node."""
CLASS = "no-such-class"

Object = dict[str, Any]


@pytest.fixture
async def operator(api: Api, namespace: str, kubeconfig: str, tmp_path: Path) -> AsyncIterator[OperatorProcess]:
    await make_account(api, namespace, Path(kubeconfig), tmp_path / "kubeconfig")
    process = OperatorProcess([namespace], tmp_path / "kubeconfig", tmp_path / "operator.log")
    process.start()
    yield process
    process.kill_if_alive()
    print((tmp_path / "operator.log").read_text())


async def wait_for_condition(api: Api, namespace: str, kind: str, reason: str) -> Object:
    """The condition, once it has that reason."""

    async def found() -> Object | None:
        model = await api.get(client.MODEL, namespace, "smol") or {}
        conditions: list[Object] = model.get("status", {}).get("conditions", [])
        return next((each for each in conditions if (each["type"], each["reason"]) == (kind, reason)), None)

    return await until(found)


async def make_claim(api: Api, namespace: str, name: str, storage_class: str, finalizers: list[str]) -> Object:
    meta = {"name": name, "finalizers": finalizers}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return await api.create(
        client.CLAIM, namespace, {"metadata": meta, "spec": spec | {"storageClassName": storage_class}}
    )


async def make_model(api: Api, namespace: str) -> None:
    manifest = model_manifest()
    scratch = {"persistentVolumeClaim": {"claimName": "nvme"}}
    artifacts = {"persistentVolumeClaim": {"claimName": "store"}}
    manifest["spec"] |= {"worker": {"image": IMAGE}, "scratch": scratch, "artifacts": artifacts}
    await api.create(client.MODEL, namespace, manifest)


async def test_each_claim_without_a_volume_is_reported_by_its_condition(
    api: Api, namespace: str, operator: OperatorProcess
) -> None:
    for name, storage_class in (("models", CLASS), ("store", ""), ("nvme", CLASS)):
        await make_claim(api, namespace, name, storage_class, [])
    await make_model(api, namespace)
    missing = f'(class {CLASS}, 1Gi, ReadWriteOnce) gets no volume: storageclass.storage.k8s.io "{CLASS}" not found.'
    for kind, words in (
        ("SourceResolved", f"The claim models {missing}"),
        ("ArtifactsReady", "claim store (without a class, 1Gi, ReadWriteOnce) gets no volume: no persistent volumes"),
        ("Scheduled", f"The claim nvme {missing}"),
        ("Ready", f"The claim models {missing}"),
    ):
        found = await wait_for_condition(api, namespace, kind, "ClaimPending")
        assert found["status"] == "False"
        assert words in found["message"]


async def test_a_claim_that_is_being_deleted_is_reported_at_once(
    api: Api, namespace: str, operator: OperatorProcess
) -> None:
    made = [await make_claim(api, namespace, name, CLASS, ["example.org/held"]) for name in ("models", "store", "nvme")]
    await make_model(api, namespace)
    await wait_for_condition(api, namespace, "Ready", "ClaimPending")
    for one in made:
        await delete(api, client.CLAIM, one)
    try:
        for kind in ("SourceResolved", "ArtifactsReady", "Scheduled", "Ready"):
            await wait_for_condition(api, namespace, kind, "ClaimTerminating")
    finally:
        for one in made:
            name = one["metadata"]["name"]
            await api.merge(client.CLAIM, namespace, name, {"metadata": {"finalizers": None}})
    await wait_for_condition(api, namespace, "Ready", "SourceClaimMissing")
