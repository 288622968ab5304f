"""More than one operator, and one without its rights: who acts, who waits, and what they say."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest

from neuronmodel_operator.cluster import client, lease_record
from neuronmodel_operator.cluster.client import Api
from neuronmodel_operator.cluster.lease_record import DURATION_SECONDS
from tests.cluster.operator.conftest import model_manifest
from tests.cluster.operator.process import (
    OperatorProcess,
    complaint,
    documented_rules,
    fetch,
    grant,
    grant_instead,
    is_healthy,
    make_account,
    readyz,
    revoke,
    until,
)

SLACK_SECONDS = 20.0
"""Of a busy machine: for a look, a pass and a process that begins."""


class Team:
    """Operators of one namespace, and what they do with its NeuronModels."""

    def __init__(self, api: Api, namespace: str, kubeconfig: Path, folder: Path) -> None:
        self.api = api
        self.namespace = namespace
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._operators: list[OperatorProcess] = []

    def start(self, release: str = "tests/operator") -> OperatorProcess:
        log = self._folder / f"{len(self._operators)}.log"
        operator = OperatorProcess([self.namespace], self._kubeconfig, log, release)
        self._operators.append(operator)
        operator.start()
        return operator

    def stop(self) -> None:
        for operator in self._operators:
            operator.kill_if_alive()
            print(*operator.lines, sep="\n")

    async def make_model(self, name: str = "smol") -> None:
        await self.api.create(client.MODEL, self.namespace, model_manifest(name))

    async def is_seen_to(self, name: str = "smol") -> bool:
        """Whether some operator had a pass over it."""
        model = await self.api.get(client.MODEL, self.namespace, name) or {}
        return "observedGeneration" in model.get("status", {})

    async def holder(self) -> str:
        found = lease_record.holder(await self.api.get(client.LEASE, self.namespace, lease_record.NAME))
        return found.identity if found else ""

    async def revoke(self) -> None:
        await revoke(self.api, self.namespace, self.namespace)

    async def restore(self) -> None:
        await grant(self.api, self.namespace, self.namespace, documented_rules())


@pytest.fixture
async def team(api: Api, namespace: str, kubeconfig: str, tmp_path: Path) -> AsyncIterator[Team]:
    path = tmp_path / "kubeconfig"
    await make_account(api, namespace, Path(kubeconfig), path)
    made = Team(api, namespace, path, tmp_path)
    yield made
    made.stop()


async def is_ready(operator: OperatorProcess) -> bool:
    return (await readyz(operator))[0] == 200


async def remark(operator: OperatorProcess, of: str) -> str | None:
    status, text = await readyz(operator)
    return text if status == 200 and of in text else None


async def passes(operator: OperatorProcess) -> int:
    """Done, by this one."""
    samples = [line for line in (await fetch(operator, "metrics")).splitlines() if "reconciles_total{" in line]
    return int(sum(float(sample.rpartition(" ")[2]) for sample in samples))


async def test_a_second_operator_does_nothing_says_whose_namespace_it_is_and_takes_over_at_the_first_s_end(
    team: Team,
) -> None:
    await team.make_model()
    first = team.start("tests/first")
    await until(team.is_seen_to)
    await until(lambda: is_ready(first))
    second = team.start("tests/second")
    text = await until(lambda: complaint(second, first.identity))
    assert f"Namespace {team.namespace} is operated by {first.identity} of release tests/first" in text
    assert "neuronmodel_operator_ready 0.0" in await fetch(second, "metrics")
    await team.make_model("other")
    await until(lambda: team.is_seen_to("other"))
    assert await passes(second) == 0
    assert await is_ready(first)
    assert await is_healthy(second)

    began = monotonic()
    assert first.end(signal.SIGTERM) == 0
    await until(lambda: is_ready(second))
    assert monotonic() - began < SLACK_SECONDS
    assert await team.holder() == second.identity
    await team.make_model("third")
    await until(lambda: team.is_seen_to("third"))
    assert await passes(second) > 0


async def test_one_of_the_same_release_stands_by_ready(team: Team) -> None:
    await team.make_model()
    first = team.start()
    await until(team.is_seen_to)
    second = team.start()
    await until(lambda: remark(second, "stands by"))
    assert await passes(second) == 0
    first.end(signal.SIGTERM)

    async def acts() -> bool:
        return await passes(second) > 0

    await until(acts)


async def test_after_a_kill_the_next_one_takes_over_when_the_lease_has_run_out(team: Team) -> None:
    await team.make_model()
    first = team.start()
    await until(team.is_seen_to)
    second = team.start()
    await until(lambda: remark(second, "stands by"))
    first.end(signal.SIGKILL)
    began = monotonic()

    async def is_taken() -> bool:
        return await team.holder() == second.identity

    await until(is_taken)
    assert monotonic() - began < DURATION_SECONDS + SLACK_SECONDS


async def test_a_container_restarted_in_its_pod_goes_on_at_once(team: Team) -> None:
    await team.make_model()
    operator = team.start()
    await until(team.is_seen_to)
    operator.end(signal.SIGKILL)
    await team.make_model("other")
    began = monotonic()
    operator.start()
    await until(lambda: team.is_seen_to("other"))
    assert monotonic() - began < DURATION_SECONDS - 5


async def test_an_operator_without_its_rights_says_so_lives_and_goes_on_when_it_has_them_again(team: Team) -> None:
    operator = team.start()
    await until(lambda: is_ready(operator))
    await team.revoke()
    began = monotonic()
    text = await until(lambda: complaint(operator, "lacks rights"))
    assert monotonic() - began < SLACK_SECONDS
    assert f"in namespace {team.namespace}: get, list, watch, patch neuronmodels.neuronmodel.dev" in text
    assert "Role and RoleBinding" in text
    assert await is_healthy(operator)
    await team.make_model()

    await team.restore()
    began = monotonic()
    await until(lambda: is_ready(operator))
    await until(team.is_seen_to)
    assert monotonic() - began < SLACK_SECONDS
    messages = [line["message"] for line in operator.lines if "ready" in line["message"]]
    assert len([line for line in messages if line.startswith("not ready: The operator's account")]) <= 2, messages


async def test_one_right_that_lacks_is_named_and_the_others_are_made_use_of(team: Team) -> None:
    rules = [rule for rule in documented_rules() if rule["resources"] != ["leases"]]
    await grant_instead(team.api, team.namespace, team.namespace, rules)
    await team.make_model()
    operator = team.start()
    await until(team.is_seen_to)
    text = await until(lambda: complaint(operator, "lacks rights"))
    assert f"in namespace {team.namespace}: get, create, update leases.coordination.k8s.io." in text


async def test_an_operator_that_begins_without_rights_waits_for_them_alive(team: Team) -> None:
    await team.revoke()
    operator = team.start()
    await until(lambda: complaint(operator, "NeuronModels can't be listed"))
    assert await is_healthy(operator)
    await team.make_model()
    await team.restore()
    await until(team.is_seen_to)
    await until(lambda: is_ready(operator))
