"""A hundred NeuronModels at once: what a pass asks the API server for, what a start writes, what rest costs and what is
remembered of each. `make scale` has thousands, and seconds."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from hack.cluster.layout import LAYOUT
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api
from tests.campaign.campaign import admin_session
from tests.cluster.operator.conftest import delete, made_namespace, model_manifest
from tests.cluster.operator.played import IMAGE, SCHEDULER
from tests.cluster.operator.process import OperatorProcess, make_account, until
from tests.cluster.operator.storage import STORAGE_CLASS, storage_class
from tests.scale.fleet import Fleet, assembled
from tests.scale.measured import Measured, difference, measure

COUNT = 100
WRITES_A_START = 17
"""15 on a machine with nothing else to do, as `make scale` measures: a busy one shows states between."""
READS_A_PASS = 3.5
"""The NeuronModel itself, where something has not settled Events, and for a Job who serves from the volume. A look
that no event asked for takes eight more."""
BYTES_A_MODEL = 20_000
REST_SECONDS = 12.0
"""In which passes that were due end."""


@dataclass
class Scene:
    api: Api
    fleet: Fleet
    operator: OperatorProcess
    namespace: str


@pytest.fixture
async def scene(api: Api, kubeconfig: str, tmp_path: Path) -> AsyncIterator[Scene]:
    if Path(kubeconfig) != LAYOUT.kubeconfig:
        pytest.skip("left out: workers are played at addresses of this machine, which another cluster does not reach")
    async with AsyncExitStack() as stack:
        namespace = await stack.enter_async_context(made_namespace(api, f"fleet-{secrets.token_hex(4)}"))
        made = await api.create(STORAGE_CLASS, None, storage_class(namespace))
        stack.push_async_callback(delete, api, STORAGE_CLASS, made)
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        for claim in ("models", "artifacts"):
            manifest = {"metadata": {"name": claim}, "spec": spec | {"storageClassName": namespace}}
            await api.create(client.CLAIM, namespace, manifest)
        account = tmp_path / "kubeconfig"
        await make_account(api, namespace, Path(kubeconfig), account)
        session, _ = await admin_session(stack, api)
        fleet = await stack.enter_async_context(assembled(api, session))
        operator = OperatorProcess([namespace], account, tmp_path / "operator.log")
        stack.callback(operator.kill_if_alive)
        yield Scene(api, fleet, operator, namespace)


async def test_a_hundred_cost_what_a_hundred_should(scene: Scene) -> None:
    scene.operator.start()
    before = await measured(scene.operator)
    names = [f"model-{number:03}" for number in range(COUNT)]
    await asyncio.gather(*(make(scene, name) for name in names))
    serving = scene.fleet.times.serving

    async def all_serve() -> bool:
        return all(((scene.namespace, name), 1) in serving for name in names)

    await until(all_serve, what="serving, all of them")
    started = await at_rest(scene.operator)
    calls = difference(before.calls, started.calls)
    print(f"{started.passes - before.passes:.0f} passes, {started.mirrored_bytes / COUNT:.0f} bytes each, {calls}")
    assert (started.num_writes - before.num_writes) / COUNT <= WRITES_A_START
    num_reads = sum(count for (verb, kind), count in calls.items() if verb in ("get", "list") and kind != "Lease")
    assert num_reads / (started.passes - before.passes) <= READS_A_PASS, calls
    assert started.mirrored_bytes / COUNT <= BYTES_A_MODEL

    scene.operator.end(signal.SIGTERM)
    scene.operator.start()
    began = await measured(scene.operator)
    again = await at_rest(scene.operator)
    assert again.num_followed == COUNT
    assert again.num_writes == began.num_writes == 0, again.calls
    assert again.calls["get", "NeuronModel"] <= COUNT

    await asyncio.sleep(REST_SECONDS)
    rested = await measure(scene.operator)
    assert rested.passes == again.passes, "nothing is looked at while nothing happens"
    assert {kind for _, kind in difference(again.calls, rested.calls)} <= {"Lease", "SelfSubjectRulesReview"}


async def make(scene: Scene, name: str) -> None:
    manifest = model_manifest(name)
    manifest["spec"] |= {
        "artifacts": {"persistentVolumeClaim": {"claimName": "artifacts"}},
        "worker": {"image": IMAGE, "schedulerName": SCHEDULER},
    }
    await scene.api.create(client.MODEL, scene.namespace, manifest)


async def measured(operator: OperatorProcess) -> Measured:
    """As soon as it is there."""

    async def found() -> Measured | None:
        try:
            return await measure(operator)
        except (aiohttp.ClientError, OSError, KeyError):
            return None

    return await until(found, what="there")


async def at_rest(operator: OperatorProcess) -> Measured:
    """When no pass was made for a while: Events of a pod that has become ready are read for a minute."""
    former = await measured(operator)
    while True:
        await asyncio.sleep(REST_SECONDS)
        now = await measure(operator)
        if now.passes == former.passes and now.num_followed:
            return now
        former = now
