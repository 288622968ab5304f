"""Which starts there are, what began them, and where each of their seconds went."""

import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import PhaseReport, Progress, Stage, State
from neuronmodel_api.status import CacheResult, Cause, Outcome, RecordedPhase, WorkerProgress
from neuronmodel_operator.state.observed import Observed
from neuronmodel_operator.status.starts import KEPT_ATTEMPTS
from tests import crd
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, Object, OperatorKilledError, Run, component, failing

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")
SHARED = ("ReadWriteMany",)


def made(replicas: int = 1, **behaviour: object) -> Cluster:
    cluster = Cluster.of(BASE.with_serving(replicas=replicas).build(), ())
    for claim in ("models", "store"):
        cluster.add_claim(claim, *SHARED)
    for name, value in behaviour.items():
        setattr(cluster, name, value)
    return cluster


def phase(cluster: Cluster, name: str) -> RecordedPhase | None:
    return next((found for found in cluster.status.starts[0].phases if found.name == name), None)


def test_the_worker_follows_as_soon_as_the_container_of_prepare_has_ended() -> None:
    """The Job says so only seconds later."""
    cluster, prompt = made(job_lag=8), made()
    cluster.run_until_ready()
    prompt.run_until_ready()
    assert phase(cluster, "HandedOver") == phase(prompt, "HandedOver")
    made_jobs = [line for line in cluster.log if line.startswith("create Job")]
    cluster.run(30)
    assert [line for line in cluster.log if line.startswith("create Job")] == made_jobs
    assert cluster.reason() == ("True", "Serving")


def test_a_job_that_fails_after_its_container_ended_well_is_not_run_again() -> None:
    cluster = made(job_lag=10**6)
    cluster.run_until_ready()
    (job,) = cluster.live_jobs
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": "2026-03-01T12:00:30Z"}]}
    written = len(cluster.log)
    cluster.run(30)
    assert cluster.log[written:] == []


def test_a_change_that_begins_no_start_leaves_the_open_one_as_it_is() -> None:
    cluster = made()
    del cluster.claims["models"]
    cluster.run(5)
    (before,) = cluster.status.starts
    cluster.edit("artifacts.retention", "Delete")
    cluster.run(5)
    cluster.edit("serving.startTimeoutSeconds", 60)
    cluster.run(5)
    (after,) = cluster.status.starts
    assert (after.cause, after.started_at, after.outcome) == (Cause.CREATED, before.started_at, Outcome.RUNNING)
    cluster.edit("parallelism.tensorParallelDegree", 2)
    cluster.run(5)
    assert [start.cause for start in cluster.status.starts] == [Cause.SPEC_CHANGED, Cause.CREATED]


def test_a_change_that_was_observed_twice_is_one_start() -> None:
    """Its Deployment was written, but the answer, or the status after it, was lost."""
    cluster = made()
    cluster.run_until_ready()
    cluster.edit("serving.replicas", 0)
    cluster.run(10)
    cluster.edit("serving.replicas", 1)
    first = cluster.plan()
    cluster.step(2)
    second = cluster.plan()
    assert second.status is not None
    cluster._write_status(second.status)
    for manifest in first.apply:
        cluster._apply(manifest)
    cluster.step()
    cluster.run_until_ready()
    cluster.run(10)
    assert [start.cause for start in cluster.status.starts] == [Cause.SPEC_CHANGED, Cause.CREATED]


def test_every_replica_has_its_start_though_all_were_made_in_one_second() -> None:
    cluster = made(replicas=3)
    cluster.run_until(lambda c: len(ready_starts(c)) == 3)
    cluster.step(10)
    for pod in cluster.serving:
        cluster.kill_pod(pod)
    cluster.run(30)
    starts = cluster.status.starts[:3]
    assert {start.cause for start in starts} == {Cause.POD_REPLACED}
    assert {start.pod_name for start in starts} == {pod["metadata"]["name"] for pod in cluster.serving}
    assert {start.outcome for start in starts} == {Outcome.READY}


def ready_starts(cluster: Cluster) -> list[str]:
    return [start.id for start in cluster.status.starts if start.outcome is Outcome.READY]


def test_more_replicas_than_starts_are_kept_come_to_rest() -> None:
    cluster = made(replicas=8)
    cluster.run_until(lambda c: len(c.serving) == 8 and len(ready_starts(c)) == 5)
    cluster.run(10)
    written = len(cluster.log)
    cluster.run(20)
    assert cluster.log[written:] == []
    assert cluster.condition().message == "8 of 8 workers answer."


def test_one_replica_that_is_refused_is_reported_while_the_other_answers() -> None:
    cluster = made(replicas=2)

    def one_alone(pod: Object) -> str | None:
        return "exceeded quota: small" if component(pod) == names.COMPONENT_SERVE and cluster.serving else None

    cluster.admission = one_alone
    cluster.run_until_ready()
    ready = cluster.serving[0]["metadata"]["uid"]
    cluster.settings = replace(cluster.settings, worker_images=dict.fromkeys(cluster.settings.worker_images, "new:2"))
    cluster.run(70)
    assert cluster.condition().message == "1 of 2 workers answer."
    assert [pod["metadata"]["uid"] for pod in cluster.serving] == [ready], "an upgrade restarts nobody who answers"
    cluster.admission = lambda pod: None
    cluster.run_until(lambda c: c.condition().message == "2 of 2 workers answer.", steps=60)


def test_a_node_whose_clock_is_ahead_makes_no_start_longer_than_it_was() -> None:
    cluster = made()
    cluster.run_until(lambda c: bool(c.serving) and c.serving[0]["status"]["phase"] == "Running")
    uid = cluster.serving[0]["metadata"]["uid"]
    cluster.reports[uid] = cluster.reports[uid].model_copy(
        update={"started_at": cluster.reports[uid].started_at + timedelta(minutes=5)}
    )
    cluster.serve = lambda config: Run(milliseconds=-(10**9))
    cluster.run_until_ready()
    (start,) = cluster.status.starts
    assert start.ready_at is not None
    assert start.ready_at <= cluster.now
    assert sum(found.milliseconds for found in start.phases) == start.total_milliseconds


# What the columns show.


def test_load_and_cache_are_of_one_start() -> None:
    """A second start that built nothing was a hit, whatever the latest prepare had to build."""
    cluster = made(prepare=lambda config: Run(builds="Built."))
    cluster.run_until(lambda c: bool(c.status.starts and c.status.starts[0].cache))
    assert (cluster.status.last_load, cluster.status.last_cache) == (None, CacheResult.MISS), "of the one under way"
    cluster.run_until_ready()
    first = cluster.status.last_load
    assert (first is not None, cluster.status.last_cache) == (True, CacheResult.MISS)
    cluster.kill_pod(cluster.serving[0])
    cluster.step()
    cluster.run_until(lambda c: c.status.starts[0].outcome is Outcome.RUNNING)
    assert (cluster.status.last_load, cluster.status.last_cache) == (first, CacheResult.MISS), "not of one under way"
    cluster.run_until_ready()
    assert cluster.status.last_cache is CacheResult.HIT
    assert cluster.status.last_load != first
    assert cluster.status.artifacts is not None
    assert cluster.status.artifacts.cache is CacheResult.MISS


def test_a_start_for_which_something_was_rebuilt_is_no_hit_whatever_began_it() -> None:
    cluster = made(prepare=lambda config: Run(builds="Built."))
    cluster.run_until_ready()
    damaged = Run(failing("ArtifactDamaged", exits.ARTIFACT_DAMAGED).failure, exits.ARTIFACT_DAMAGED)
    jobs = len(cluster.log)
    cluster.serve = lambda config: (
        Run() if any(line.startswith("create Job") for line in cluster.log[jobs:]) else damaged
    )
    cluster.kill_pod(cluster.serving[0])
    cluster.step()
    cluster.run_until_ready()
    assert cluster.status.starts[0].cause is Cause.POD_REPLACED
    assert cluster.status.starts[0].cache is cluster.status.last_cache is CacheResult.MISS


def test_a_start_that_was_prepared_while_the_operator_was_away_is_no_hit() -> None:
    """Killed after the Deployment was applied and before the status that would have had the phases of prepare."""
    cluster = made(prepare=lambda config: Run(builds="Built."))
    cluster.run_until(lambda c: bool(c.live_jobs))
    assert not cluster.status.starts[0].phases
    cluster.step(10)
    cluster.step(10)
    while not cluster.serving:
        with suppress(OperatorKilledError):
            cluster.reconcile(writes=len(cluster.plan().apply) + len(cluster.plan().create))
        cluster.step()
    assert Stage.PREPARE not in {recorded.stage for recorded in cluster.status.starts[0].phases}
    while not any(condition["type"] == "Ready" for condition in cluster.serving[0]["status"]["conditions"]):
        cluster.step(10)
    cluster.run_until_ready()
    assert cluster.status.starts[0].cache is cluster.status.last_cache is CacheResult.MISS


def test_a_report_that_comes_after_the_start_is_over_completes_its_phases() -> None:
    """Nobody could ask the worker for longer than one that is ready is waited for."""
    prompt, late = made(), made()
    prompt.run_until_ready()
    late.run_until(lambda c: bool(c.serving))
    late.nobody_is_heard = True
    late.run_until_ready()
    (before,) = late.status.starts
    assert (before.outcome, before.tier) == (Outcome.READY, None)
    late.nobody_is_heard = False
    late.run(2)
    (after,) = late.status.starts
    assert [found.name for found in after.phases if found.name in OF_WORKER] == [
        found.name for found in prompt.status.starts[0].phases if found.name in OF_WORKER
    ]
    assert after.tier == prompt.status.starts[0].tier
    assert (after.ready_at, after.total_milliseconds) == (before.ready_at, before.total_milliseconds)
    assert sum(found.milliseconds for found in after.phases) == after.total_milliseconds
    written = len(late.log)
    late.run(20)
    assert late.log[written:] == []


OF_WORKER = ("SourceOpened", "Read", "Sharded")


def test_load_and_cache_outlive_the_start_that_they_are_of() -> None:
    cluster = made()
    cluster.run_until_ready()
    before = cluster.status.last_load, cluster.status.last_cache
    cluster.serve = lambda config: failing("WorkerFailed", exits.FAILED)
    cluster.crash(cluster.serving[0])
    cluster.run(60)
    assert {start.outcome for start in cluster.status.starts} <= {Outcome.FAILED, Outcome.RUNNING}
    assert (cluster.status.last_load, cluster.status.last_cache) == before


def test_a_status_of_an_earlier_version_is_read_and_reported_in_full() -> None:
    cluster = made()
    cluster.run_until_ready()
    written = cluster.status
    del cluster.model["status"]["lastCache"]
    cluster.reconcile()
    assert cluster.status == written


# Progress.


def progress(cluster: Cluster, done: int) -> WorkerProgress | None:
    """After a pass, of a phase that has come so far, in percent."""
    uid = cluster.serving[0]["metadata"]["uid"]
    report = cluster.reports[uid]
    moved = Progress(phase="Read", started_at=report.started_at, done=done, total=100)
    cluster.reports[uid] = report.model_copy(update={"progress": moved})
    cluster.reconcile()
    (worker,) = [worker for worker in cluster.status.workers if worker.stage == "Serve"]
    return worker.progress


@pytest.mark.parametrize(
    ("seconds", "done", "percent"),
    [(29, 50, 0), (31, 4, 0), (31, 5, 5), (600, 4, 0), (31, 100, 100)],
    ids=["too soon", "too little", "enough", "too little for ever", "done"],
)
def test_progress_is_written_every_thirty_seconds_and_after_five_percent(seconds: int, done: int, percent: int) -> None:
    cluster = made(serve=lambda config: Run(milliseconds=10**9))
    cluster.run_until(lambda c: bool(c.serving) and c.serving[0]["status"]["phase"] == "Running")
    first = progress(cluster, 0)
    assert first is not None
    assert first.percent == 0
    cluster.now += timedelta(seconds=seconds)
    written = len(cluster.log)
    found = progress(cluster, done)
    assert found is not None
    assert found.percent == percent
    assert len(cluster.log) - written == (1 if percent else 0)


def test_another_phase_is_written_at_once() -> None:
    cluster = made(serve=lambda config: Run(milliseconds=10**9))
    cluster.run_until(lambda c: bool(c.serving) and c.serving[0]["status"]["phase"] == "Running")
    before = cluster.status.workers[0].progress
    found = progress(cluster, 3)
    assert before is not None
    assert found is not None
    assert (before.phase, found.phase) == ("SourceOpened", "Read")


def at_work(pod: Object, cluster: Cluster, phase: str, done: int | None) -> None:
    uid = pod["metadata"]["uid"]
    report = cluster.reports[uid]
    total = None if done is None else 100
    moved = Progress(phase=phase, started_at=report.started_at, done=done or 0, total=total)
    cluster.reports[uid] = report.model_copy(update={"progress": moved})


def test_the_column_shows_the_worker_that_is_least_far() -> None:
    cluster = made(replicas=2, serve=lambda config: Run(milliseconds=10**9))
    assert cluster.plan().status.progress is None  # type: ignore[union-attr]
    cluster.run_until(lambda c: [p["status"]["phase"] for p in c.serving] == ["Running", "Running"])
    one, other = cluster.serving
    at_work(one, cluster, "Read", 45)
    at_work(other, cluster, "Read", 30)
    cluster.reconcile()
    assert cluster.status.progress == "Read 30%"
    at_work(other, cluster, "WarmedUp", None)
    uid = other["metadata"]["uid"]
    read = PhaseReport(name="Read", started_at=cluster.now, milliseconds=1)
    cluster.reports[uid] = cluster.reports[uid].model_copy(update={"phases": (read,)})
    cluster.reconcile()
    assert cluster.status.progress == "Read 45%"
    cluster.kill_pod(one)
    cluster.reconcile()
    assert cluster.status.progress == "WarmedUp", "how much of it is done is not known"
    cluster.crash(other)
    cluster.reconcile()
    assert cluster.status.progress is None


def test_the_column_shows_prepare_though_kubernetes_calls_its_pod_ready() -> None:
    cluster = made(prepare=lambda config: Run(milliseconds=10**9))
    cluster.run_until(lambda c: [pod["status"]["phase"] for pod in c.pods.values()] == ["Running"])
    (pod,) = cluster.pods.values()
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-03-01T12:00:03Z"}
    pod["status"]["conditions"].append(ready)
    at_work(pod, cluster, "Sharded", 45)
    cluster.now += timedelta(seconds=31)
    cluster.reconcile()
    assert cluster.status.progress == "Sharded 45%"


def test_the_column_is_empty_when_nothing_is_at_work() -> None:
    cluster = made()
    cluster.run_until_ready()
    assert cluster.status.progress is None


def test_the_column_moves_when_the_workers_progress_does() -> None:
    cluster = made(serve=lambda config: Run(milliseconds=10**9))
    cluster.run_until(lambda c: bool(c.serving) and c.serving[0]["status"]["phase"] == "Running")
    progress(cluster, 0)
    for seconds, shown in ((29, "Read 0%"), (2, "Read 60%")):
        cluster.now += timedelta(seconds=seconds)
        progress(cluster, 60)
        assert cluster.status.progress == shown


def test_workers_that_turn_down_what_was_prepared_again_and_again_do_not_fill_the_status() -> None:
    cluster = made()
    cluster.serve = lambda config: failing("ArtifactDamaged", exits.ARTIFACT_DAMAGED, "It is damaged.")
    cluster.run(400, seconds=60)
    (start,) = cluster.status.starts
    turned_down = {phase.attempt for phase in start.phases if phase.stage is Stage.SERVE}
    assert max(turned_down) > KEPT_ATTEMPTS
    starts = crd.schema_of(crd.definition())["properties"]["status"]["properties"]["starts"]
    assert len(start.phases) <= starts["items"]["properties"]["phases"]["maxItems"]


@pytest.mark.parametrize("seed", range(40))
def test_a_worker_that_restarts_after_it_turned_down_what_was_prepared_leaves_no_gap(seed: int) -> None:
    """Its container runs again before the operator looks, and its report is there only at times."""
    chance = random.Random(seed)
    cluster = made(prepare=lambda config: Run(milliseconds=chance.choice([300, 1500, 4000])))
    cluster.run_until_ready()
    before, observe = set(cluster.jobs), cluster.observe

    def serve(config: WorkerConfig) -> Run:
        jobs = [job for uid, job in cluster.jobs.items() if uid not in before]
        if any(job.get("status", {}).get("conditions") for job in jobs):
            return Run(milliseconds=2000)
        return failing("ArtifactDamaged", exits.ARTIFACT_DAMAGED, "It is damaged.")

    def observe_in_part() -> Observed:
        observed = observe()
        answers = {
            uid: report
            for uid, report in observed.reports.items()
            if report.state is not State.RUNNING or chance.random() < 0.5
        }
        return replace(observed, reports=answers)

    cluster.serve, cluster.observe = serve, observe_in_part  # type: ignore[method-assign]
    first, looks = cluster.status.starts[0].id, chance.choice([1.0, 0.5, 0.2, 0.1])
    cluster.kill_pod(cluster.serving[0])
    while (start := cluster.status.starts[0]).outcome != "Ready" or start.id == first:
        cluster.step(chance.choice([0.05, 0.3, 0.7, 1.0]))
        if chance.random() < looks:
            cluster.reconcile()
    assert sum(phase.milliseconds for phase in start.phases) == start.total_milliseconds
    assert [phase for phase in start.phases if phase.name == "Unaccounted"] == []
