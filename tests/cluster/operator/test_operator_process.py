"""The operator as a process beside a real API server, with no more rights than `client` says that it needs."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import aiohttp
import pytest
import yaml

from neuronmodel_api import names
from neuronmodel_operator import client
from neuronmodel_operator.client import Api, Kind
from tests.cluster.operator.conftest import delete, model_manifest
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS

GRACE_SECONDS = 30.0
"""Kubernetes' own; the chart sets no other."""
IMAGE = "registry.invalid/worker:1"
"""Never pulled: the pods fit no node."""
ROLE = Kind("rbac.authorization.k8s.io", "v1", "Role", "roles")
ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
SECRET = Kind("", "v1", "Secret", "secrets")

Object = dict[str, Any]
T = TypeVar("T")


def documented_rules() -> list[dict[str, Any]]:
    """The table in the docstring of `client`, as the rules of a Role."""
    lines = [line for line in (client.__doc__ or "").splitlines() if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        {"apiGroups": ["" if group == "core" else group], "resources": [resource], "verbs": verbs.split(", ")}
        for group, resource, verbs, _ in rows
    ]


@pytest.fixture
async def account(api: Api, namespace: str, kubeconfig: str, tmp_path: Path) -> Path:
    """A kubeconfig of a service account with those rights."""
    about = {"metadata": {"name": "operator"}}
    await api.create(SERVICE_ACCOUNT, namespace, about)
    await api.create(ROLE, namespace, about | {"rules": documented_rules()})
    subject = {"kind": "ServiceAccount", "name": "operator", "namespace": namespace}
    role = {"apiGroup": ROLE.group, "kind": "Role", "name": "operator"}
    await api.create(ROLE_BINDING, namespace, about | {"subjects": [subject], "roleRef": role})
    meta = {"name": "token", "annotations": {"kubernetes.io/service-account.name": "operator"}}
    await api.create(SECRET, namespace, {"metadata": meta, "type": "kubernetes.io/service-account-token"})

    async def token() -> str | None:
        secret = await api.get(SECRET, namespace, "token") or {}
        found: str | None = secret.get("data", {}).get("token")
        return found

    bearer = base64.b64decode(await until(token)).decode()
    return with_token(Path(kubeconfig), bearer, tmp_path / "kubeconfig")


def with_token(kubeconfig: Path, token: str, path: Path) -> Path:
    """The same cluster, another user."""
    content = yaml.safe_load(kubeconfig.read_text())
    context = next(c["context"] for c in content["contexts"] if c["name"] == content["current-context"])
    content["users"] = [{"name": context["user"], "user": {"token": token}}]
    path.write_text(yaml.safe_dump(content))
    return path


class OperatorProcess:
    """Started and ended by a test, as kubelets do."""

    def __init__(self, namespace: str, kubeconfig: Path, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self._environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "NEURONMODEL_WATCH_NAMESPACES": namespace,
            "NEURONMODEL_HEALTH_PORT": str(self.port),
            "NEURONMODEL_LOG_FORMAT": "json",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "neuronmodel_operator"], env=self._environment, stderr=log, stdout=log
            )

    def end(self, how: signal.Signals) -> int:
        """Its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(timeout=PATIENCE_SECONDS)

    def kill_if_alive(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)

    @property
    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
async def operator(namespace: str, account: Path, tmp_path: Path) -> AsyncIterator[OperatorProcess]:
    process = OperatorProcess(namespace, account, tmp_path / "operator.log")
    process.start()
    yield process
    process.kill_if_alive()
    print((tmp_path / "operator.log").read_text())


async def until(condition: Callable[[], Awaitable[T | None]]) -> T:
    """What the condition gives as soon as it gives something."""
    end = monotonic() + PATIENCE_SECONDS
    while not (found := await condition()):
        assert monotonic() < end, f"still not after {PATIENCE_SECONDS:.0f} s"
        await asyncio.sleep(0.05)
    return found


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

    async def told() -> bool:
        return (await world.ready()).get("observedGeneration") == 1

    await until(told)
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


async def fetch(operator: OperatorProcess, path: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{operator.port}/{path}", raise_for_status=True) as response,
    ):
        return await response.text()


async def is_healthy(operator: OperatorProcess) -> bool:
    try:
        return await fetch(operator, "healthz") == "ok\n"
    except aiohttp.ClientError:
        return False


async def has_reconciled(operator: OperatorProcess) -> bool:
    try:
        return 'neuronmodel_operator_reconciles_total{outcome="Done"}' in await fetch(operator, "metrics")
    except aiohttp.ClientError:
        return False
