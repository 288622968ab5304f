"""What schedulers of Kubernetes 1.27 to 1.34 say of a pod without a node: kept is why nodes turn it down."""

import pytest

from neuronmodel_operator.decide.scheduler_message import awaits_binding, claim_not_there, in_short, lacks_volumes

NOT_HELPFUL = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
NO_VICTIMS = "preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."

MESSAGES = {
    "1.27, twice a full stop": (
        "0/1 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }. "
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling..",
        "0/1 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }.",
    ),
    "1.30, before any node": (
        f'0/3 nodes are available: persistentvolumeclaim "store" not found. {NO_VICTIMS}.',
        '0/3 nodes are available: persistentvolumeclaim "store" not found.',
    ),
    "1.30, a claim that goes": (
        f'0/2 nodes are available: persistentvolumeclaim "store" is being deleted. {NOT_HELPFUL}',
        '0/2 nodes are available: persistentvolumeclaim "store" is being deleted.',
    ),
    "1.31, devices": (
        "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: infra}, 2 Insufficient "
        "aws.amazon.com/neuron. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No "
        "preemption victims found for incoming pod.",
        "0/3 nodes are available: 2 Insufficient aws.amazon.com/neuron, "
        "1 node(s) had untolerated taint {dedicated: infra}.",
    ),
    "1.31, no preemption": (
        "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
        "0/2 nodes are available: 2 Insufficient cpu.",
    ),
    "1.32, resource claims that might be given back": (
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint "
        f"{{app: webapp}}. no new claims to deallocate, {NOT_HELPFUL}",
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint "
        "{app: webapp}.",
    ),
    "1.33, a volume elsewhere": (
        "0/3 nodes are available: 1 node(s) had volume node affinity conflict, 1 node(s) were unschedulable, 2 "
        "Insufficient cpu, 2 Insufficient memory. still not schedulable, preemption: 0/3 nodes are available: 3 "
        "Preemption is not helpful for scheduling.",
        "0/3 nodes are available: 1 node(s) had volume node affinity conflict, 2 Insufficient cpu, 2 Insufficient "
        "memory, 1 node(s) were unschedulable.",
    ),
    "1.34, a volume elsewhere": (
        "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) had untolerated "
        f"taint(s). no new claims to deallocate, {NOT_HELPFUL}",
        "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) had untolerated "
        "taint(s).",
    ),
    "1.34, an immediate claim": (
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    ),
    "a taint with a comma": (
        "0/5 nodes are available: 1 node(s) had taint {karpenter.sh/not-ready: }, that the pod didn't tolerate, 3 "
        "Insufficient cpu, 4 Insufficient memory.",
        "0/5 nodes are available: 3 Insufficient cpu, 4 Insufficient memory, 1 node(s) had taint "
        "{karpenter.sh/not-ready: }, that the pod didn't tolerate.",
    ),
    "another scheduler": ("3 of 4 members of the group have no node.", "3 of 4 members of the group have no node."),
    "no nodes": ("no nodes available to schedule pods", "no nodes available to schedule pods"),
}


@pytest.mark.parametrize(("message", "kept"), MESSAGES.values(), ids=MESSAGES)
def test_why_nodes_turn_a_pod_down_is_kept_and_nothing_else(message: str, kept: str) -> None:
    assert in_short(message) == kept
    assert in_short(kept) == kept


def test_attempts_that_differ_in_what_was_tried_afterwards_are_reported_alike() -> None:
    head = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s)."
    tails = (
        "",
        f" {NOT_HELPFUL}",
        f" {NO_VICTIMS}",
        f" no new claims to deallocate, {NOT_HELPFUL}",
        f" still not schedulable, {NO_VICTIMS}.",
    )
    assert len({in_short(head + tail) for tail in tails}) == 1


NO_VOLUME = "node(s) didn't find available persistent volumes to bind"


@pytest.mark.parametrize(
    ("reasons", "lacks"),
    [
        (f"2 {NO_VOLUME}", True),
        (f"1 {NO_VOLUME}, 1 node(s) had untolerated taint(s)", True),
        (f"1 {NO_VOLUME}, 3 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable", True),
        ("2 node(s) did not have enough free storage", True),
        (f"1 {NO_VOLUME}, 1 Insufficient aws.amazon.com/neuron", False),
        (f"1 {NO_VOLUME}, 1 node(s) didn't match PersistentVolume's node affinity", False),
        ("2 Insufficient cpu", False),
        ("pod has unbound immediate PersistentVolumeClaims", False),
    ],
)
def test_a_pod_lacks_volumes_alone_if_no_node_that_suits_it_fails_at_anything_else(reasons: str, lacks: bool) -> None:
    assert lacks_volumes(f"0/9 nodes are available: {reasons}. {NOT_HELPFUL}") is lacks


def test_a_claim_that_is_bound_before_a_node_is_looked_for_is_known() -> None:
    assert awaits_binding("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found")
    assert not awaits_binding(f"0/2 nodes are available: 2 {NO_VOLUME}.")


@pytest.mark.parametrize("how", ["not found", "is being deleted"])
def test_the_claim_that_was_not_there_is_known(how: str) -> None:
    assert claim_not_there(f'0/2 nodes are available: persistentvolumeclaim "store" {how}. not found') == "store"
    assert claim_not_there(f"0/2 nodes are available: 2 {NO_VOLUME}.") is None
