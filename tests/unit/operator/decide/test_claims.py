"""What happens to claims is reported by the condition that they matter to: no volume, a deletion, a lost volume."""

from collections.abc import Callable

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import WorkerConfig
from tests.builders import NeuronModelBuilder, neuron_model
from tests.unit.operator.simulated import Cluster, Object, Run, component, failing, stamp

BASE = neuron_model("smol").on_cpu()
NAMED = BASE.with_artifacts_claim("store").with_field("spec.scratch.persistentVolumeClaim", {"claimName": "nvme"})
CLAIMS = ("models", "store", "nvme")
TEMPLATED = "smol-artifacts"
CONTROLLER = "persistentvolume-controller"
PROVISIONER = "ebs.csi.aws.com_ebs-csi-controller-0"

UNBOUND = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
NO_VOLUME = (
    "0/2 nodes are available: 1 node(s) didn't find available persistent volumes to bind, 1 node(s) had untolerated "
    "taint(s). no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful."
)
NO_CLASS = 'storageclass.storage.k8s.io "fast" not found'
PLACES = pytest.mark.parametrize(
    ("claim", "condition", "field"),
    [
        ("models", ConditionType.SOURCE_RESOLVED, "spec.model.source"),
        ("store", ConditionType.ARTIFACTS_READY, "spec.artifacts"),
        ("nvme", ConditionType.SCHEDULED, "spec.scratch"),
    ],
)


def made(builder: NeuronModelBuilder = NAMED) -> Cluster:
    return Cluster.of(builder.build(), CLAIMS)


def leave_pending(cluster: Cluster, name: str, scheduler: str | None = UNBOUND) -> None:
    """As a claim with a class is; no pod that mounts it gets a node. `scheduler` None: it says nothing of them."""
    claim = cluster.claims[name]
    claim["status"] = {"phase": "Pending"}
    claim["spec"] |= {"storageClassName": "fast", "resources": {"requests": {"storage": "900Gi"}}}
    cluster.can_schedule = lambda pod: (scheduler or "") if mounts(pod, name) else None


def fill(cluster: Cluster, name: str) -> None:
    cluster.claims[name]["status"] = {"phase": "Bound"}
    cluster.can_schedule = lambda pod: None


def mounts(pod: Object, name: str) -> bool:
    claims = (volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["spec"]["volumes"])
    return name in claims


def say(
    cluster: Cluster, claim: str, reason: str, message: str, source: str = CONTROLLER, kind: str = "Warning"
) -> None:
    """As an Event about a claim."""
    about = {"kind": "PersistentVolumeClaim", "uid": cluster.claims[claim]["metadata"]["uid"], "name": claim}
    event = {"involvedObject": about, "type": kind, "reason": reason, "message": message}
    event |= {"metadata": {"name": "e"}, "source": {"component": source}, "lastTimestamp": stamp(cluster.now)}
    cluster.events.append(event)


def delete(cluster: Cluster, name: str) -> None:
    """It stays as long as there is a pod that was placed with it; see `run`."""
    cluster.claims[name]["metadata"]["deletionTimestamp"] = stamp(cluster.now)
    going = f'0/2 nodes are available: persistentvolumeclaim "{name}" is being deleted. not found'
    missing = f'0/2 nodes are available: persistentvolumeclaim "{name}" not found. not found'

    def schedule(pod: Object) -> str | None:
        if not mounts(pod, name):
            return None
        claim = cluster.claims.get(name)
        if claim is None:
            return missing
        return going if "deletionTimestamp" in claim["metadata"] else None

    cluster.can_schedule = schedule


def run(cluster: Cluster, steps: int) -> None:
    """With the controller that lets go of claims which no pod holds, also none that has ended."""
    for _ in range(steps):
        cluster.run(1)
        held = {name for name in cluster.claims for pod in cluster.pods.values() if is_placed_with(pod, name)}
        going = {name for name, claim in cluster.claims.items() if "deletionTimestamp" in claim["metadata"]}
        for name in going - held:
            del cluster.claims[name]


def is_placed_with(pod: Object, name: str) -> bool:
    return "nodeName" in pod["spec"] and mounts(pod, name)


def warnings(cluster: Cluster, reason: str) -> list[str]:
    return [note.note for note in cluster.recorded_events if (note.type, note.reason) == ("Warning", reason)]


def serving(builder: NeuronModelBuilder = NAMED) -> Cluster:
    cluster = made(builder)
    cluster.run_until_ready()
    cluster.run(3)
    return cluster


# A claim that gets no volume.


@PLACES
@pytest.mark.parametrize(
    ("reason", "kind", "message"),
    [
        ("ProvisioningFailed", "Warning", NO_CLASS),
        ("ProvisioningFailed", "Warning", "no volume plugin matched name: kubernetes.io/no-provisioner"),
        ("FailedBinding", "Normal", "no persistent volumes available for this claim and no storage class is set"),
        ("FailedBinding", "Warning", 'volume "pv-1" already bound to a different claim.'),
        ("VolumeMismatch", "Warning", 'Cannot bind to requested volume "pv-1": requested PV is too small'),
    ],
)
def test_a_claim_that_gets_no_volume_is_named_with_the_words_of_the_event(
    claim: str, condition: ConditionType, field: str, reason: str, kind: str, message: str
) -> None:
    cluster = made()
    leave_pending(cluster, claim)
    cluster.run(3)
    say(cluster, claim, reason, message, kind=kind)
    cluster.run(60)
    assert cluster.reason() == cluster.reason(condition) == ("False", "ClaimPending")
    shown = cluster.condition(condition).message
    assert f"The claim {claim} (class fast, 900Gi, ReadWriteOnce) gets no volume: {message.removesuffix('.')}." in shown
    assert shown.endswith(f"or name another in {field}.")
    assert len(warnings(cluster, "ClaimPending")) == 1
    unknown = [each for each in cluster.status.conditions if each.status == "False" and each.reason != "ClaimPending"]
    assert [each.type for each in unknown] == [], "nothing else is wrong"
    fill(cluster, claim)
    cluster.run_until_ready(60)


@PLACES
def test_a_claim_for_which_no_node_has_a_volume_is_named(claim: str, condition: ConditionType, field: str) -> None:
    cluster = made()
    leave_pending(cluster, claim, NO_VOLUME)
    say(cluster, claim, "WaitForPodScheduled", "waiting for pod to be scheduled", kind="Normal")
    cluster.run(10)
    assert cluster.reason() == cluster.reason(condition) == ("False", "ClaimPending")
    shown = cluster.condition().message
    assert "1 node(s) didn't find available persistent volumes to bind, 1 node(s) had untolerated taint(s)." in shown
    assert "reemption" not in shown
    fill(cluster, claim)
    cluster.run_until_ready(60)


def test_of_several_claims_that_wait_for_one_pod_all_are_named() -> None:
    """The scheduler does not say which it finds no volume for."""
    cluster = made()
    leave_pending(cluster, "store")
    leave_pending(cluster, "nvme", NO_VOLUME)
    cluster.run(10)
    for condition in (ConditionType.READY, ConditionType.ARTIFACTS_READY, ConditionType.SCHEDULED):
        assert cluster.reason(condition) == ("False", "ClaimPending")
        shown = cluster.condition(condition).message
        assert "nvme (class fast, 900Gi, ReadWriteOnce), store (class fast, 900Gi, ReadWriteOnce): 0/2 nodes" in shown
    assert len(warnings(cluster, "ClaimPending")) == 1


def test_a_node_that_also_lacks_devices_is_not_blamed_on_a_claim() -> None:
    cluster = made()
    both = "0/2 nodes are available: 1 Insufficient aws.amazon.com/neuron, 1 node(s) didn't find available persistent "
    leave_pending(cluster, "store", f"{both}volumes to bind.")
    cluster.run(10)
    assert cluster.reason() == cluster.reason(ConditionType.SCHEDULED) == ("False", "Unschedulable")


@pytest.mark.parametrize("chosen", [True, False], ids=["for a node", "at once"])
def test_a_volume_that_is_being_provisioned_is_waited_for_and_reported_when_it_takes_long(chosen: bool) -> None:
    cluster = made()
    leave_pending(cluster, "store", None if chosen else UNBOUND)
    if chosen:
        cluster.claims["store"]["metadata"]["annotations"] = {"volume.kubernetes.io/selected-node": "node-1"}
    event = "Waiting for a volume to be created either by the external provisioner 'ebs.csi.aws.com' or manually."
    say(cluster, "store", "ExternalProvisioning", event, kind="Normal")
    cluster.run(60, seconds=9)
    assert cluster.reason() == cluster.reason(ConditionType.ARTIFACTS_READY) == ("Unknown", "WaitingForVolume")
    assert event in cluster.condition().message
    assert cluster.reason(ConditionType.SCHEDULED) == ("Unknown", "WaitingForVolume")
    assert [note for note in cluster.recorded_events if note.type == "Warning"] == []
    cluster.run(10, seconds=9)
    assert cluster.reason() == ("False", "ClaimPending")
    assert "has no volume after more than 10 minutes" in cluster.condition().message
    fill(cluster, "store")
    cluster.run_until_ready(60)


def test_a_provisioner_that_fails_is_reported_once_whatever_its_request_ids_are() -> None:
    cluster = made()
    leave_pending(cluster, "store")
    cluster.run(3)
    writes = 0
    for request in ("4f6d3a52-0a8e-4d55-9b5e-3f6a2a3f7c11", "9a1f0c77-5b1d-4a0e-8f0e-1f3f5f0f1c22"):
        for combined in ("", "(combined from similar events): "):
            event = f"{combined}failed to provision volume: rpc error: UnauthorizedOperation, request id: {request}"
            say(cluster, "store", "Provisioning", "External provisioner is provisioning volume", PROVISIONER, "Normal")
            say(cluster, "store", "ProvisioningFailed", event, PROVISIONER)
            say(cluster, "store", "Provisioning", "External provisioner is provisioning volume", PROVISIONER, "Normal")
            say(cluster, "store", "ExternalProvisioning", "Waiting for a volume to be created", kind="Normal")
            before = cluster.log.count("status")
            cluster.run(2)
            writes += cluster.log.count("status") - before
    assert cluster.reason() == ("False", "ClaimPending")
    assert "UnauthorizedOperation, request id: …" in cluster.condition().message
    assert (writes, len(warnings(cluster, "ClaimPending"))) == (1, 1)


def test_a_class_that_was_made_meanwhile_is_no_longer_missed() -> None:
    cluster = made()
    leave_pending(cluster, "store")
    say(cluster, "store", "ProvisioningFailed", NO_CLASS)
    cluster.run(5)
    assert cluster.reason() == ("False", "ClaimPending")
    say(cluster, "store", "ExternalProvisioning", "Waiting for a volume to be created", kind="Normal")
    cluster.run(5)
    assert cluster.reason() == ("Unknown", "WaitingForVolume")


def test_a_claim_for_the_users_own_volume_is_reported() -> None:
    own = {"volumes": [{"name": "mine", "persistentVolumeClaim": {"claimName": "data"}}]}
    cluster = Cluster.of(NAMED.with_worker(**own).build(), (*CLAIMS, "data"))
    leave_pending(cluster, "data")
    say(cluster, "data", "ProvisioningFailed", NO_CLASS)
    cluster.run(10)
    assert cluster.reason() == cluster.reason(ConditionType.SCHEDULED) == ("False", "ClaimPending")
    assert cluster.condition().message.endswith("or name another in spec.worker.volumes.")


def test_a_claim_from_the_template_is_replaced_by_one_of_the_users() -> None:
    cluster = made(BASE)
    cluster.run(2)
    leave_pending(cluster, TEMPLATED)
    say(cluster, TEMPLATED, "ProvisioningFailed", NO_CLASS)
    cluster.run(5)
    assert cluster.reason() == ("False", "ClaimPending")
    assert cluster.condition().message.endswith("name a claim of your own in spec.artifacts.persistentVolumeClaim.")


# A claim that is being deleted, or has lost its volume.


@PLACES
def test_a_claim_that_is_being_deleted_under_a_serving_worker_is_reported(
    claim: str, condition: ConditionType, field: str
) -> None:
    cluster = serving()
    delete(cluster, claim)
    run(cluster, 10)
    assert cluster.reason() == ("True", "Serving")
    assert f"The next start is in question (ClaimTerminating): The claim {claim}" in cluster.condition().message
    assert cluster.reason(condition) == ("False", "ClaimTerminating")
    shown = cluster.condition(condition).message
    (worker,) = cluster.serving
    assert f"is being deleted, and goes with the last pod that mounted it ({worker['metadata']['name']})." in shown
    assert shown.endswith(f"Make it anew when it has gone, or name another in {field}.")
    assert len(warnings(cluster, "ClaimTerminating")) == 1


@PLACES
def test_a_pod_that_waits_for_a_claim_that_goes_says_so(claim: str, condition: ConditionType, field: str) -> None:
    cluster = serving()
    delete(cluster, claim)
    cluster.kill_pod(cluster.serving[0])
    cluster.run(60)
    assert cluster.reason() == cluster.reason(condition) == ("False", "ClaimTerminating"), "others hold it"


@PLACES
@pytest.mark.parametrize("first", ["claim", "pod"])
def test_of_what_is_over_nothing_keeps_a_claim_from_going(
    claim: str, condition: ConditionType, field: str, first: str
) -> None:
    cluster = serving()
    if first == "claim":
        delete(cluster, claim)
    cluster.kill_pod(cluster.serving[0])
    if first == "pod":
        cluster.can_schedule = lambda pod: "no node"
        cluster.run(5)
        delete(cluster, claim)
    run(cluster, 10)
    assert claim not in cluster.claims
    assert cluster.reason() == cluster.reason(condition)
    assert cluster.reason()[1] in ("SourceClaimMissing", "ArtifactsClaimMissing", "ScratchClaimMissing")
    cluster.add_claim(claim)
    cluster.run_until_ready()
    assert len(prepared(cluster)) == (2 if claim == "store" else 1), "what was prepared is remembered"


@pytest.mark.parametrize("kept", [True, False], ids=["from the template", "named"])
def test_on_a_recreated_claim_prepare_builds_again_and_nothing_is_called_damaged(kept: bool) -> None:
    cluster = serving(BASE if kept else NAMED)
    name = TEMPLATED if kept else "store"
    before = len(cluster.recorded_events)
    delete(cluster, name)
    run(cluster, 5)
    assert cluster.reason() == ("True", "Serving")
    assert ("made anew from the template" in cluster.condition(ConditionType.ARTIFACTS_READY).message) is kept
    cluster.serve = until_built_again(cluster)
    cluster.kill_pod(cluster.serving[0])
    run(cluster, 2)
    if not kept:
        run(cluster, 5)
        assert cluster.reason() == ("False", "ArtifactsClaimMissing")
        cluster.add_claim(name)
    cluster.run_until(lambda c: c.reason(ConditionType.ARTIFACTS_READY) == ("Unknown", "ArtifactsMissing"), 20)
    assert (
        f"What was prepared is not in claim {name}: the volume is new."
        in cluster.condition(ConditionType.ARTIFACTS_READY).message
    )
    assert cluster.reason(ConditionType.SOURCE_RESOLVED) == ("True", "Resolved"), "the source is as it was"
    cluster.run_until_ready()
    assert len(prepared(cluster)) == 2
    shown = " ".join(note.note for note in cluster.recorded_events[before:])
    assert "damaged" not in shown
    assert warnings(cluster, "Unschedulable") == [], "of a claim that has come since"
    assert len(warnings(cluster, "ArtifactsMissing")) == 1


def until_built_again(cluster: Cluster) -> Callable[[WorkerConfig], Run]:
    """What a worker does as long as the volume is new."""

    def serve(_: WorkerConfig) -> Run:
        message = f"What was prepared is not in {names.ARTIFACTS_MOUNT}: the volume is new. It has to be built again."
        if len(prepared(cluster)) < 2:
            return failing("ArtifactsMissing", exits.ARTIFACT_DAMAGED, message)
        return Run()

    return serve


def prepared(cluster: Cluster) -> list[str]:
    """Jobs that were made."""
    return [line for line in cluster.log if line.startswith("create Job smol-prepare-")]


@pytest.mark.parametrize("outcome", [Run(), failing("ConfigMissing")], ids=["ends well", "fails"])
def test_a_claim_that_is_deleted_under_prepare_goes_when_that_is_over(outcome: Run) -> None:
    cluster = made(BASE)
    cluster.prepare = lambda config: outcome if len(prepared(cluster)) < 2 else Run()
    cluster.run_until(lambda c: bool(c.pods) and all("nodeName" in pod["spec"] for pod in c.pods.values()))
    first = cluster.claims[TEMPLATED]["metadata"]["uid"]
    delete(cluster, TEMPLATED)
    run(cluster, 30)
    assert cluster.claims[TEMPLATED]["metadata"]["uid"] != first
    cluster.run_until_ready()
    assert len(prepared(cluster)) == 2


def test_while_nothing_serves_a_recreated_claim_is_built_on_too() -> None:
    cluster = made(BASE.with_field("spec.suspend", True))
    cluster.run_until(lambda c: c.reason(ConditionType.ARTIFACTS_READY) == ("True", "Prepared"))
    cluster.run(5)
    delete(cluster, TEMPLATED)
    run(cluster, 8)
    assert len(prepared(cluster)) == 2
    cluster.run_until(lambda c: c.reason(ConditionType.ARTIFACTS_READY) == ("True", "Prepared"))
    cluster.run(30)
    assert len(prepared(cluster)) == 2


def test_a_worker_that_answers_is_believed_over_the_identity_of_its_claim() -> None:
    """A restored backup recreates every object."""
    cluster = serving()
    cluster.claims["store"]["metadata"]["uid"] = "another"
    cluster.run(20)
    assert cluster.reason() == ("True", "Serving")
    assert len(prepared(cluster)) == 1


def test_a_claim_that_has_lost_its_volume_is_reported() -> None:
    cluster = serving()
    cluster.claims["store"]["status"] = {"phase": "Lost"}
    say(cluster, "store", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
    cluster.run(5)
    assert cluster.reason(ConditionType.ARTIFACTS_READY) == ("False", "ClaimLost")
    assert "Data on the volume is lost!" in cluster.condition(ConditionType.ARTIFACTS_READY).message


# Pods that get no node for other reasons.


def test_a_pod_that_is_held_back_waits_and_is_not_an_error() -> None:
    cluster = made()
    cluster.can_schedule = lambda pod: ""
    cluster.run_until(lambda c: bool(c.pods))
    for pod in cluster.pods.values():
        pod["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
        pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    cluster.run(60)
    assert cluster.reason() == cluster.reason(ConditionType.SCHEDULED) == ("Unknown", "SchedulingGated")
    assert "kueue.x-k8s.io/admission" in cluster.condition().message


def test_what_fails_after_a_node_was_found_is_reported_when_it_persists() -> None:
    cluster = made()
    cluster.can_schedule = lambda pod: "" if component(pod) == names.COMPONENT_SERVE else None
    cluster.run_until(lambda c: bool(c.serving))
    error = 'running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded'
    condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulerError", "message": error}
    cluster.serving[0]["status"]["conditions"] = [condition | {"lastTransitionTime": stamp(cluster.now)}]
    cluster.run(20)
    assert cluster.reason() == ("Unknown", "WaitingForNode"), "it is tried again, and may go well"
    cluster.run(20)
    assert cluster.reason() == ("False", "Unschedulable")
    assert error in cluster.condition().message
