"""A worker that crashes again and again: one reason that stays, few writes, and no Event for each round."""

from dataclasses import replace

import pytest

from neuronmodel_api import exits
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Cause, Outcome
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, Run, failing

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")


def made() -> Cluster:
    return Cluster.of(BASE.build(), ("models", "store"))


@pytest.mark.parametrize("reason", ["ApiKeyInvalid", "TokenizerInvalid", "WorkerFailed"])
def test_the_reason_stays_while_a_crashing_worker_starts_again(reason: str) -> None:
    cluster = made()
    cluster.serve = lambda config: failing(reason, exits.FAILED)
    cluster.run_until(lambda c: c.reason() == ("False", reason))
    seen = set()
    for _ in range(120):
        cluster.reconcile()
        seen.add((cluster.reason(), cluster.reason(ConditionType.LOADED)))
        cluster.step()
    assert seen == {(("False", reason), ("False", reason))}
    assert [note.type for note in cluster.recorded_events if note.reason == reason] == ["Warning"]
    assert not [
        note for note in cluster.recorded_events if note.reason in ("Loading", "Resolved") and note.type == "Warning"
    ]
    cluster.serve = lambda config: Run()
    cluster.run_until_ready()
    assert cluster.reason(ConditionType.SOURCE_RESOLVED) == ("True", "Resolved")


def test_what_the_source_does_to_a_worker_is_reported_for_the_source() -> None:
    cluster = made()
    cluster.serve = lambda config: failing("TokenizerInvalid", message="tokenizer.json is garbled.")
    cluster.run_until(lambda c: c.reason() == ("False", "TokenizerInvalid"))
    assert cluster.reason(ConditionType.SOURCE_RESOLVED) == ("False", "TokenizerInvalid")
    assert cluster.reason(ConditionType.ARTIFACTS_READY) == ("True", "Prepared")
    assert "claim models" in cluster.condition(ConditionType.SOURCE_RESOLVED).message


def test_a_run_that_gets_further_than_the_one_that_crashed_is_loading_again() -> None:
    cluster = made()
    cluster.serve = lambda config: failing("WorkerFailed", exits.FAILED)
    cluster.run_until(lambda c: c.reason() == ("False", "WorkerFailed"))
    cluster.serve = lambda config: replace(Run(), milliseconds=60_000)
    cluster.run_until(lambda c: c.serving[0]["status"]["containerStatuses"][0]["restartCount"] > 0)
    plan = cluster.plan()
    assert cluster.reason() == ("False", "WorkerFailed")
    assert plan.wake_after is not None
    assert plan.wake_after.total_seconds() < 30
    cluster.run(20)
    assert cluster.reason() == ("Unknown", "Loading")
    cluster.run_until_ready()


def test_a_worker_that_crashes_after_it_served_is_loading_at_once() -> None:
    cluster = made()
    cluster.run_until_ready()
    cluster.run(30)
    cluster.crash(cluster.serving[0])
    cluster.reconcile()
    assert cluster.reason() == ("False", "WorkerCrashed")
    cluster.serve = lambda config: replace(Run(), milliseconds=8_000)
    cluster.run(3)
    assert cluster.reason() == ("Unknown", "Loading")
    cluster.run_until_ready()


def test_the_command_that_shows_the_log_is_one_that_works() -> None:
    """kubectl refuses --previous where the container has run once, and has no log of the run before the former one."""
    cluster = made()
    cluster.run_until(lambda c: c.reason() == ("Unknown", "Loading"))
    (pod,) = cluster.serving
    cluster.crash(pod, 132, "Error", "loading\n/start.sh: line 2:   17 Illegal instruction     neuronmodel serve\n")
    cluster.reconcile()
    name = pod["metadata"]["name"]
    message = cluster.condition().message
    assert "ended with exit code 132 (SIGILL): loading; /start.sh: line 2: Illegal instruction" in message
    assert f"See `kubectl logs -n demo {name}`." in message
    cluster.step()
    cluster.reconcile()
    assert f"See `kubectl logs -n demo {name} --previous`." in cluster.condition().message
    cluster.crash(pod, 1, "Error", "no\n")
    cluster.reconcile()
    assert f"no. See `kubectl logs -n demo {name}`." in cluster.condition().message


@pytest.mark.parametrize("has_report", [True, False])
def test_nobody_is_warned_of_a_worker_that_was_asked_to_stop(has_report: bool) -> None:
    cluster = made()
    cluster.serve = lambda config: failing("Terminated", exits.TERMINATED) if has_report else Run(milliseconds=60_000)
    cluster.run_until(lambda c: c.reason() == ("Unknown", "Loading"))
    if not has_report:
        cluster.crash(cluster.serving[0], exits.TERMINATED, "Error")
    cluster.run_until(lambda c: c.reason() == ("Unknown", "Terminated"), 10)
    assert "was told to stop before it was done. Kubernetes starts it again." in cluster.condition().message
    cluster.serve = lambda config: Run()
    cluster.step()
    cluster.reconcile()
    assert cluster.reason() == ("Unknown", "Loading")
    cluster.run_until_ready()
    assert [start.reason for start in cluster.status.starts] == [None, "Terminated"]
    assert not [note for note in cluster.recorded_events if note.type == "Warning"]


def test_each_round_is_a_start_that_failed_and_the_last_five_are_kept() -> None:
    cluster = made()
    cluster.serve = lambda config: failing("WorkerFailed", exits.FAILED)
    cluster.run(90)
    starts = cluster.status.starts
    assert len(starts) == 5
    failed = [start for start in starts if start.outcome is Outcome.FAILED]
    assert {(start.cause, start.reason) for start in failed} == {(Cause.CONTAINER_RESTARTED, "WorkerFailed")}
    assert len({start.id for start in starts}) == 5
    for start in failed:
        assert sum(phase.milliseconds for phase in start.phases) == start.total_milliseconds


def test_a_job_that_ends_without_a_pod_is_reported_in_whole_sentences() -> None:
    """Its pod was removed by force, say."""
    cluster = made()
    cluster.run_until(lambda c: bool(c.live_jobs))
    (job,) = cluster.live_jobs
    failed = {"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}
    job["status"] = {"conditions": [failed]}
    cluster.pods.clear()
    cluster.run(1)
    assert cluster.reason() == ("False", "PrepareFailed")
    assert "has reached the specified backoff limit. Attempt 1 failed" in cluster.condition().message
