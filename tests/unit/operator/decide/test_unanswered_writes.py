"""What the API server answers to a write, whatever it is, shows where it stands in the way, and Ready never says that
all is well meanwhile."""

import pytest

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Condition
from neuronmodel_operator.state.observed import Refusal
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, Object, stamp

WEBHOOK = 'Internal error occurred: failed calling webhook "policy.example": connect: connection refused'
RIGHTS = 'services is forbidden: User "system:serviceaccount:ops:operator" cannot patch resource "services"'
ANSWERS = [
    (500, "InternalError", "range is full", "WriteFailed"),
    (500, "InternalError", WEBHOOK, "WebhookFailed"),
    (503, "ServiceUnavailable", "the server is currently unable to handle the request", "WriteFailed"),
    (409, "Conflict", "the object has been modified", "WriteFailed"),
    (429, "TooManyRequests", "too many requests", "WriteFailed"),
    (401, "Unauthorized", "Unauthorized", "WriteFailed"),
    (404, "NotFound", "the server could not find the requested resource", "WriteFailed"),
    (403, "Forbidden", RIGHTS, "NotPermitted"),
    (403, "Forbidden", 'admission webhook "policy.example" denied the request: no', "WriteRefused"),
    (422, "Invalid", "spec is wrong", "WriteRefused"),
    (0, "NoAnswer", "the API server has not answered yet", "NoAnswer"),
]
WHERE = {
    "Service": ConditionType.READY,
    "Deployment": ConditionType.SCHEDULED,
    "Job": ConditionType.SCHEDULED,
    "PersistentVolumeClaim": ConditionType.ARTIFACTS_READY,
}
KINDS = pytest.mark.parametrize("kind", WHERE)
ANSWERED = pytest.mark.parametrize(("status", "reason", "message", "expected"), ANSWERS)


def answering(cluster: Cluster, kind: str, status: int, reason: str, message: str) -> None:
    since = cluster.now

    def answer(manifest: Object) -> Refusal | None:
        own = manifest["metadata"]["name"]
        refusal = Refusal(kind, own, reason, message, status, "write", since, 5)
        return refusal if manifest["kind"] == kind else None

    cluster.answer_to_write = answer


def warnings(cluster: Cluster, reason: str) -> int:
    return len([note for note in cluster.recorded_events if (note.type, note.reason) == ("Warning", reason)])


@KINDS
@ANSWERED
def test_a_new_model_tells_of_a_write_that_fails_and_goes_on_after_it(
    kind: str, status: int, reason: str, message: str, expected: str
) -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    answering(cluster, kind, status, reason, message)
    since = cluster.now
    cluster.run(30)
    assert cluster.reason() == cluster.reason(WHERE[kind]) == ("False", expected)
    reported = cluster.condition().message
    assert message in reported
    assert f"since {stamp(since)}; it is tried again every 5 s" in reported
    assert warnings(cluster, expected) == 1
    cluster.answer_to_write = lambda manifest: None
    cluster.run_until_ready(60)


@pytest.mark.parametrize("kind", ["Service", "Deployment"])
@ANSWERED
def test_a_model_that_answers_is_not_ready_while_what_is_asked_for_was_not_written(
    kind: str, status: int, reason: str, message: str, expected: str
) -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    cluster.run_until_ready(60)
    answering(cluster, kind, status, reason, message)
    cluster.edit("serving.port", 9000)
    cluster.run(10)
    assert cluster.reason() == ("False", expected)
    assert "goes on answering" in cluster.condition().message
    assert cluster.status.observed_generation == 2
    cluster.answer_to_write = lambda manifest: None
    cluster.run_until_ready(60)


def test_a_scaling_that_was_not_written_is_no_ready_model() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().with_artifacts_claim("store").build(), ())
    for claim in ("models", "store"):
        cluster.add_claim(claim, "ReadWriteMany")
    cluster.run_until_ready(60)
    answering(cluster, "Deployment", 503, "ServiceUnavailable", "not now")
    cluster.edit("serving.replicas", 2)
    cluster.run(5)
    assert cluster.reason() == ("False", "WriteFailed")


def test_a_service_that_is_gone_and_cannot_be_made_is_no_ready_model() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    cluster.run_until_ready(60)
    answering(cluster, "Service", 500, "InternalError", "range is full")
    cluster.service = None
    cluster.run(3)
    assert cluster.reason() == ("False", "WriteFailed")
    assert "goes on answering" in cluster.condition().message


@pytest.mark.parametrize("edit", [("suspend", True), ("serving.replicas", 0)])
@pytest.mark.parametrize("kind", ["Service", "Deployment"])
def test_what_is_wrong_shows_also_while_nothing_is_wanted(kind: str, edit: tuple[str, object]) -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    cluster.run_until_ready(60)
    answering(cluster, kind, 409, "NameTaken", "")
    cluster.service = None
    cluster.edit(*edit)
    cluster.run(5)
    assert cluster.reason() == ("False", "NameTaken")


def test_a_former_models_object_that_lingers_is_waited_for_by_name() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    answering(cluster, "Service", 409, "Leaving", "Service smol of a former NeuronModel smol is still being removed")
    cluster.run(3)
    assert cluster.reason() == ("Unknown", "FormerLeaving")
    assert "still being removed" in cluster.condition().message


def undeletable(cluster: Cluster, name: str) -> Refusal:
    return Refusal("Job", name, "InternalError", WEBHOOK, 500, "delete", cluster.now, 5)


def next_condition(
    cluster: Cluster, refusal: Refusal, expected: str, kind: ConditionType = ConditionType.READY
) -> Condition:
    """The condition as the next pass writes it; a Warning tells the same."""
    cluster.refusals = (refusal,)
    plan = cluster.plan()
    assert plan.status is not None
    condition = plan.status.condition(kind)
    assert condition is not None
    assert [note.type for note in plan.events if note.reason == expected] == ["Warning"]
    return condition


def test_a_former_job_that_cannot_be_deleted_is_reported() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().with_artifacts_claim("store").build(), ("models", "store"))
    cluster.run_until_ready(60)
    (former,) = cluster.live_jobs
    cluster.edit("parallelism.tensorParallelDegree", 2)
    name = former["metadata"]["name"]
    condition = next_condition(cluster, undeletable(cluster, name), "WebhookFailed", ConditionType.ARTIFACTS_READY)
    assert (condition.status, condition.reason) == ("False", "WebhookFailed")
    assert f"Job {name} was not deleted" in condition.message


def test_a_job_that_never_began_and_cannot_be_recreated_says_so_rather_than_what_was_fixed() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    cluster.kubelet = lambda pod: {"reason": "ErrImagePull", "message": "no such image"}
    cluster.run(5)
    assert cluster.reason() == ("False", "ImagePullFailed")
    (job,) = cluster.live_jobs
    cluster.edit("worker.image", "worker:2")
    name = job["metadata"]["name"]
    ready = next_condition(cluster, undeletable(cluster, name), "WebhookFailed")
    assert (ready.status, ready.reason) == ("False", "WebhookFailed")
    assert f"Job {name} was not deleted" in ready.message


def test_a_former_job_that_lingers_keeps_no_model_from_being_ready() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    cluster.run_until_ready(60)
    (job,) = cluster.live_jobs
    name = job["metadata"]["name"]
    cluster.refusals = (undeletable(cluster, name),)
    cluster.run(3)
    assert cluster.reason() == ("True", "Serving")
    assert f"Job {name} was not deleted" in cluster.condition(ConditionType.ARTIFACTS_READY).message


def test_a_model_that_goes_says_what_keeps_it() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().with_retention("Delete").build())
    cluster.run_until_ready(60)
    cluster.delete_model()
    refusal = Refusal("Job", "smol-cleanup", "InternalError", "no room", 500, "write", cluster.now, 5)
    ready = next_condition(cluster, refusal, "WriteFailed")
    assert ready.reason == "Terminating"
    assert "no room" in ready.message
