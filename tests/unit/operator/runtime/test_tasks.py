"""The task of a NeuronModel, with time, cluster and decisions made up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.apply import PassOutcome, StatusError, StoppingError
from neuronmodel_operator.cluster.client import ApiError, Kind
from neuronmodel_operator.cluster.failed_pass import PassFailure
from neuronmodel_operator.cluster.observe import SETTLED_FRESH_SECONDS, ModelKey, Snapshot, parse_model
from neuronmodel_operator.cluster.worker_reports import Reports
from neuronmodel_operator.runtime import tasks
from neuronmodel_operator.runtime.metrics import Metrics
from neuronmodel_operator.runtime.resting import LastSeen, Rest
from neuronmodel_operator.runtime.tasks import HoldsNamespaces, Look, ModelTask, Parts, Tasks
from neuronmodel_operator.runtime.turns import Turns, Urgency
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.observed import Object, Observed, Refusal
from neuronmodel_operator.state.plan import REPORT_WHEN_READY, EventNote, Plan
from tests.unit.operator.hand_clock import HandClock, breathe

KEY = ModelKey("demo", "smol", "uid-1")


def raw_model(version: str = "1") -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": KEY.namespace,
            "name": KEY.name,
            "uid": KEY.uid,
            "generation": 1,
            "resourceVersion": version,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
            "parallelism": {"tensorParallelDegree": 1},
            "artifacts": {"template": {"size": "1Gi"}},
        },
    }


def with_status(raw: dict[str, Any]) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 1}
    return raw | {"status": {"conditions": [condition | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]}}


def snapshot(fresh_seconds: float = SETTLED_FRESH_SECONDS, version: str = "1", *, is_ready: bool = False) -> Snapshot:
    raw = with_status(raw_model(version)) if is_ready else raw_model(version)
    return Snapshot(observed=Observed(model=parse_model(raw)), raw=raw, fresh_seconds=fresh_seconds)


@dataclass
class Cluster:
    """What a task sees, and what it did."""

    looks: list[float] = field(default_factory=list)
    looked: list[Look] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)
    fresh_seconds: float = SETTLED_FRESH_SECONDS - 1
    """It does not rest, unless a test says so."""
    is_new: bool = False
    """Whether it has no status at the first look."""
    is_ready: bool = False
    carried_out: list[Plan] = field(default_factory=list)
    plan: Plan = field(default_factory=Plan)
    gone: bool = False
    errors: list[Exception] = field(default_factory=list)
    """Of the next looks."""
    write_errors: list[Exception] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    """Of the NeuronModel, in the next looks."""
    during_look: Callable[[], Awaitable[None]] | None = None
    outcome: PassOutcome | None = None
    refusals: tuple[Refusal, ...] = ()
    retry_in: float | None = None
    is_done: bool = True
    decided_on: list[Observed] = field(default_factory=list)
    decided_at: list[datetime] = field(default_factory=list)
    refuse_once: Refusal | None = None
    held: list[bool] = field(default_factory=list)
    failures: list[tuple[str, datetime]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """What the metrics were told: a reason, or that a pass went well."""
    cannot_tell: ApiError | None = None
    closed: int = 0
    clock: HandClock = field(default_factory=HandClock)

    async def look(self, how: Look) -> Snapshot | None:
        self.looks.append(self.clock.monotonic())
        self.looked.append(how)
        if self.during_look:
            await self.during_look()
        if self.errors:
            raise self.errors.pop(0)
        version = self.versions.pop(0) if self.versions else "1"
        found = snapshot(self.fresh_seconds, version, is_ready=self.is_ready)
        found = replace(found, is_new=self.is_new and how.is_first)
        return None if self.gone else found

    async def collect(self, pods: Iterable[Object], askable: frozenset[str], *, ask: bool) -> Reports:
        self.asked.append(ask)
        return Reports({}, {})

    has_answers = True
    is_confirmed = True

    async def has_news(self) -> bool:
        raise AssertionError("a task does not ask for news")

    def decide(self, observed: Observed, now: datetime) -> Plan:
        self.decided_on.append(observed)
        self.decided_at.append(now)
        return self.plan

    async def carry_out(self, plan: Plan, snapshot: Snapshot, *, hold_status: bool) -> PassOutcome:
        self.carried_out.append(plan)
        self.held.append(hold_status)
        if self.write_errors:
            raise self.write_errors.pop(0)
        if self.refuse_once is not None:
            self.refusals, self.refuse_once = (self.refuse_once,), None
            self.clock.seconds += 2
            return PassOutcome(snapshot, refusals_changed=True)
        return replace(self.outcome, snapshot=snapshot) if self.outcome else PassOutcome(snapshot)

    async def report_failure(self, failure: PassFailure, since: datetime) -> None:
        self.failures.append((failure.reason, since))
        if self.cannot_tell:
            raise self.cannot_tell

    def close(self) -> None:
        self.closed += 1

    def task(
        self,
        jitter: float = 1.0,
        leases: HoldsNamespaces | None = None,
        seen: LastSeen | None = None,
        turns: Turns | None = None,
    ) -> ModelTask:
        parts = Parts(
            look=self.look,
            reports=self,
            decide=self.decide,
            applier=self,
            saw=lambda before, model, events: self.shown.append("Done"),
            failed=lambda failure: self.shown.append(failure.reason),
        )
        return ModelTask(
            KEY,
            parts,
            clock=self.clock,
            metrics=Metrics(),
            turns=turns or Turns(1, self.clock.monotonic),
            leases=leases or Shared(held=True),
            jitter=lambda: jitter,
            seen=seen,
        )


class RecordedTurns(Turns):
    """Knows how urgently each turn was asked for."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(1, clock.monotonic)
        self.asked: list[Urgency] = []

    @asynccontextmanager
    async def turn(self, urgency: Urgency) -> AsyncIterator[None]:
        self.asked.append(urgency)
        async with super().turn(urgency):
            yield


class Running:
    """Runs a task for a test's length."""

    def __init__(self, task: ModelTask) -> None:
        self._task = task

    async def __aenter__(self) -> "asyncio.Task[Rest | None]":
        self._runner = asyncio.create_task(self._task.run())
        await breathe()
        return self._runner

    async def __aexit__(self, *_: object) -> None:
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)


def gaps(moments: Sequence[float]) -> list[float]:
    return [round(b - a, 1) for a, b in pairwise(moments)]


async def test_a_new_task_looks_at_once() -> None:
    cluster = Cluster()
    async with Running(cluster.task()):
        await cluster.clock.advance(0.2)
    assert len(cluster.looks) == 1


async def test_metrics_are_told_of_passes_that_fail_one_after_the_other() -> None:
    """Not of the first, which may be a moment's."""
    cluster = Cluster(errors=[ApiError(403, "Forbidden", "no") for _ in range(3)])
    async with Running(cluster.task()):
        await cluster.clock.advance(20)
    assert cluster.shown == ["NotPermitted", "NotPermitted", "Done"]


async def test_many_wakes_before_a_pass_are_one_pass() -> None:
    cluster = Cluster()
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(1)
        for _ in range(10):
            task.wake()
        await cluster.clock.advance(5)
    assert len(cluster.looks) == 2


async def test_a_wake_during_a_pass_is_another_pass_after_it_and_never_a_concurrent_one() -> None:
    cluster = Cluster()
    task = cluster.task()
    under_way = most = 0
    hold = asyncio.Event()

    async def slow() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await hold.wait()
        under_way -= 1

    cluster.during_look = slow
    async with Running(task):
        await cluster.clock.advance(0.2)
        task.wake()
        task.wake()
        await cluster.clock.advance(1)
        assert len(cluster.looks) == 1
        hold.set()
        await cluster.clock.advance(1)
    assert len(cluster.looks) == 2
    assert most == 1


async def test_while_the_cause_is_the_api_servers_it_goes_on_looking() -> None:
    cluster = Cluster(errors=[ApiError(500, "InternalError", "no")] * 9)
    async with Running(cluster.task()):
        await cluster.clock.advance(100)
    assert gaps(cluster.looks)[:8] == pytest.approx([1, 2, 4, 5, 5, 5, 5, 5], abs=0.3)


async def test_failures_of_our_own_are_retried_ever_more_rarely_up_to_a_minute() -> None:
    cluster = Cluster(errors=[KeyError("x")] * 9)
    async with Running(cluster.task()):
        await cluster.clock.advance(400)
    assert gaps(cluster.looks)[:8] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.3)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ApiError(500, "InternalError", "no"), "CannotLook"),
        (ApiError(0, "NoAnswer", "no"), "CannotLook"),
        (ApiError(403, "Forbidden", "no"), "NotPermitted"),
        (KeyError("x"), "OperatorFailed"),
    ],
)
async def test_a_pass_that_fails_is_reported_with_the_time_it_first_failed(error: Exception, reason: str) -> None:
    cluster = Cluster(errors=[error] * 3)
    async with Running(cluster.task()):
        await cluster.clock.advance(0.2)
        first = cluster.clock.now()
        await cluster.clock.advance(8)
    assert [reported for reported, _ in cluster.failures] == [reason] * 3
    assert {since for _, since in cluster.failures} == {cluster.failures[0][1]}
    assert cluster.failures[0][1] <= first


async def test_a_status_that_cannot_be_written_is_not_reported_in_the_status() -> None:
    cluster = Cluster(errors=[StatusError(ApiError(500, "InternalError", "no"))])
    async with Running(cluster.task()):
        await cluster.clock.advance(3)
    assert cluster.failures == []
    assert len(cluster.looks) == 2


async def test_a_failure_that_cannot_be_reported_ends_nothing() -> None:
    cluster = Cluster(errors=[ApiError(500, "InternalError", "no")] * 2, cannot_tell=ApiError(500, "", "no"))
    async with Running(cluster.task()):
        await cluster.clock.advance(10)
    assert len(cluster.looks) == 3


async def test_a_slow_look_is_reported_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LOOK_NOTICE_SECONDS", 0.01)
    cluster, answer = Cluster(), asyncio.Event()

    async def slow() -> None:
        await answer.wait()

    cluster.during_look = slow
    async with Running(cluster.task()):
        await cluster.clock.advance(0.2)
        await asyncio.sleep(0.1)
        assert [reason for reason, _ in cluster.failures] == ["CannotLook"]
        answer.set()
        await cluster.clock.advance(1)
        assert len(cluster.carried_out) == 1, "and what was looked for is used"


async def test_a_task_that_ends_gives_up_what_is_under_way() -> None:
    cluster = Cluster(gone=True)
    async with Running(cluster.task()):
        await cluster.clock.advance(1)
    assert cluster.closed == 1


async def test_a_success_ends_the_backoff() -> None:
    failure = ApiError(500, "InternalError", "no")
    cluster = Cluster(errors=[failure, failure, failure])
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(10)
        assert len(cluster.looks) == 4
        cluster.errors = [failure]
        task.wake()
        await cluster.clock.advance(2)
    assert gaps(cluster.looks)[-1] == pytest.approx(1, abs=0.3)


async def test_an_exception_of_ours_is_retried_too() -> None:
    cluster = Cluster(errors=[KeyError("spec")])
    async with Running(cluster.task()):
        await cluster.clock.advance(3)
    assert len(cluster.looks) == 2


async def test_a_throttled_task_waits_as_long_as_the_api_server_asks_even_when_woken() -> None:
    cluster = Cluster(errors=[ApiError(429, "TooManyRequests", "slow down", retry_after=20)])
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(1)
        task.wake()
        await cluster.clock.advance(18)
        assert len(cluster.looks) == 1
        await cluster.clock.advance(3)
    assert len(cluster.looks) == 2


async def test_a_wake_shortens_a_long_backoff() -> None:
    cluster = Cluster(errors=[ApiError(500, "InternalError", "no")] * 5)
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(20)
        before = len(cluster.looks)
        task.wake()
        await cluster.clock.advance(1.5)
    assert len(cluster.looks) == before + 1


async def test_a_task_ends_when_its_model_is_gone() -> None:
    cluster = Cluster()
    task = cluster.task()
    async with Running(task) as runner:
        await cluster.clock.advance(1)
        cluster.gone = True
        task.wake()
        await cluster.clock.advance(1)
        assert runner.done()
        assert runner.exception() is None


async def test_a_plan_can_ask_for_another_look() -> None:
    cluster = Cluster(plan=Plan(wake_after=timedelta(seconds=7)))
    async with Running(cluster.task()):
        await cluster.clock.advance(16)
    assert gaps(cluster.looks) == pytest.approx([7.1, 7.1], abs=0.2)


async def test_reports_are_asked_for_without_another_look() -> None:
    cluster = Cluster(plan=Plan(report_interval=timedelta(seconds=2)))
    async with Running(cluster.task()):
        await cluster.clock.advance(9)
    assert len(cluster.looks) == 1
    assert cluster.asked.count(True) >= 4


async def test_what_is_not_settled_is_looked_at_again_though_no_event_came() -> None:
    cluster = Cluster(fresh_seconds=60)
    async with Running(cluster.task()):
        await cluster.clock.advance(130)
    assert gaps(cluster.looks) == pytest.approx([60, 60], abs=0.5)


async def test_a_look_that_no_event_asked_for_is_live() -> None:
    cluster = Cluster(fresh_seconds=60)
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(1)
        for _ in range(2):
            task.wake()
            await cluster.clock.advance(7)
        await cluster.clock.advance(60)
    assert [look.is_live for look in cluster.looked] == [False, False, False, True]


async def test_of_one_that_serves_no_look_is_live() -> None:
    cluster = Cluster(fresh_seconds=10.0, is_ready=True)
    async with Running(cluster.task()):
        await cluster.clock.advance(30)
    assert [look.is_live for look in cluster.looked] == [False, False, False]


@pytest.mark.parametrize("plan", [Plan(), Plan(report_interval=REPORT_WHEN_READY)])
async def test_the_task_of_what_is_settled_ends_with_what_is_to_be_remembered(plan: Plan) -> None:
    cluster = Cluster(plan=plan, fresh_seconds=300)
    async with Running(cluster.task()) as runner:
        await cluster.clock.advance(1)
        rest = runner.result()
    assert rest is not None
    assert (rest.seen.version, rest.seen.claims) == ("1", ("models", "smol-artifacts"))
    assert (len(cluster.looks), cluster.closed) == (1, 1)


async def test_a_task_that_goes_on_from_rest_knows_what_was_seen_and_looks_at_once() -> None:
    cluster = Cluster(versions=["10", "9"], fresh_seconds=300)
    async with Running(cluster.task()) as runner:
        await cluster.clock.advance(1)
        rest = runner.result()
    assert rest is not None
    task = cluster.task(seen=rest.seen)
    assert task.claims == ("models", "smol-artifacts")
    async with Running(task):
        await cluster.clock.advance(0.5)
    assert (len(cluster.looks), len(cluster.decided_on)) == (2, 1), "an older one is not acted on"


@pytest.mark.parametrize(
    "busy",
    [
        {"plan": Plan(wake_after=timedelta(seconds=400))},
        {"plan": Plan(report_interval=timedelta(seconds=2))},
        {"outcome": PassOutcome(snapshot(), written=True)},
        {"is_done": False},
    ],
    ids=lambda busy: next(iter(busy)),
)
async def test_what_waits_for_something_does_not_rest(busy: dict[str, Any]) -> None:
    cluster = Cluster(**busy)
    async with Running(cluster.task()):
        await cluster.clock.advance(310)
    assert len(cluster.looks) >= 2


async def test_a_wake_during_the_last_pass_before_rest_is_another_pass() -> None:
    cluster = Cluster(fresh_seconds=300)
    task = cluster.task()

    async def wake_once() -> None:
        cluster.during_look = None
        task.wake()

    cluster.during_look = wake_once
    async with Running(task) as runner:
        await cluster.clock.advance(2)
        assert runner.done()
    assert len(cluster.looks) == 2


async def test_a_write_is_followed_by_another_look_though_no_event_came() -> None:
    cluster = Cluster(outcome=PassOutcome(snapshot(), written=True))
    async with Running(cluster.task()):
        await cluster.clock.advance(6)
    assert len(cluster.looks) == 2


async def test_what_was_seen_before_a_write_is_never_decided_on_again() -> None:
    cluster = Cluster(plan=Plan(report_interval=timedelta(seconds=2)), outcome=PassOutcome(snapshot(), written=True))
    async with Running(cluster.task()):
        await cluster.clock.advance(0.2)
        cluster.outcome = None
        await cluster.clock.advance(5)
    assert len(cluster.decided_on) >= 3
    assert len(cluster.looks) == 2


async def test_an_older_neuronmodel_than_one_before_is_not_acted_on() -> None:
    """As an API server that is behind shows it: the operator's own write of a status is missing."""
    cluster = Cluster(versions=["10", "9", "10"])
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(0.2)
        task.wake()
        await cluster.clock.advance(0.5)
        assert (len(cluster.looks), len(cluster.decided_on), task.seen_version) == (2, 1, "10")
        await cluster.clock.advance(1)
    assert (len(cluster.looks), len(cluster.decided_on), cluster.failures) == (3, 2, [])


async def test_an_older_neuronmodel_is_believed_in_the_end() -> None:
    """A database that was restored has older versions for good."""
    cluster = Cluster(versions=["10", *["9"] * 100])
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(0.2)
        task.wake()
        await cluster.clock.advance(60)
        assert task.seen_version == "9"
    assert len(cluster.looks) == 1 + tasks.MAX_OUTDATED + 1


@pytest.mark.parametrize("version", ["11", "10", "of another kind"])
async def test_whatever_is_not_older_is_acted_on(version: str) -> None:
    cluster = Cluster(versions=["10", version])
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(0.2)
        task.wake()
        await cluster.clock.advance(0.5)
    assert len(cluster.decided_on) == 2


async def test_a_refusal_is_decided_on_in_the_same_pass() -> None:
    refusal = Refusal("Job", "smol-prepare", "Forbidden", "exceeded quota")
    cluster = Cluster(refuse_once=refusal)
    async with Running(cluster.task()):
        await cluster.clock.advance(0.2)
    assert [observed.refusals for observed in cluster.decided_on] == [(), (refusal,)]
    assert len(set(cluster.decided_at)) == 1, "what was written has the time that the status has"
    assert cluster.held == [True, False]
    assert len(cluster.looks) == 1


async def test_what_was_turned_down_is_tried_again_without_another_look() -> None:
    cluster = Cluster(retry_in=5.0)
    async with Running(cluster.task()):
        await cluster.clock.advance(21)
    assert len(cluster.carried_out) == 5
    assert len(cluster.looks) == 1
    assert cluster.asked == [True, False, False, False, False], "nor are the pods asked more often"


async def test_a_stopped_task_ends_without_another_pass() -> None:
    cluster = Cluster()
    task = cluster.task()
    async with Running(task) as runner:
        await cluster.clock.advance(1)
        task.stop()
        await breathe()
        assert runner.done()
    assert len(cluster.looks) == 1


async def test_stopping_between_two_writes_ends_the_task_and_is_no_error() -> None:
    cluster = Cluster(errors=[StoppingError()])
    async with Running(cluster.task()) as runner:
        await cluster.clock.advance(0.2)
        assert runner.done()
        assert runner.exception() is None


async def test_a_pass_that_hangs_becomes_overdue_and_an_idle_task_never_does() -> None:
    cluster = Cluster()
    idle = cluster.task()
    async with Running(idle):
        await cluster.clock.advance(250)
        assert idle.overdue_seconds < 1

    stuck = Cluster()
    forever = asyncio.Event()

    async def hang() -> None:
        await forever.wait()

    stuck.during_look = hang
    task = stuck.task()
    async with Running(task):
        await stuck.clock.advance(130)
        assert task.overdue_seconds > 120


async def test_a_task_that_backs_off_is_not_overdue() -> None:
    cluster = Cluster(errors=[ApiError(0, "NoAnswer", "gone")] * 8)
    task = cluster.task()
    async with Running(task):
        await cluster.clock.advance(150)
        assert task.overdue_seconds < 1


class Shared:
    """A namespace that another operator may have."""

    def __init__(self, *, held: bool = False) -> None:
        self.held = asyncio.Event()
        if held:
            self.held.set()

    def is_held(self, namespace: str) -> bool:
        return self.held.is_set()

    def acting_since(self, namespace: str) -> datetime | None:
        return None

    async def wait_until_held(self, namespace: str) -> None:
        await self.held.wait()


async def test_while_another_operator_has_the_namespace_nothing_is_done_and_nothing_is_overdue() -> None:
    cluster, shared = Cluster(), Shared()
    task = cluster.task(leases=shared)
    async with Running(task):
        await cluster.clock.advance(500)
        assert (cluster.looks, cluster.carried_out) == ([], [])
        assert task.overdue_seconds == 0
        shared.held.set()
        await breathe()
        await cluster.clock.advance(1)
        assert len(cluster.looks) == len(cluster.carried_out) == 1


async def test_an_operator_that_loses_the_namespace_stops_and_looks_again_when_it_regains_it() -> None:
    cluster, shared = Cluster(), Shared()
    shared.held.set()

    async def lose() -> None:
        shared.held.clear()
        raise StoppingError  # as `apply` does between two writes

    task = cluster.task(leases=shared)
    async with Running(task) as runner:
        await cluster.clock.advance(1)
        cluster.during_look = lose
        task.wake()
        await cluster.clock.advance(100)
        assert len(cluster.looks) == 2
        assert not runner.done()
        cluster.during_look = None
        shared.held.set()
        await breathe()
        await cluster.clock.advance(1)
    assert len(cluster.looks) == 3


async def test_who_stands_by_ends_when_it_is_stopped() -> None:
    cluster = Cluster()
    task = cluster.task(leases=Shared())
    async with Running(task) as runner:
        await cluster.clock.advance(1)
        task.stop()
        await breathe()
        assert runner.done()
    assert cluster.looks == []


@dataclass
class Quiet:
    """An API server with one NeuronModel, of which nothing is wanted."""

    model: dict[str, Any] | None = field(default_factory=lambda: with_status(raw_model()))
    looks: int = 0

    @property
    def live(self) -> "Quiet":
        return self

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        self.looks += kind is client.MODEL
        return self.model if kind is client.MODEL else None

    async def list(self, kind: Kind, namespace: str | None, **_: Any) -> tuple[Object, ...]:
        return ()


@dataclass
class Scene:
    api: Quiet
    clock: HandClock
    tasks: Tasks
    shared: Shared

    async def looked(self) -> int:
        """How often it was looked at within a second."""
        before = self.api.looks
        await self.clock.advance(1)
        return self.api.looks - before


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A NeuronModel that was listed, and rests."""
    api, clock, shared = Quiet(), HandClock(), Shared(held=True)
    followed = Tasks(api, Silent(), lambda *_: Plan(), Settings(), Metrics(), clock, shared)  # type: ignore[arg-type]
    found = Scene(api, clock, followed, shared)
    followed.model_changed(raw_model(), is_listed=True)
    assert await found.looked() == 1
    yield found
    await followed.stop()


class Silent:
    """Workers that are not there."""


async def test_one_that_rests_is_followed_and_the_same_version_wakes_nobody(scene: Scene) -> None:
    assert scene.tasks.followed == {KEY.uid}
    scene.tasks.model_changed(raw_model())
    scene.tasks.models_listed([raw_model()], scene.tasks.followed)
    assert await scene.looked() == 0
    assert scene.tasks.overdue_seconds() == 0.0


async def test_another_version_or_a_child_or_a_claim_wakes_it(scene: Scene) -> None:
    scene.api.model = with_status(raw_model("2"))
    scene.tasks.model_changed(raw_model("2"))
    assert await scene.looked() == 1
    scene.tasks.child_changed({names.LABEL_UID: KEY.uid})
    assert await scene.looked() == 1
    scene.tasks.claim_changed(KEY.namespace, "models")
    assert await scene.looked() == 1
    scene.tasks.claim_changed(KEY.namespace, "others")
    assert await scene.looked() == 0


async def test_one_that_is_no_longer_listed_is_looked_at_and_forgotten(scene: Scene) -> None:
    scene.api.model = None
    scene.tasks.models_listed([], scene.tasks.followed)
    assert await scene.looked() == 1
    assert scene.tasks.followed == frozenset()
    scene.tasks.claim_changed(KEY.namespace, "models")
    assert await scene.looked() == 0


async def test_one_that_is_woken_while_it_comes_to_rest_is_looked_at_again(scene: Scene) -> None:
    scene.tasks.child_changed({names.LABEL_UID: KEY.uid})
    (runner,) = [task for task in asyncio.all_tasks() if task.get_name() == f"{KEY.namespace}/{KEY.name}"]
    runner.add_done_callback(lambda _: scene.tasks.child_changed({names.LABEL_UID: KEY.uid}))
    assert await scene.looked() == 2


async def test_one_that_is_new_gets_its_status_and_in_another_pass_all_else() -> None:
    child = {"kind": "Service", "metadata": {"name": "smol"}}
    made, said = EventNote("Normal", "Made", "", ("Service", "smol")), EventNote("Normal", "Said", "")
    plan = Plan(finalizer=True, apply=(child,), create=(child,), status=NeuronModelStatus(), events=(made, said))
    cluster = Cluster(plan=plan, is_new=True)
    turns = RecordedTurns(cluster.clock)
    task = cluster.task(turns=turns)
    async with Running(task):
        await cluster.clock.advance(1)
        task.wake()
        await cluster.clock.advance(1)
    assert cluster.carried_out == [Plan(status=plan.status, events=(said,)), plan, plan]
    assert turns.asked == [Urgency.NEW, Urgency.BEGUN, Urgency.CHANGED]
    assert [(how.is_first, how.is_live) for how in cluster.looked] == [(True, False), (False, False), (False, False)]


async def test_one_whose_first_status_can_not_be_written_gets_all_else_all_the_same() -> None:
    refused = StatusError(ApiError(500, "InternalError", "no"))
    cluster = Cluster(plan=Plan(finalizer=True), is_new=True, write_errors=[refused])
    async with Running(cluster.task()):
        await cluster.clock.advance(5)
    assert cluster.carried_out == [cluster.plan.of_status, cluster.plan]


async def test_one_whose_first_look_fails_gets_everything_from_the_next() -> None:
    cluster = Cluster(plan=Plan(finalizer=True), is_new=True, errors=[ApiError(500, "InternalError", "no")])
    async with Running(cluster.task()):
        await cluster.clock.advance(5)
    assert cluster.carried_out == [cluster.plan]


async def test_one_that_is_taken_up_again_is_not_new() -> None:
    cluster = Cluster(plan=Plan(finalizer=True), is_new=True)
    async with Running(cluster.task(seen=LastSeen("1", (), ()))):
        await cluster.clock.advance(1)
    assert cluster.carried_out == [cluster.plan]


async def test_one_that_is_new_is_looked_at_without_being_listed() -> None:
    api, clock = Quiet(), HandClock()
    followed = Tasks(api, Silent(), lambda *_: Plan(), Settings(), Metrics(), clock, Shared(held=True))  # type: ignore[arg-type]
    followed.model_changed(raw_model())
    await clock.advance(1)
    assert api.looks == 1
    await followed.stop()
    followed.child_changed({names.LABEL_UID: KEY.uid})
    await clock.advance(1)
    assert api.looks == 1, "what was stopped is not taken up again"
