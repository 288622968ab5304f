"""Why an attempt of `prepare` failed stays known: while its pod is there, when it has gone, and while others follow."""

import copy
import re
from collections.abc import Iterable

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import MAX_NOTE, MAX_NOTES, Note
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, Object, OperatorKilledError, Run, failing, stamp

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")
NO_ENCODINGS = """\
Fatal Python error: init_fs_encoding: failed to get the Python codec of the filesystem encoding
Python runtime state: core initialized
ModuleNotFoundError: No module named 'encodings'

Current thread 0x00007f8d045cfb80 (most recent call first):
  <no Python frame>
"""
QUOTED = (
    "ended with exit code 1: Fatal Python error: init_fs_encoding: failed to get the Python codec of the filesystem "
    "encoding; ModuleNotFoundError: No module named 'encodings'."
)
NOTED = f"PrepareFailed: attempt 1: {QUOTED}"


def made() -> Cluster:
    cluster = Cluster.of(BASE.build(), ("models", "store"))
    cluster.prepare = lambda config: Run(milliseconds=60_000)
    return cluster


def running(cluster: Cluster) -> Object:
    """The pod of the attempt under way."""

    def found(c: Cluster) -> list[Object]:
        return [p for p in c.pods.values() if p["status"]["phase"] == "Running" and p not in c.serving]

    cluster.run_until(lambda c: bool(found(c)))
    return found(cluster)[0]


def crash(cluster: Cluster, log: str = NO_ENCODINGS, exit_code: int = 1) -> Object:
    pod = running(cluster)
    cluster.crash(pod, exit_code, "Error", log)
    cluster.step()
    cluster.reconcile()
    return pod


def remove_pods(cluster: Cluster) -> None:
    for pod in cluster.pods.values():
        cluster.kill_pod(pod)
    cluster.run(2)
    assert not cluster.pods


def notes(cluster: Cluster) -> tuple[str, ...]:
    return cluster.status.starts[0].notes


def attempts(*runs: Run) -> Cluster:
    """As many attempts as runs, and then one under way."""
    cluster = Cluster.of(BASE.build(), ("models", "store"))
    left = iter(runs)
    by_attempt: dict[str, Run] = {}

    def prepare(config: WorkerConfig) -> Run:
        name = cluster.live_jobs[-1]["metadata"]["name"]
        if name not in by_attempt:
            by_attempt[name] = next(left, Run(milliseconds=10**9))
        return by_attempt[name]

    cluster.prepare = prepare
    for number in range(1, len(runs) + 1):
        cluster.run_until(lambda c: has_failed(c, number))  # noqa: B023 - called at once
        cluster.annotate(names.ANNOTATION_RETRY, str(number))
    running(cluster)
    cluster.run(3)
    return cluster


def has_failed(cluster: Cluster, attempt: int) -> bool:
    return f"Attempt {attempt} failed" in cluster.condition(ConditionType.ARTIFACTS_READY).message


def test_the_latest_attempt_is_reported_with_a_command_that_works() -> None:
    cluster = made()
    pod = crash(cluster)
    assert cluster.reason() == ("False", "PrepareFailed")
    name = pod["metadata"]["name"]
    message = cluster.condition().message
    assert message.startswith(
        f"The worker in {name} {QUOTED} See `kubectl logs -n demo {name}`. Attempt 1 failed; prepare"
    )


def test_what_failed_stays_when_its_pod_has_gone_and_the_command_does_not() -> None:
    cluster = made()
    crash(cluster)
    remove_pods(cluster)
    assert cluster.reason() == ("False", "PrepareFailed")
    assert QUOTED in (message := cluster.condition().message)
    assert "kubectl" not in message
    cluster.run(5)
    assert cluster.condition().message == message


@pytest.mark.parametrize("is_pod_there", [True, False])
def test_a_note_keeps_it_while_the_next_attempt_runs(is_pod_there: bool) -> None:
    cluster = made()
    crash(cluster)
    if not is_pod_there:
        remove_pods(cluster)
    running(cluster)
    cluster.run(3)
    assert cluster.reason() == ("Unknown", "Preparing")
    assert notes(cluster) == (NOTED,)
    assert [note.reason for note in cluster.recorded_events if "init_fs_encoding" in note.note] == ["PrepareFailed"]
    cluster.prepare = lambda config: Run()
    cluster.run_until_ready()
    assert notes(cluster) == (NOTED,)


def test_a_kill_of_the_operator_between_two_writes_loses_no_note() -> None:
    cluster = made()
    crash(cluster)
    cluster.annotate(names.ANNOTATION_RETRY, "now")
    for passes in range(6):
        for writes in range(4):
            other = copy.deepcopy(cluster)
            with_kill(other, passes, writes)
            assert notes(other) == (NOTED,), f"killed in pass {passes} after {writes} writes"


def with_kill(cluster: Cluster, passes: int, writes: int) -> None:
    cluster.run(passes)
    try:
        cluster.reconcile(writes)
    except OperatorKilledError:
        cluster.step()
    running(cluster)
    cluster.run(3)


def test_what_a_worker_reported_is_noted_under_its_own_reason() -> None:
    cluster = attempts(failing("ArtifactsVolumeFull", exits.NO_SPACE, "The volume is full."))
    assert notes(cluster) == ("ArtifactsVolumeFull: attempt 1: The volume is full.",)


def test_a_fault_of_the_source_stays_the_sources_when_the_pod_has_gone() -> None:
    cluster = made()
    cluster.prepare = lambda config: failing("SourceNotFound", message="There is no directory.")
    cluster.run_until(lambda c: c.reason() == ("False", "SourceNotFound"))
    before = cluster.condition(ConditionType.SOURCE_RESOLVED).message
    remove_pods(cluster)
    assert cluster.reason(ConditionType.SOURCE_RESOLVED) == ("False", "SourceNotFound")
    assert cluster.condition(ConditionType.SOURCE_RESOLVED).message == before
    cluster.prepare = lambda config: Run(milliseconds=60_000)
    running(cluster)
    cluster.run(3)
    assert notes(cluster) == ("SourceNotFound: attempt 1: There is no directory.",)


def test_attempts_that_failed_alike_share_a_note_and_the_latest_are_kept() -> None:
    full, lost = (failing(reason, exits.TRANSIENT, f"{reason}.") for reason in ("VolumeFull", "SourceUnreadable"))
    assert notes(attempts(full, full, full, lost)) == (
        "VolumeFull: attempts 1-3: VolumeFull.",
        "SourceUnreadable: attempt 4: SourceUnreadable.",
    )
    assert [note.split(": ")[1] for note in notes(attempts(lost, full, lost, full, full))] == [
        "attempt 2",
        "attempt 3",
        "attempts 4-5",
    ]


def test_notes_are_bounded_and_leave_room_for_what_the_worker_notes() -> None:
    causes = [failing("WorkerFailed", exits.TRANSIENT, f"{n}: " + "so it goes " * 100) for n in range(4)]
    cluster = attempts(*causes)
    found = notes(cluster)
    assert len(found) == MAX_NOTES - 1
    assert all(len(note) <= MAX_NOTE + len("WorkerFailed: ") for note in found)
    of_worker = tuple(Note(reason=f"ScratchTier{what}", message="It went on.") for what in ("Full", "Stale"))
    cluster.prepare = lambda config: Run()
    cluster.serve = lambda config: Run(notes=of_worker)
    cluster.run_until_ready()
    assert reasons_of(notes(cluster)) == ["WorkerFailed", "WorkerFailed", "ScratchTierFull", "ScratchTierStale"]
    assert {"ScratchTierFull", "ScratchTierStale"} <= {note.reason for note in cluster.recorded_events}


def reasons_of(found: Iterable[str]) -> list[str]:
    return [note.partition(":")[0] for note in found]


@pytest.mark.parametrize("has_report", [True, False])
def test_nobody_is_warned_of_an_attempt_that_was_asked_to_stop(has_report: bool) -> None:
    """Its node is drained, say; with a disruption of Kubernetes' own the Job makes the next pod by itself."""
    cluster = made()
    running(cluster)
    if has_report:
        cluster.prepare = lambda config: failing("Terminated", exits.TERMINATED)
        cluster.run_until(lambda c: c.reason() == ("Unknown", "Terminated"))
    else:
        crash(cluster, "", exits.TERMINATED)
    cluster.run(2)
    assert cluster.reason() == ("Unknown", "Terminated")
    pattern = r"The worker in \S+ was told to stop before it was done\. Attempt 1 failed; prepare runs again at 2026\S+"
    assert re.fullmatch(pattern, cluster.condition().message)
    remove_pods(cluster)
    assert cluster.reason() == ("Unknown", "Terminated")
    cluster.prepare = lambda config: Run()
    cluster.run_until_ready()
    assert notes(cluster) == ("Terminated: attempt 1: was told to stop before it was done.",)
    assert not [note for note in cluster.recorded_events if note.type == "Warning"]


@pytest.mark.parametrize("is_seen_to_end", [True, False])
def test_nobody_is_warned_when_somebody_deletes_a_prepare_pod(is_seen_to_end: bool) -> None:
    """It goes as soon as its Job has counted it, and may be seen for the last time while it still runs."""
    cluster = made()
    cluster.job_lag = 2
    pod = running(cluster)
    cluster.kill_pod(pod)
    if is_seen_to_end:
        cluster.crash(pod, exits.TERMINATED, "Error")
    cluster.reconcile()
    assert cluster.reason() == ("Unknown", "Terminated")
    job = cluster.live_jobs[0]
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": stamp(cluster.now)}]}
    cluster.step()
    cluster.reconcile()
    assert not cluster.pods
    assert cluster.reason() == ("Unknown", "Terminated")
    assert "Attempt 1 failed; prepare runs again at 2026" in cluster.condition().message


def test_why_a_deleted_pod_stopped_is_known_while_its_job_has_not_failed_yet() -> None:
    cluster = made()
    cluster.job_lag = 3
    pod = running(cluster)
    cluster.crash(pod, exits.TERMINATED, "Error")
    cluster.reconcile()
    cluster.pods.clear()
    cluster.reconcile()
    assert cluster.reason() == ("Unknown", "Terminated")
    job = cluster.live_jobs[0]
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": stamp(cluster.now)}]}
    cluster.reconcile()
    assert cluster.reason() == ("Unknown", "Terminated")
    cluster.prepare = lambda config: Run()
    cluster.run_until_ready()
    assert notes(cluster) == ("Terminated: attempt 1: was told to stop before it was done.",)


def test_a_spec_that_is_mended_begins_without_notes_of_what_was_wrong_before() -> None:
    cluster = made()
    crash(cluster)
    cluster.edit("compile.sequenceLength", 1024)
    running(cluster)
    cluster.run(3)
    assert notes(cluster) == ()
