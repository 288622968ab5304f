"""A NeuronModel goes by `artifacts.retention`, whatever is missing and whenever the operator dies."""

from datetime import timedelta

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Phase
from neuronmodel_operator.state.observed import Refusal
from tests.builders import neuron_model
from tests.unit.operator.simulated import EPOCH, Cluster, Object, OperatorKilledError, Run, component, failing, stamp

DELETED = neuron_model("smol").on_cpu().with_retention("Delete")
CLAIM = "smol-artifacts"


def serving() -> Cluster:
    cluster = Cluster.of(DELETED.build())
    cluster.run_until_ready()
    return cluster


def ended(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions", ())
    return names.COMPONENT_CLEANUP in job["metadata"]["name"] and any(c["type"] == "Complete" for c in conditions)


def warned(cluster: Cluster) -> list[str]:
    return [note.note for note in cluster.recorded_events if note.reason == "CleanupAbandoned"]


def test_a_foreground_deletion_leaves_the_clean_up_job_to_its_work() -> None:
    """Garbage collection goes on removing what the NeuronModel owns until our finalizer lets go of it."""
    cluster = serving()
    cluster.cleanup = Run(milliseconds=20_000)
    cluster.delete_model()
    for _ in range(60):
        if cluster.is_gone:
            break
        cluster.reconcile()
        cluster.collect_children()
        cluster.step()
    assert cluster.is_gone
    assert warned(cluster) == []
    assert len([line for line in cluster.log if line.startswith("create Job smol-cleanup")]) == 1
    assert (cluster.jobs, CLAIM in cluster.claims) == ({}, False)


@pytest.mark.parametrize("missing", ["nothing", "deployment", "service", "jobs", "pods", "everything"])
def test_whatever_is_missing_it_is_cleaned_after(missing: str) -> None:
    cluster = serving()
    if missing in ("deployment", "everything"):
        cluster.deployment = None
        for pod in cluster.serving:
            cluster.kill_pod(pod)
    if missing in ("service", "everything"):
        cluster.service = None
    if missing in ("jobs", "everything"):
        cluster.jobs.clear()
    if missing in ("pods", "everything"):
        for pod in cluster.pods.values():
            cluster.kill_pod(pod)
    cluster.delete_model()
    cluster.run(60)
    assert cluster.is_gone
    assert warned(cluster) == []
    assert (cluster.jobs, CLAIM in cluster.claims) == ({}, False)


@pytest.mark.parametrize("kill_at", range(16))
def test_killed_at_any_write_it_ends_without_a_trace(kill_at: int) -> None:
    cluster = serving()
    cluster.delete_model()
    left = kill_at
    for _ in range(80):
        if cluster.is_gone:
            break
        before = len(cluster.log)
        try:
            cluster.reconcile(writes=left)
        except OperatorKilledError:
            left = 10**6
        left -= len(cluster.log) - before
        cluster.step()
    assert cluster.is_gone
    assert (cluster.jobs, cluster.pods, CLAIM in cluster.claims) == ({}, {}, False)


def test_the_worker_has_ended_before_its_artifacts_are_removed() -> None:
    cluster = serving()
    cluster.delete_model()
    while not cluster.is_gone:
        cluster.reconcile()
        cleaning = [pod for pod in cluster.pods.values() if component(pod) == names.COMPONENT_CLEANUP]
        assert not (cleaning and cluster.serving)
        cluster.step()


def test_a_deletion_in_the_middle_of_prepare_ends_it_first() -> None:
    cluster = Cluster.of(DELETED.build())
    cluster.run_until(lambda c: any(pod["status"]["phase"] == "Running" for pod in c.pods.values()))
    cluster.delete_model()
    cluster.run(60)
    assert cluster.is_gone
    assert (cluster.jobs, CLAIM in cluster.claims) == ({}, False)


@pytest.mark.parametrize(("change_to", "stays"), [("Retain", True), ("Delete", False)])
def test_the_retention_of_the_last_moment_counts(change_to: str, stays: bool) -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().with_retention("Delete" if stays else "Retain").build())
    cluster.run_until_ready()
    cluster.edit("artifacts.retention", change_to)
    cluster.run(3)
    assert cluster.model["metadata"]["finalizers"] == ([] if stays else [names.FINALIZER])
    cluster.delete_model()
    cluster.run(60)
    assert cluster.is_gone
    assert (CLAIM in cluster.claims) is stays


def test_retain_lets_go_of_a_deletion_that_cannot_be_cleaned_after() -> None:
    cluster = serving()
    cluster.cleanup = failing("ArtifactsUnwritable")
    cluster.delete_model()
    cluster.run(10)
    assert cluster.status.phase is Phase.TERMINATING
    cluster.edit("artifacts.retention", "Retain")
    cluster.run(3)
    assert cluster.is_gone
    assert CLAIM in cluster.claims


def test_a_claim_that_another_model_names_stays() -> None:
    cluster = serving()
    other = neuron_model("other").on_cpu().with_artifacts_claim(CLAIM).build()
    cluster.other_models = (other,)
    cluster.delete_model()
    cluster.run(60)
    assert cluster.is_gone
    assert CLAIM in cluster.claims
    assert [line for line in cluster.log if line.startswith("create Job smol-cleanup")]


def going(*, claim: str) -> Object:
    other = neuron_model("other").on_cpu().with_artifacts_claim(claim).build()
    return other | {"metadata": other["metadata"] | {"deletionTimestamp": stamp(EPOCH)}}


def test_a_claim_that_only_models_name_which_go_too_goes_when_they_have() -> None:
    cluster = serving()
    cluster.other_models = (going(claim=CLAIM),)
    cluster.delete_model()
    cluster.run(60)
    assert "Other NeuronModels that go too" in cluster.condition().message
    assert CLAIM in cluster.claims
    cluster.other_models = ()
    cluster.run(20)
    assert cluster.is_gone
    assert CLAIM not in cluster.claims


def test_models_that_wait_for_each_others_claims_do_not_wait_for_ever() -> None:
    cluster = serving()
    cluster.other_models = (going(claim=CLAIM),)
    cluster.delete_model()
    cluster.run(120, seconds=10)
    assert cluster.is_gone
    assert CLAIM in cluster.claims


def test_a_clean_up_that_never_gets_a_node_is_given_up_and_removed() -> None:
    cluster = serving()
    cluster.can_schedule = lambda pod: "0/2 nodes are available."
    cluster.delete_model()
    cluster.run(80, seconds=10)
    assert cluster.is_gone
    assert len(warned(cluster)) == 1
    assert cluster.jobs == {}


@pytest.mark.parametrize(("minutes", "is_left"), [(1, False), (11, True)])
def test_a_clean_up_job_whose_deletion_is_refused_is_tried_again_and_left_after_ten_minutes(
    minutes: int, is_left: bool
) -> None:
    cluster = serving()
    cluster.delete_model()
    cluster.run_until(lambda c: any(ended(job) for job in c.jobs.values()))
    cluster.claims.clear()  # that of the template has gone by then
    (name,) = cluster.jobs
    now = cluster.now
    cluster.now = now + timedelta(minutes=minutes)
    cluster.refusals = (Refusal("Job", name, "Forbidden", "not on a Friday", 403, "delete", now),)
    plan = cluster.plan()
    assert plan.finalizer is False
    assert [ref.name for ref in plan.delete] == ([] if is_left else [name])
    if not is_left:
        assert plan.status is not None
        ready = plan.status.condition(ConditionType.READY)
        assert ready is not None
        assert f"The Job {name} was not deleted: not on a Friday." in ready.message


def test_a_claim_of_the_users_is_cleaned_and_never_deleted() -> None:
    cluster = Cluster.of(DELETED.with_artifacts_claim("store").build(), ("models", "store"))
    cluster.run_until_ready()
    cluster.delete_model()
    cluster.run(60)
    assert cluster.is_gone
    assert "store" in cluster.claims
    assert [line for line in cluster.log if line.startswith("create Job smol-cleanup")]


def test_a_claim_of_the_name_that_was_not_made_for_it_is_neither_written_to_nor_deleted() -> None:
    cluster = Cluster.of(DELETED.build(), claims=("models", CLAIM))
    cluster.run(10)
    assert cluster.reason(ConditionType.ARTIFACTS_READY) == cluster.reason() == ("False", "NameTaken")
    assert (cluster.jobs, cluster.pods) == ({}, {})
    cluster.delete_model()
    cluster.run(10)
    assert cluster.is_gone
    assert CLAIM in cluster.claims
    assert not [line for line in cluster.log if "Job" in line]
    assert warned(cluster) == [f"Artifacts may be left behind: the claim {CLAIM} was not made for this NeuronModel."]
