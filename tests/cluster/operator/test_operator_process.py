"""The operator as a process that uses a real API server, with no more rights than `client` says that it needs."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api
from tests.cluster.operator.conftest import delete, model_manifest
from tests.cluster.operator.process import OperatorProcess, fetch, is_healthy, make_account, until

GRACE_SECONDS = 30.0
"""Kubernetes' own; the chart sets no other."""
IMAGE = "registry.invalid/worker:1"
"""Never pulled: the pods fit no node."""

Object = dict[str, Any]


@pytest.fixture
async def account(api: Api, namespace: str, kubeconfig: str, tmp_path: Path) -> Path:
    """Its kubeconfig."""
    path = tmp_path / "kubeconfig"
    await make_account(api, namespace, Path(kubeconfig), path)
    return path


@pytest.fixture
async def operator(namespace: str, account: Path, tmp_path: Path) -> AsyncIterator[OperatorProcess]:
    process = OperatorProcess([namespace], account, tmp_path / "operator.log")
    process.start()
    yield process
    process.kill_if_alive()
    print((tmp_path / "operator.log").read_text())


class World:
    """What a user sees of a NeuronModel."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    async def make_claim(self, name: str = "models") -> None:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        await self.api.create(client.CLAIM, self.namespace, {"metadata": {"name": name}, "spec": spec})

    async def make_model(self, **changes: Any) -> Object:
        manifest = model_manifest()
        manifest["spec"] |= {"worker": {"image": IMAGE, "nodeSelector": {"no": "such-node"}}} | changes
        return await self.api.create(client.MODEL, self.namespace, manifest)

    async def model(self) -> Object | None:
        return await self.api.get(client.MODEL, self.namespace, "smol")

    async def ready(self) -> Object:
        model = await self.model() or {}
        conditions = model.get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == "Ready"), {})

    async def jobs(self) -> list[str]:
        """UIDs of those that are not being deleted."""
        jobs = await self.api.list(client.JOB, self.namespace)
        return [job["metadata"]["uid"] for job in jobs if "deletionTimestamp" not in job["metadata"]]

    async def one_job(self) -> str | None:
        jobs = await self.jobs()
        return jobs[0] if len(jobs) == 1 else None

    async def reason(self, wanted: str) -> bool:
        return (await self.ready()).get("reason") == wanted


@pytest.fixture
def world(api: Api, namespace: str) -> World:
    return World(api, namespace)


async def test_a_claim_that_appears_ends_the_wait_for_it(world: World, operator: OperatorProcess) -> None:
    await world.make_model()
    await until(lambda: world.reason("SourceClaimMissing"))
    assert await world.jobs() == []
    await world.make_claim()
    await until(world.one_job)


async def test_a_deleted_job_and_claim_are_made_again(world: World, operator: OperatorProcess) -> None:
    await world.make_claim()
    await world.make_model()
    first = await until(world.one_job)
    (job,) = await world.api.list(client.JOB, world.namespace)
    await delete(world.api, client.JOB, job)

    async def another() -> bool:
        return await world.one_job() not in (None, first)

    await until(another)


async def test_killed_and_started_again_it_makes_nothing_twice(world: World, operator: OperatorProcess) -> None:
    await world.make_claim()
    await world.make_model()
    job = await until(world.one_job)
    await until(lambda: world.reason("Unschedulable"))
    await until(lambda: has_reconciled(operator))
    operator.end(signal.SIGKILL)
    before = await world.ready()
    operator.start()
    await until(lambda: has_reconciled(operator))
    assert await world.jobs() == [job]
    assert await world.ready() == before, "nothing changed, so nothing changes in the status"


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.1, 0.2, 0.4])
async def test_killed_at_any_moment_of_a_beginning_it_goes_on_where_it_was(
    world: World, operator: OperatorProcess, pause: float
) -> None:
    await world.make_claim()
    await until(lambda: is_healthy(operator))
    await world.make_model()
    await asyncio.sleep(pause)  # the moment of the kill is what is tested
    operator.end(signal.SIGKILL)
    operator.start()
    await until(world.one_job)

    async def is_observed() -> bool:
        return (await world.ready()).get("observedGeneration") == 1

    await until(is_observed)
    assert len(await world.jobs()) == 1


async def test_a_deletion_is_seen_through_by_a_successor(world: World, operator: OperatorProcess) -> None:
    await world.make_claim()
    model = await world.make_model()
    await until(world.one_job)
    operator.end(signal.SIGKILL)
    await delete(world.api, client.MODEL, model)
    operator.start()

    async def gone() -> bool:
        return await world.model() is None

    async def no_jobs() -> bool:
        return await world.jobs() == []

    await until(gone)
    await until(no_jobs)
    claim = await world.api.get(client.CLAIM, world.namespace, names.templated_claim("smol"))
    assert claim is not None, "Retain is the default"


async def test_a_terminated_operator_ends_before_it_is_killed_and_without_complaint(
    world: World, operator: OperatorProcess
) -> None:
    await world.make_claim()
    await world.make_model()
    await until(world.one_job)
    await until(lambda: has_reconciled(operator))
    began = monotonic()
    assert operator.end(signal.SIGTERM) == 0
    assert monotonic() - began < GRACE_SECONDS
    assert [line for line in operator.lines if line["level"] in ("ERROR", "CRITICAL")] == []


async def test_nothing_of_kopf_is_written_to_any_object(world: World, operator: OperatorProcess) -> None:
    await world.make_claim()
    await world.make_model()
    await until(world.one_job)
    await until(lambda: has_reconciled(operator))
    kinds = (client.MODEL, client.JOB, client.CLAIM, client.SERVICE, client.DEPLOYMENT, client.POD, client.EVENT)
    for kind in kinds:
        assert "kopf" not in json.dumps(await world.api.list(kind, world.namespace))


async def test_it_is_healthy_and_shows_its_models_in_metrics(world: World, operator: OperatorProcess) -> None:
    await world.make_model()
    await until(lambda: is_healthy(operator))
    await until(lambda: has_reconciled(operator))
    await until(lambda: shows(operator, "neuronmodel_operator_followed_models 1.0"))
    # A pass that is just due counts until it begins.
    await until(lambda: shows(operator, "neuronmodel_operator_overdue_seconds 0.0"))


async def shows(operator: OperatorProcess, sample: str) -> bool:
    return sample in await fetch(operator, "metrics")


async def has_reconciled(operator: OperatorProcess) -> bool:
    try:
        return 'neuronmodel_operator_reconciles_total{outcome="Done"}' in await fetch(operator, "metrics")
    except aiohttp.ClientError:
        return False
