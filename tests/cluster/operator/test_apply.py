"""What `apply` writes, and what it leaves alone, on a real API server."""

from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Condition, NeuronModelStatus, Phase
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.apply import Applier, PassOutcome, StoppingError
from neuronmodel_operator.cluster.client import Api, ApiError
from neuronmodel_operator.cluster.observe import ModelKey, Snapshot, look
from neuronmodel_operator.reconcile.reconcile import reconcile
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.plan import EventNote, ObjectRef, Plan
from tests.cluster.operator.conftest import delete, model_manifest

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class Bench:
    """A NeuronModel of a test, and an applier of it."""

    def __init__(self, api: Api, key: ModelKey) -> None:
        self.api = api
        self.key = key
        self.seconds = monotonic()
        self.applier = self.new_applier()

    def new_applier(self) -> Applier:
        """As after a restart of the operator."""
        return Applier(self.api, self.key, now=lambda: NOW, monotonic=lambda: self.seconds)

    async def look(self) -> Snapshot:
        seen = await look(self.api, self.key, datetime.now(UTC))
        assert seen is not None
        return seen

    async def carry_out(self, plan: Plan, *, hold_status: bool = True) -> PassOutcome:
        return await self.applier.carry_out(plan, await self.look(), hold_status=hold_status)

    def labels(self, component: str = "test") -> dict[str, str]:
        return {
            names.LABEL_MODEL: self.key.name,
            names.LABEL_UID: self.key.uid,
            names.LABEL_COMPONENT: component,
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
        }

    def meta(self, name: str) -> dict[str, Any]:
        owner = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": self.key.name,
            "uid": self.key.uid,
            "controller": True,
        }
        return {"name": name, "labels": self.labels(), "ownerReferences": [owner]}

    def service(self, port: int = 80) -> dict[str, Any]:
        spec = {"selector": {"none": "such"}, "ports": [{"port": port, "name": "http"}]}
        return {"apiVersion": "v1", "kind": "Service", "metadata": self.meta(self.key.name), "spec": spec}

    def job(self, name: str = "smol-prepare-1") -> dict[str, Any]:
        pod = {
            "restartPolicy": "Never",
            "nodeSelector": {"no": "such-node"},
            "containers": [{"name": "worker", "image": "none"}],
        }
        spec = {"template": {"metadata": {"labels": self.labels()}, "spec": pod}}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": self.meta(name), "spec": spec}


@pytest.fixture
async def bench(api: Api, namespace: str) -> Bench:
    made = await api.create(client.MODEL, namespace, model_manifest())
    return Bench(api, ModelKey(namespace, "smol", made["metadata"]["uid"]))


@pytest.fixture
async def left_alone(bench: Bench) -> Bench:
    """An operator that is installed on the cluster writes nothing to a NeuronModel that goes without our finalizer."""
    hold = {"metadata": {"finalizers": ["example.com/hold"]}}
    await bench.api.merge(client.MODEL, bench.key.namespace, bench.key.name, hold)
    await delete(bench.api, client.MODEL, (await bench.look()).raw)
    return bench


def status(reason: str = "Preparing", phase: Phase = Phase.PREPARING) -> NeuronModelStatus:
    ready = Condition(type=ConditionType.READY, status="Unknown", reason=reason, last_transition_time=NOW)
    return NeuronModelStatus(observed_generation=1, phase=phase, conditions=(ready,), endpoint="http://smol")


async def test_a_job_is_made_once_however_often_it_is_planned(bench: Bench) -> None:
    first = await bench.carry_out(Plan(create=(bench.job(),)))
    second = await bench.carry_out(Plan(create=(bench.job(),)))
    assert (first.written, second.written) == (True, False)
    assert len((await bench.look()).observed.jobs) == 1
    assert bench.applier.refusals == ()


async def test_an_unchanged_child_is_not_applied_again_and_a_changed_one_is_put_right(bench: Bench) -> None:
    plan = Plan(apply=(bench.service(),))
    assert (await bench.carry_out(plan)).written
    assert not (await bench.carry_out(plan)).written
    by_hand = {"spec": {"selector": {"none": "other"}}}
    await bench.api.merge(client.SERVICE, bench.key.namespace, bench.key.name, by_hand)
    assert (await bench.carry_out(plan)).written
    service = (await bench.look()).observed.service
    assert service is not None
    assert service["spec"]["selector"] == {"none": "such"}


async def test_a_deleted_child_is_made_again(bench: Bench) -> None:
    plan = Plan(apply=(bench.service(),))
    await bench.carry_out(plan)
    await delete(bench.api, client.SERVICE, (await bench.look()).observed.service)
    assert (await bench.look()).observed.service is None
    assert (await bench.carry_out(plan)).written
    assert (await bench.look()).observed.service is not None


async def test_somebody_elses_service_of_the_name_is_refused_and_left_alone(bench: Bench) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": bench.key.name},
        "spec": {"ports": [{"port": 9999}]},
    }
    await bench.api.create(client.SERVICE, bench.key.namespace, foreign)
    outcome = await bench.carry_out(Plan(apply=(bench.service(),), status=status()))
    assert outcome.refusals_changed
    assert [refusal.reason for refusal in bench.applier.refusals] == ["NameTaken"]
    found = await bench.api.get(client.SERVICE, bench.key.namespace, bench.key.name)
    assert found is not None
    assert found["spec"]["ports"][0]["port"] == 9999
    assert "status" not in (await bench.look()).raw


async def test_a_job_of_a_former_model_is_waited_for_and_named_meanwhile(bench: Bench) -> None:
    """Garbage collection may take its time; a finalizer stands for that here."""
    former = bench.job()
    former["metadata"]["ownerReferences"][0]["uid"] = "a-uid-of-the-past"
    former["metadata"]["finalizers"] = ["example.com/hold"]
    await bench.api.create(client.JOB, bench.key.namespace, former)
    assert (await bench.carry_out(Plan(create=(bench.job(),)))).refusals_changed
    (refusal,) = bench.applier.refusals
    assert refusal.reason == "Leaving"
    assert "still being removed" in refusal.message
    patch = {"metadata": {"finalizers": None}}
    await bench.api.merge(client.JOB, bench.key.namespace, former["metadata"]["name"], patch)
    while not (await bench.look()).observed.jobs:
        bench.seconds += 6
        await bench.carry_out(Plan(create=(bench.job(),)))
    assert bench.applier.refusals == ()


async def test_a_service_that_an_edit_spoiled_is_recreated(bench: Bench) -> None:
    """Ports are a map by number to server-side apply: an edited number and ours would be two ports of one name."""

    async def heal() -> int:
        seen = await bench.look()
        for _ in range(2):
            plan = reconcile(replace(seen.observed, refusals=bench.applier.refusals), NOW, Settings())
            ours = Plan(delete=plan.delete, apply=tuple(m for m in plan.apply if m["kind"] == "Service"))
            if not (await bench.applier.carry_out(ours, seen, hold_status=True)).refusals_changed:
                break
        service = (await bench.look()).observed.service
        return int(service["spec"]["ports"][0]["port"]) if service else 0

    assert await heal() == 8000
    by_hand = {"spec": {"ports": [{"name": "http", "port": 9999}]}}
    await bench.api.merge(client.SERVICE, bench.key.namespace, bench.key.name, by_hand)
    while await heal() != 8000:
        bench.seconds += 61
    assert bench.applier.refusals == ()


async def test_a_foreground_deletion_takes_what_is_owned_and_leaves_the_clean_up_job(bench: Bench) -> None:
    hold = {"metadata": {"finalizers": ["example.com/hold"]}}
    await bench.api.merge(client.MODEL, bench.key.namespace, bench.key.name, hold)
    cleanup = bench.job(names.cleanup_job(bench.key.name, bench.key.uid))
    del cleanup["metadata"]["ownerReferences"]
    await bench.carry_out(Plan(create=(bench.job(), cleanup)))
    assert len((await bench.look()).observed.jobs) == 2
    foreground = ObjectRef(names.API_VERSION, names.KIND, bench.key.name, bench.key.uid, "Foreground")
    await bench.api.delete(client.MODEL, bench.key.namespace, foreground)
    while len(jobs := (await bench.look()).observed.jobs) > 1:
        pass
    (left,) = jobs
    assert left["metadata"]["name"] == cleanup["metadata"]["name"]
    assert "deletionTimestamp" not in left["metadata"]
    assert (await bench.look()).askable == frozenset()


async def test_a_quota_becomes_a_refusal_and_goes_away_with_it(bench: Bench) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    quotas = client.Kind("", "v1", "ResourceQuota", "resourcequotas")
    made = await bench.api.create(quotas, bench.key.namespace, quota)
    plan = Plan(create=(bench.job(),))
    while not bench.applier.refusals:  # the quota is not in force at once
        await bench.carry_out(plan)
        for job in (await bench.look()).observed.jobs:
            ref = ObjectRef("batch/v1", "Job", job["metadata"]["name"], job["metadata"]["uid"])
            await bench.api.delete(client.JOB, bench.key.namespace, ref)
    (refusal,) = bench.applier.refusals
    assert (refusal.kind, refusal.reason) == ("Job", "Forbidden")
    assert "quota" in refusal.message
    no_quota = {"metadata": {"uid": made["metadata"]["uid"]}, "spec": {"hard": {"count/jobs.batch": "9"}}}
    await bench.api.merge(quotas, bench.key.namespace, "none", no_quota)
    assert not (await bench.carry_out(plan)).written, "it is not tried again before its time"
    while bench.applier.refusals:
        bench.seconds += 61
        outcome = await bench.carry_out(plan)
    assert outcome.refusals_changed
    assert outcome.written


async def test_an_invalid_manifest_becomes_a_refusal_with_the_api_servers_sentence(bench: Bench) -> None:
    job = bench.job()
    job["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    await bench.carry_out(Plan(create=(job,)))
    (refusal,) = bench.applier.refusals
    assert refusal.reason == "Invalid"
    assert "restartPolicy" in refusal.message


async def test_a_delete_never_hits_a_successor_of_the_name(bench: Bench) -> None:
    await bench.carry_out(Plan(create=(bench.job(),)))
    ref = ObjectRef("batch/v1", "Job", "smol-prepare-1", "another-uid")
    assert not (await bench.carry_out(Plan(delete=(ref,)))).written
    assert len((await bench.look()).observed.jobs) == 1


async def test_a_delete_removes_a_job_with_its_pods_and_what_is_gone_is_no_error(bench: Bench) -> None:
    await bench.carry_out(Plan(create=(bench.job(),)))
    (job,) = (await bench.look()).observed.jobs
    plan = Plan(delete=(ObjectRef("batch/v1", "Job", "smol-prepare-1", job["metadata"]["uid"]),))
    assert (await bench.carry_out(plan)).written
    while (await bench.look()).observed.jobs:
        pass
    assert not (await bench.carry_out(plan)).written


async def test_the_status_is_written_once_and_only_when_it_changes(left_alone: Bench) -> None:
    first = await left_alone.carry_out(Plan(status=status()))
    again = await left_alone.carry_out(Plan(status=status()))
    assert again.snapshot.raw["metadata"]["resourceVersion"] == first.snapshot.raw["metadata"]["resourceVersion"]
    assert first.snapshot.observed.model.status == status()


async def test_what_the_status_no_longer_says_is_removed(left_alone: Bench) -> None:
    await left_alone.carry_out(Plan(status=status()))
    outcome = await left_alone.carry_out(Plan(status=replace_status(status(), endpoint=None)))
    assert "endpoint" not in outcome.snapshot.raw["status"]
    assert outcome.snapshot.raw["status"]["phase"] == "Preparing"


async def test_a_status_is_never_written_to_a_successor_of_the_name(bench: Bench) -> None:
    before = await bench.look()
    await delete(bench.api, client.MODEL, before.raw)
    await bench.api.create(client.MODEL, bench.key.namespace, model_manifest())
    with pytest.raises(ApiError) as caught:
        await bench.applier.carry_out(Plan(status=status()), before, hold_status=True)
    assert caught.value.status == 409


async def test_a_repeated_event_is_counted(left_alone: Bench) -> None:
    plan = Plan(events=(EventNote("Warning", "ClaimNotFound", "claim models does not exist; make it"),))
    await left_alone.carry_out(plan)
    left_alone.applier = left_alone.new_applier()
    await left_alone.carry_out(plan)
    fields = f"involvedObject.uid={left_alone.key.uid}"
    events = await left_alone.api.list(client.EVENT, left_alone.key.namespace, fields=f"{fields},reason=ClaimNotFound")
    (event,) = events
    assert (event["count"], event["reason"], event["source"]["component"]) == (2, "ClaimNotFound", names.FIELD_MANAGER)


async def test_the_finalizer_comes_and_goes_and_others_stay(bench: Bench) -> None:
    other = "example.com/other"
    patch = {"metadata": {"finalizers": [other]}}
    await bench.api.merge(client.MODEL, bench.key.namespace, bench.key.name, patch)
    added = await bench.carry_out(Plan(finalizer=True))
    assert set(added.snapshot.observed.model.finalizers) == {other, names.FINALIZER}
    removed = await bench.carry_out(Plan(finalizer=False))
    assert removed.snapshot.observed.model.finalizers == (other,)


async def test_a_finalizer_written_meanwhile_by_another_is_not_lost(bench: Bench) -> None:
    before = await bench.look()
    patch = {"metadata": {"finalizers": ["example.com/other"]}}
    await bench.api.merge(client.MODEL, bench.key.namespace, bench.key.name, patch)
    plan = Plan(finalizer=True, create=(bench.job(),))
    assert not (await bench.applier.carry_out(plan, before, hold_status=True)).written
    assert bench.applier.refusals == (), "that is nobody's fault: the next look has what it is now"
    assert (await bench.look()).observed.jobs == (), "nothing is made before the finalizer is there"
    assert (await bench.look()).observed.model.finalizers == ("example.com/other",)


async def test_a_namespace_that_ends_is_a_refusal_of_its_own(bench: Bench) -> None:
    hold = {"metadata": {"finalizers": ["example.com/hold"]}}
    await bench.api.merge(client.MODEL, bench.key.namespace, bench.key.name, hold)
    namespace = await bench.api.get(client.NAMESPACE, None, bench.key.namespace)
    await delete(bench.api, client.NAMESPACE, namespace)
    while (await bench.look()).observed.model.deletion_requested_at is None:
        pass
    assert (await bench.look()).observed.namespace_terminating
    await bench.carry_out(Plan(create=(bench.job(),)))
    assert [refusal.reason for refusal in bench.applier.refusals] == ["NamespaceTerminating"]


async def test_an_operator_that_ends_stops_before_the_next_write(bench: Bench) -> None:
    writes = 0

    def stopping() -> bool:
        nonlocal writes
        writes += 1
        return writes > 1

    applier = Applier(bench.api, bench.key, now=lambda: NOW, monotonic=monotonic, stopping=stopping)
    plan = Plan(apply=(bench.service(),), create=(bench.job(),), status=status())
    with pytest.raises(StoppingError):
        await applier.carry_out(plan, await bench.look(), hold_status=True)
    seen = await bench.look()
    assert seen.observed.service is not None
    assert seen.observed.jobs == ()


async def test_only_what_the_model_owns_is_observed(bench: Bench) -> None:
    stranger = bench.job("stranger")
    del stranger["metadata"]["ownerReferences"]
    await bench.api.create(client.JOB, bench.key.namespace, stranger)
    await bench.carry_out(Plan(create=(bench.job(),)))
    assert [job["metadata"]["name"] for job in (await bench.look()).observed.jobs] == ["smol-prepare-1"]


async def test_a_pod_is_observed_with_its_events_and_may_be_asked(bench: Bench) -> None:
    await bench.carry_out(Plan(create=(bench.job(),)))
    while not (seen := await bench.look()).observed.events:
        pass
    (pod,) = seen.observed.pods
    assert seen.askable == {pod["metadata"]["uid"]}
    assert {event["reason"] for event in seen.observed.events} == {"FailedScheduling"}
    assert seen.fresh_seconds <= 60


async def test_whatever_serves_in_the_namespace_is_looked_up_where_a_job_may_be_made(bench: Bench) -> None:
    """Of other NeuronModels, too; what only looks like it is left out."""
    serving = deployment("other", names.COMPONENT_SERVE)
    for manifest in (serving, deployment("stranger", "web")):
        await bench.api.create(client.DEPLOYMENT, bench.key.namespace, manifest)
    found = (await bench.look()).observed.serving_workloads
    assert found is not None
    assert {each.owner for each in found} == {"other"}


def deployment(name: str, component: str) -> dict[str, Any]:
    labels = {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_COMPONENT: component, names.LABEL_UID: name}
    pod = {"nodeSelector": {"no": "such-node"}, "containers": [{"name": names.CONTAINER, "image": "none"}]}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels}, "spec": spec}


async def test_a_model_that_is_gone_is_none(bench: Bench) -> None:
    await delete(bench.api, client.MODEL, (await bench.look()).raw)
    while await look(bench.api, bench.key, NOW) is not None:
        pass
    await bench.api.create(client.MODEL, bench.key.namespace, model_manifest())
    assert await look(bench.api, bench.key, NOW) is None, "a successor of the name is another NeuronModel"


def replace_status(old: NeuronModelStatus, **changes: Any) -> NeuronModelStatus:
    return old.model_copy(update=changes)
