"""Time in which somebody had to mend something is a phase of its own, and in no figure of how long loading takes."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.phases import WITHOUT_POD, StartPhase
from neuronmodel_api.report import Stage
from neuronmodel_api.status import Cause, Outcome, RecordedPhase, Start
from neuronmodel_operator.decide.auto_history import history
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.observed import Refusal
from neuronmodel_operator.status.blocked import KEPT_STRETCHES
from neuronmodel_operator.status.starts import KEPT_ATTEMPTS, KEPT_STARTS, MAX_PHASES
from neuronmodel_operator.status.timeline import OF_KUBERNETES, load_milliseconds
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, Object, OperatorKilledError, Run, component, failing

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store").with_field("spec.scratch", {"emptyDir": {}})
SECOND = timedelta(seconds=1)
QUOTA = "exceeded quota: small"
Act = Callable[[Cluster], object]


def made(**behaviour: object) -> Cluster:
    cluster = Cluster.of(BASE.build(), ("models", "store"))
    for name, value in behaviour.items():
        setattr(cluster, name, value)
    return cluster


def of(start: Start, name: str = StartPhase.BLOCKED) -> list[RecordedPhase]:
    return [phase for phase in start.phases if phase.name == name]


def milliseconds(phases: Iterable[RecordedPhase]) -> int:
    return sum(phase.milliseconds for phase in phases)


def newest(cluster: Cluster) -> Start:
    return cluster.status.starts[0]


def seconds_of_load(cluster: Cluster) -> float:
    assert cluster.status.last_load is not None
    return float(cluster.status.last_load.removesuffix("s"))


def assert_adds_up(start: Start) -> None:
    cursor = start.started_at
    for phase in start.phases:
        assert phase.started_at == cursor
        cursor += timedelta(milliseconds=phase.milliseconds)
    if start.total_milliseconds is not None:
        assert milliseconds(start.phases) == start.total_milliseconds
    assert len(start.phases) <= MAX_PHASES


# What somebody has to mend.


def of_component(wanted: str, message: str) -> Callable[[Object], str | None]:
    return lambda pod: message if component(pod) == wanted else None


def waiting(wanted: str, reason: str) -> Callable[[Object], Object | None]:
    return lambda pod: {"reason": reason, "message": "It can't."} if component(pod) == wanted else None


def refused(kind: str, message: str) -> Callable[[Object], Refusal | None]:
    def answer(manifest: Object) -> Refusal | None:
        name = manifest["metadata"]["name"]
        return Refusal(kind, name, "Forbidden", message) if manifest["kind"] == kind else None

    return answer


@dataclass(frozen=True)
class Blocker:
    """What keeps a start from going on until somebody fixes it."""

    begin: Act
    end: Act
    reason: str
    stage: Stage


def behaviour(name: str, blocker: object) -> tuple[Act, Act]:
    unblocked = getattr(Cluster.of(BASE.build()), name)
    return lambda cluster: setattr(cluster, name, blocker), lambda cluster: setattr(cluster, name, unblocked)


def lost_claim(name: str) -> tuple[Act, Act]:
    return lambda cluster: cluster.claims.pop(name), lambda cluster: cluster.add_claim(name)


PREPARE, SERVE = names.COMPONENT_PREPARE, names.COMPONENT_SERVE
BLOCKERS = {
    "no source claim": Blocker(*lost_claim("models"), "SourceClaimMissing", Stage.PREPARE),
    "no artifacts claim": Blocker(*lost_claim("store"), "ArtifactsClaimMissing", Stage.PREPARE),
    "no image": Blocker(*behaviour("settings", Settings(worker_images={})), "NoImage", Stage.PREPARE),
    "the Job's pod is over quota": Blocker(
        *behaviour("admission", of_component(PREPARE, QUOTA)), "QuotaExceeded", Stage.PREPARE
    ),
    "the Job's pod is insecure": Blocker(
        *behaviour("admission", of_component(PREPARE, 'violates PodSecurity "restricted:latest"')),
        "PodSecurityRefused",
        Stage.PREPARE,
    ),
    "the worker's pod is over quota": Blocker(
        *behaviour("admission", of_component(SERVE, QUOTA)), "QuotaExceeded", Stage.SERVE
    ),
    "the Job is refused": Blocker(
        *behaviour("answer_to_write", refused("Job", "denied by a policy")), "WriteRefused", Stage.PREPARE
    ),
    "the Deployment is refused": Blocker(
        *behaviour("answer_to_write", refused("Deployment", "denied by a policy")), "WriteRefused", Stage.SERVE
    ),
    "the Job's image is not there": Blocker(
        *behaviour("kubelet", waiting(PREPARE, "ImagePullBackOff")), "ImagePullFailed", Stage.PREPARE
    ),
    "the worker's image is not there": Blocker(
        *behaviour("kubelet", waiting(SERVE, "ErrImagePull")), "ImagePullFailed", Stage.SERVE
    ),
    "the Secret has no such key": Blocker(
        *behaviour("kubelet", waiting(SERVE, "CreateContainerConfigError")), "ContainerRefused", Stage.SERVE
    ),
}


@pytest.mark.parametrize("blocker", BLOCKERS.values(), ids=BLOCKERS.keys())
def test_waiting_for_somebody_is_a_phase_and_not_in_load(blocker: Blocker) -> None:
    unblocked, cluster = made(), made()
    unblocked.run_until_ready()
    blocker.begin(cluster)
    cluster.run(70)
    assert cluster.reason() == ("False", blocker.reason)
    (lasting,) = of(newest(cluster))
    assert (lasting.milliseconds, lasting.reason) == (0, blocker.reason)
    written = len(cluster.log)
    cluster.run(20)
    assert "status" not in cluster.log[written:], "the status is not written while nothing happens"
    blocker.end(cluster)
    cluster.run_until_ready()
    (start,) = cluster.status.starts
    assert_adds_up(start)
    (blocked,) = of(start)
    assert (blocked.stage, blocked.attempt, blocked.reason) == (blocker.stage, 1, blocker.reason)
    assert load_milliseconds(start) == (start.total_milliseconds or 0) - blocked.milliseconds
    assert cluster.status.last_load == f"{(load_milliseconds(start) or 0) / 1000:.1f}s"
    assert abs(seconds_of_load(cluster) - seconds_of_load(unblocked)) <= 2
    assert not of(start, "Unaccounted")
    (message,) = [note.note for note in cluster.recorded_events if note.reason == "Ready"]
    assert message.startswith(f"Loaded in {seconds_of_load(cluster)} s")
    assert message.endswith(f"Not counted: {blocked.milliseconds / 1000:.1f} s Blocked ({blocker.reason}).")


def test_one_thing_after_another_to_fix_is_reported_one_after_another() -> None:
    cluster = made()
    source, artifacts = BLOCKERS["no source claim"], BLOCKERS["no artifacts claim"]
    source.begin(cluster)
    cluster.run(20)
    artifacts.begin(cluster)
    cluster.run(5)
    source.end(cluster)
    cluster.run(30)
    artifacts.end(cluster)
    cluster.run_until_ready()
    phases = [(phase.reason, phase.milliseconds) for phase in of(newest(cluster))]
    assert phases == [("SourceClaimMissing", 25_000), ("ArtifactsClaimMissing", 30_000)]
    assert_adds_up(newest(cluster))


def test_what_recurs_is_reported_again() -> None:
    cluster = made()
    blocker = BLOCKERS["no source claim"]
    cluster.can_schedule = lambda pod: "no node"
    for _ in range(2):
        blocker.begin(cluster)
        cluster.run(30)
        blocker.end(cluster)
        cluster.run(10)
    cluster.can_schedule = lambda pod: None
    cluster.run_until_ready()
    (start,) = cluster.status.starts
    assert [phase.milliseconds for phase in of(start)] == [30_000, 30_000]
    assert_adds_up(start)
    assert milliseconds(of(start, "Queued")) > 10_000, "waiting for a node is no waiting for somebody"


def test_a_node_that_may_come_by_itself_is_waited_for_in_queued() -> None:
    cluster = made(can_schedule=lambda pod: "0/1 nodes are available: 1 Insufficient memory.")
    cluster.run(60)
    assert cluster.reason() == ("False", "Unschedulable")
    cluster.can_schedule = lambda pod: None
    cluster.run_until_ready()
    assert not of(newest(cluster))
    assert load_milliseconds(newest(cluster)) == newest(cluster).total_milliseconds
    assert milliseconds(of(newest(cluster), "Queued")) > 50_000


def test_the_pauses_between_failed_attempts_are_in_no_load_either() -> None:
    cluster = made(prepare=lambda config: failing("ConfigMissing"))
    cluster.run(80)
    cluster.prepare = lambda config: Run(builds="Built.")
    cluster.run_until_ready()
    start = newest(cluster)
    paused = milliseconds(of(start, "BackedOff"))
    assert paused > 60_000
    assert not of(start)
    assert load_milliseconds(start) == (start.total_milliseconds or 0) - paused
    (message,) = [note.note for note in cluster.recorded_events if note.reason == "Ready"]
    assert message.endswith(f"Not counted: {paused / 1000:.1f} s BackedOff.")


def test_what_was_fixed_before_many_attempts_failed_is_still_reported() -> None:
    cluster = made(prepare=lambda config: failing("ConfigMissing"))
    BLOCKERS["no source claim"].begin(cluster)
    cluster.run(30)
    BLOCKERS["no source claim"].end(cluster)
    cluster.run(600, seconds=10)
    start = newest(cluster)
    assert len({phase.attempt for phase in start.phases if phase.name == "Queued"}) == KEPT_ATTEMPTS
    assert max(phase.attempt for phase in start.phases) > KEPT_ATTEMPTS
    assert milliseconds(of(start)) == 30_000
    assert_adds_up(start)


def test_a_worker_at_work_is_not_blocked_by_what_else_has_to_be_mended() -> None:
    cluster = made(prepare=lambda config: Run(milliseconds=30_000))
    cluster.answer_to_write = refused("Service", "denied by a policy")
    cluster.run(25)
    assert cluster.reason() == ("False", "WriteRefused")
    cluster.run(40)
    cluster.answer_to_write = lambda manifest: None
    cluster.run_until_ready()
    start = newest(cluster)
    assert milliseconds(of(start, "Sharded")) == 15_000
    assert milliseconds(of(start, "SourceOpened")) >= 15_000
    assert_adds_up(start)


def test_auto_learns_the_same_from_a_start_that_waited() -> None:
    unblocked, cluster = made(), made()
    blocker = BLOCKERS["the Secret has no such key"]
    blocker.begin(cluster)
    cluster.run(60)
    blocker.end(cluster)
    for each in (unblocked, cluster):
        each.run_until_ready()
    learnt = [history(Situation(each.observe(), each.now, each.settings)) for each in (unblocked, cluster)]
    assert learnt[0] == learnt[1]
    assert learnt[0].read_bytes_per_second


# Changes of the spec.


def test_a_change_that_mends_it_ends_the_start_that_waited_and_begins_one() -> None:
    cluster = made()
    blocker = BLOCKERS["the Job's image is not there"]
    blocker.begin(cluster)
    cluster.run(40)
    blocker.end(cluster)
    cluster.edit("worker.image", "mended:1")
    cluster.run_until_ready()
    after, before = cluster.status.starts
    assert (before.outcome, before.reason, before.cause) == (Outcome.FAILED, "Superseded", Cause.CREATED)
    assert [phase.name for phase in before.phases] == ["Reconciled", "Queued", "Starting", "Blocked"]
    assert milliseconds(of(before)) > 30_000
    assert milliseconds(of(after)) <= 1_000, "until the former Job was seen to go"
    for start in (after, before):
        assert_adds_up(start)


def test_a_change_that_does_not_mend_it_waits_in_its_own_start() -> None:
    cluster = made()
    BLOCKERS["no source claim"].begin(cluster)
    cluster.run(20)
    cluster.edit("parallelism.tensorParallelDegree", 2)
    cluster.run(30)
    BLOCKERS["no source claim"].end(cluster)
    cluster.run_until_ready()
    after, before = cluster.status.starts
    assert (milliseconds(of(before)), milliseconds(of(after))) == (20_000, 30_000)
    for start in (after, before):
        assert_adds_up(start)


def test_a_start_that_never_got_a_pod_says_what_it_waited_for() -> None:
    cluster = made()
    BLOCKERS["no image"].begin(cluster)
    cluster.run(30)
    cluster.edit("suspend", True)
    cluster.run(5)
    (start,) = cluster.status.starts
    assert (start.outcome, start.reason) == (Outcome.FAILED, "Stopped")
    assert [(phase.name, phase.reason) for phase in start.phases] == [("Reconciled", None), ("Blocked", "NoImage")]
    assert_adds_up(start)


def test_a_pod_that_is_made_again_over_quota_waits_before_its_start() -> None:
    """Which begins with the pod."""
    cluster = made()
    cluster.run_until_ready()
    BLOCKERS["the worker's pod is over quota"].begin(cluster)
    cluster.kill_pod(cluster.serving[0])
    cluster.run(60)
    assert cluster.reason() == ("False", "QuotaExceeded")
    BLOCKERS["the worker's pod is over quota"].end(cluster)
    cluster.run_until_ready()
    start = newest(cluster)
    assert start.cause is Cause.POD_REPLACED
    assert not of(start)
    assert seconds_of_load(cluster) < 10


# Memory.


@pytest.mark.parametrize("kill_at", range(8))
def test_an_operator_that_is_killed_at_any_write_tells_the_same(kill_at: int) -> None:
    cluster = made()
    blocker = BLOCKERS["no source claim"]
    blocker.begin(cluster)
    left = kill_at
    for act in (None, blocker.end):
        if act:
            act(cluster)
        for _ in range(4):
            try:
                cluster.reconcile(writes=left)
            except OperatorKilledError:
                left = 1_000
            cluster.step(5)
        left = kill_at
    cluster.run_until_ready()
    (start,) = cluster.status.starts
    assert_adds_up(start)
    (blocked,) = of(start)
    assert 15_000 <= blocked.milliseconds <= 25_000


def forget(cluster: Cluster, *, phases: bool) -> None:
    """As another version of operator or definition leaves the status."""
    for start in cluster.model["status"]["starts"]:
        start["phases"] = [p for p in start["phases"] if not phases or p["name"] != StartPhase.BLOCKED]
        for phase in start["phases"]:
            phase.pop("reason", None)
    for name in ("lastCache", "progress"):
        cluster.model["status"].pop(name, None)


@pytest.mark.parametrize("phases", [True, False], ids=["a former operator", "a former definition"])
def test_what_another_version_wrote_is_gone_on_with(phases: bool) -> None:
    cluster = made()
    blocker = BLOCKERS["the Secret has no such key"]
    blocker.begin(cluster)
    cluster.run(40)
    before = milliseconds(newest(cluster).phases)
    forget(cluster, phases=phases)
    cluster.run(40)
    blocker.end(cluster)
    cluster.run_until_ready()
    (start,) = cluster.status.starts
    assert_adds_up(start)
    (blocked,) = of(start)
    assert blocked.reason == "ContainerRefused"
    assert blocked.milliseconds >= 81_000 - before
    assert seconds_of_load(cluster) < 20


def test_under_a_former_definition_no_stretch_grows_with_every_look() -> None:
    cluster = made()
    BLOCKERS["no source claim"].begin(cluster)
    cluster.run(10)
    forget(cluster, phases=False)
    cluster.reconcile()
    (before,) = cluster.status.starts
    cluster.run(20)
    assert cluster.status.starts == (before,)


def test_a_quota_that_is_full_again_and_again_does_not_fill_the_status() -> None:
    cluster = made()
    cluster.can_schedule = lambda pod: "no node"
    cluster.run(5)
    blocker = BLOCKERS["no source claim"]
    for n in range(3 * KEPT_STRETCHES):
        blocker.begin(cluster)
        cluster.run(10 + n)
        blocker.end(cluster)
        cluster.run(5)
    stretches = of(newest(cluster))
    assert len(stretches) == KEPT_STRETCHES
    assert min(phase.milliseconds for phase in stretches) == (10 + 2 * KEPT_STRETCHES) * 1000
    cluster.can_schedule = lambda pod: None
    cluster.run_until_ready()
    assert_adds_up(newest(cluster))


def lose_pods(cluster: Cluster) -> None:
    for pod in cluster.pods.values():
        cluster.kill_pod(pod)


TURBULENCE: dict[str, tuple[Act, Act]] = {
    **{name: (blocker.begin, blocker.end) for name, blocker in BLOCKERS.items() if not name.startswith("no ")},
    "source claim": (lambda c: c.claims.pop("models", None), lambda c: c.add_claim("models")),
    "artifacts claim": (lambda c: c.claims.pop("store", None), lambda c: c.add_claim("store")),
    "failing": (
        lambda c: setattr(c, "prepare", lambda config: failing("ConfigMissing")),
        lambda c: setattr(c, "prepare", lambda config: Run()),
    ),
    "damaged": (
        lambda c: setattr(c, "serve", lambda config: failing("ArtifactDamaged", exits.ARTIFACT_DAMAGED)),
        lambda c: setattr(c, "serve", lambda config: Run()),
    ),
    "degree": (
        lambda c: c.edit("parallelism.tensorParallelDegree", 2),
        lambda c: c.edit("parallelism.tensorParallelDegree", 4),
    ),
    "pods": (lose_pods, lambda c: None),
}


@dataclass
class Stopwatch:
    """How long the status reported, for a start under way, that somebody has to fix something."""

    cluster: Cluster
    since: datetime | None = None
    blocked: timedelta = timedelta(0)

    def look(self) -> None:
        """After a pass, which may have been cut off."""
        now = self.cluster.now
        self.blocked += now - self.since if self.since else timedelta(0)
        self.since = now if self.is_blocked() else None

    @property
    def milliseconds(self) -> int:
        return self.blocked // timedelta(milliseconds=1)

    def is_blocked(self) -> bool:
        starts = self.cluster.status.starts
        ready = self.cluster.status.condition(ConditionType.READY)
        reasons = {blocker.reason for blocker in BLOCKERS.values()}
        is_open = bool(starts) and starts[0].outcome is Outcome.RUNNING
        return is_open and ready is not None and ready.status == "False" and ready.reason in reasons


@pytest.mark.parametrize("seed", range(16))
def test_whatever_happens_no_time_is_blocked_twice_and_none_is_lost(seed: int) -> None:
    random_ = random.Random(seed)
    cluster = made()
    stopwatch = Stopwatch(cluster)

    def passes(num: int, *writes: int) -> None:
        for _ in range(num):
            try:
                cluster.reconcile(writes=random_.choice(writes))
            except OperatorKilledError:
                cluster.log.append("killed")
            stopwatch.look()
            cluster.step(random_.choice([0.3, 1.0, 2.5]))

    for _ in range(random_.randint(1, 6)):
        for act in TURBULENCE[random_.choice(sorted(TURBULENCE))]:
            act(cluster)
            passes(random_.randint(1, 25), 0, 1, 2, 100, 100, 100)
    while cluster.reason() != ("True", "Serving") or newest(cluster).outcome is Outcome.RUNNING:
        passes(1, 100)
    starts = cluster.status.starts
    for start in starts:
        assert_adds_up(start)
    blocked = sum(milliseconds(of(start)) for start in starts)
    assert blocked <= stopwatch.milliseconds
    if len(starts) < KEPT_STARTS:
        own = [p for start in starts for p in start.phases if p.name not in WITHOUT_POD | OF_KUBERNETES]
        assert blocked >= stopwatch.milliseconds - milliseconds(own)
