"""One task per NeuronModel: woken by events, retried with backoff, monitored for lateness.

A task observes the cluster, decides and carries out, one pass at a time, until its NeuronModel is gone. It is
level-triggered: a wake means only that something may have changed, any number of wakes before a pass count as one, and
a wake during a pass leads to another pass after it.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from neuronmodel_api import names
from neuronmodel_api.status import Condition
from neuronmodel_operator.clock import Clock
from neuronmodel_operator.cluster.apply import Applier, PassOutcome, StatusError, StoppingError
from neuronmodel_operator.cluster.backoff import await_with_notice, doubling
from neuronmodel_operator.cluster.client import Api, ApiError
from neuronmodel_operator.cluster.failed_pass import PassFailure, failure_of, unanswered
from neuronmodel_operator.cluster.observe import ModelKey, OutdatedLookError, Snapshot, claim_names, is_older, look
from neuronmodel_operator.cluster.worker_reports import ReportCache, ReportClient, Reports
from neuronmodel_operator.cluster.writes import LONGEST_PAUSE_SECONDS
from neuronmodel_operator.runtime.metrics import Metrics
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.observed import Object, Observed, Refusal
from neuronmodel_operator.state.plan import Plan

FIRST_BACKOFF_SECONDS: Final = 1.0
LAST_BACKOFF_SECONDS: Final = 60.0
"""The longest pause after an error of the operator itself. While the API server is the cause, it is
LONGEST_PAUSE_SECONDS."""
MODELS_A_SECOND: Final = 100
"""How many NeuronModels may be retried per second when all of a large fleet have to be."""
LOOK_NOTICE_SECONDS: Final = 5.0
"""If a look takes longer than this, the NeuronModel's status says so."""
GATHER_SECONDS: Final = 0.1
"""The delay between a wake and its pass: a pod that starts causes several events within a moment."""
LOOK_AGAIN_SECONDS: Final = 5.0
"""When to look again after a write whose event no watch delivered."""
MAX_PASSES: Final = 16
"""Concurrent passes, so that a restart with hundreds of NeuronModels does not flood the API server."""
STOP_SECONDS: Final = 5.0
"""How long running passes may take to reach their next write when the operator stops."""

MAX_OUTDATED: Final = 4
"""Within some ten seconds an API server has caught up."""

_log = logging.getLogger(__name__)

Decide = Callable[[Observed, datetime, Settings], Plan]


class CarriesOut(Protocol):
    """What a task needs of `apply.Applier`."""

    @property
    def refusals(self) -> tuple[Refusal, ...]: ...

    @property
    def retry_in(self) -> float | None: ...

    async def carry_out(self, plan: Plan, snapshot: Snapshot, *, hold_status: bool) -> PassOutcome: ...

    async def report_failure(self, failure: PassFailure, since: datetime) -> None: ...

    def close(self) -> None: ...


class HoldsNamespaces(Protocol):
    """What a task needs of `leases.Leases`: the operator acts in the namespaces that it holds."""

    async def wait_until_held(self, namespace: str) -> None: ...

    def is_held(self, namespace: str) -> bool: ...


class CollectsReports(Protocol):
    """What a task needs of `worker_reports.ReportCache`."""

    async def collect(self, pods: Iterable[Object], askable: frozenset[str], *, ask: bool) -> Reports: ...


@dataclass(frozen=True)
class Parts:
    """The functions and objects that a task works with."""

    look: Callable[[], Awaitable[Snapshot | None]]
    """Returns None if the NeuronModel is gone."""
    reports: CollectsReports
    decide: Callable[[Observed, datetime], Plan]
    applier: CarriesOut


@dataclass(frozen=True)
class Agenda:
    """When each kind of pass is due next, in monotonic seconds."""

    look_at: float
    """When a pass observes the cluster again."""
    ask_at: float | None = None
    """When a pass fetches reports from the pods; it reuses the last look while that is fresh."""
    retry_at: float | None = None
    """When a pass retries refused writes; it reuses the last look as well."""

    @property
    def due_at(self) -> float:
        return min(at for at in (self.look_at, self.ask_at, self.retry_at) if at is not None)


class ModelTask:
    """Follows one NeuronModel until it is gone."""

    def __init__(
        self,
        key: ModelKey,
        parts: Parts,
        *,
        clock: Clock,
        metrics: Metrics,
        passes: asyncio.Semaphore,
        leases: HoldsNamespaces,
        longest_pause: Callable[[], float] = lambda: LONGEST_PAUSE_SECONDS,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0),  # noqa: S311 (spreads load, hides nothing)
    ) -> None:
        self.key = key
        self._parts = parts
        self._clock = clock
        self._metrics = metrics
        self._passes = passes
        self._leases = leases
        self._longest_pause = longest_pause
        self._jitter = jitter
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._snapshot: Snapshot | None = None
        self._outdated = False
        """Whether a write of our own to a child outdated the snapshot: another decision based on it would miss the
        change."""
        self._num_outdated = 0
        """Looks in a row that showed an older NeuronModel than one before."""
        self._failures = 0
        self._failing_since = clock.now()
        """When the first of the consecutive failures happened."""
        self._not_before = clock.monotonic()
        self._agenda = Agenda(look_at=clock.monotonic())

    def wake(self) -> None:
        """Requests a pass because something may have changed."""
        if not self._woken.is_set():
            self._woken.set()
            self._agenda = replace(self._agenda, look_at=min(self._agenda.look_at, self._clock.monotonic()))

    def stop(self) -> None:
        """Ends the task before its next write."""
        self._stopping.set()
        self._woken.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def seen_version(self) -> str | None:
        """The newest version of the NeuronModel that this task has observed, including its own writes."""
        return self._snapshot.raw["metadata"]["resourceVersion"] if self._snapshot else None

    @property
    def claims(self) -> frozenset[str]:
        """Names of the claims whose changes matter."""
        return claim_names(self._snapshot.observed.model) if self._snapshot else frozenset()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return self._snapshot.observed.model.status.conditions if self._snapshot else ()

    @property
    def overdue_seconds(self) -> float:
        """How many seconds ago the next pass was due; a running pass counts from when it was due. It is 0 while another
        operator holds the namespace."""
        if not self._leases.is_held(self.key.namespace):
            return 0.0
        return max(0.0, self._clock.monotonic() - max(self._agenda.due_at, self._not_before))

    async def run(self) -> None:
        try:
            while not await self._wait_and_attempt():
                pass
        finally:
            self._parts.applier.close()

    async def _wait_and_attempt(self) -> bool:
        """Waits, makes one pass, and returns whether the task is done."""
        await self._wait_until_due()
        await self._wait_for_lease()
        if self.stopping:
            return True
        async with self._passes:
            return await self._attempt()

    async def _wait_for_lease(self) -> None:
        """Waits while another operator holds the namespace, and then drops the snapshot, which is outdated."""
        if self._leases.is_held(self.key.namespace):
            return
        self._snapshot = None
        waits = [
            asyncio.ensure_future(wait)
            for wait in (self._leases.wait_until_held(self.key.namespace), self._stopping.wait())
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        now = self._clock.monotonic()
        self._not_before, self._agenda = now, Agenda(look_at=now)

    async def _wait_until_due(self) -> None:
        """Waits until a pass is due. A wake is delayed for a moment to combine it with others, and during a backoff to
        the end of its first second."""
        while not self.stopping:
            pause = self._agenda.due_at - self._clock.monotonic()
            if pause <= 0:
                break
            self._woken.clear()
            await self._clock.wait(self._woken, pause)
        gather = max(GATHER_SECONDS, self._not_before - self._clock.monotonic())
        await self._clock.wait(self._stopping, gather)

    async def _attempt(self) -> bool:
        """Makes one pass and sets the agenda for the next. Returns True if the NeuronModel is gone or the operator
        stops. A pass that was stopped because another operator took over sets no agenda: the task waits for the
        Lease."""
        started = self._clock.monotonic()
        try:
            agenda = await self._pass()
        except StoppingError:
            return self.stopping or self._leases.is_held(self.key.namespace)
        except ApiError as error:
            if not isinstance(error, StatusError | OutdatedLookError):
                await self._report_failure(error)
            self._back_off(error.reason, str(error), self._longest_pause(), error.retry_after)
            return False
        except Exception as error:  # a failure of one NeuronModel must not affect the others
            _log.exception("%s/%s: a pass failed", self.key.namespace, self.key.name)
            await self._report_failure(error)
            self._back_off(type(error).__name__, repr(error), LAST_BACKOFF_SECONDS)
            return False
        self._failures = 0
        self._metrics.seconds.observe(self._clock.monotonic() - started)
        self._metrics.reconciles.labels("Gone" if agenda is None else "Done").inc()
        if agenda is not None:
            self._agenda = replace(agenda, look_at=started) if self._woken.is_set() else agenda
        return agenda is None

    async def _pass(self) -> Agenda | None:
        """Makes one pass and returns the agenda for the next, or None if the NeuronModel is gone."""
        started = self._clock.monotonic()
        looking = self._snapshot is None or self._outdated or self._agenda.look_at <= started
        self._woken.clear()
        if looking:
            self._snapshot = self._not_outdated(
                await await_with_notice(
                    self._parts.look(),
                    LOOK_NOTICE_SECONDS,
                    lambda: self._report_failure(unanswered(LOOK_NOTICE_SECONDS)),
                )
            )
        if (snapshot := self._snapshot) is None:
            return None
        due = self._agenda.ask_at is not None and self._agenda.ask_at <= started
        reports = await self._parts.reports.collect(snapshot.observed.pods, snapshot.askable, ask=looking or due)
        plan, outcome = await self._decide_and_carry_out(snapshot, reports)
        self._snapshot, self._outdated = outcome.snapshot, outcome.written
        fresh_until = started + snapshot.fresh_seconds if looking else self._agenda.look_at
        return self._next(plan, outcome, fresh_until)

    def _not_outdated(self, snapshot: Snapshot | None) -> Snapshot | None:
        """Raises OutdatedLookError for a NeuronModel that is older than the one that was seen before, as from an API
        server that is behind: what has been done since would be done again, and otherwise. After a few looks in a row
        it is believed: a database that was restored has older versions for good."""
        seen, read = self.seen_version, snapshot and snapshot.raw["metadata"]["resourceVersion"]
        if seen and read and is_older(read, seen) and self._num_outdated < MAX_OUTDATED:
            self._num_outdated += 1
            raise OutdatedLookError
        self._num_outdated = 0
        return snapshot

    async def _report_failure(self, failure: Exception | PassFailure) -> None:
        """Reports a failure on the NeuronModel itself, if that can be written; it is logged in any case."""
        if self._failures == 0:
            self._failing_since = self._clock.now()
        try:
            described = failure if isinstance(failure, PassFailure) else failure_of(failure)
            await self._parts.applier.report_failure(described, self._failing_since)
        except StoppingError:
            return
        except Exception as error:  # the pass is retried, whether its failure could be reported or not
            _log.info("%s/%s: its status can't tell of it: %r", self.key.namespace, self.key.name, error)

    async def _decide_and_carry_out(self, snapshot: Snapshot, reports: Reports) -> tuple[Plan, PassOutcome]:
        """Decides and carries out; twice if the set of refused writes changed, so that the status of this pass shows
        it. Both decisions use the same time: a change that is observed now is written with it, and that write may still
        be under way."""
        now = self._clock.now()
        plan = self._decide(snapshot, reports, now)
        first = await self._parts.applier.carry_out(plan, snapshot, hold_status=True)
        if not first.refusals_changed:
            return plan, first
        plan = self._decide(first.snapshot, reports, now)
        second = await self._parts.applier.carry_out(plan, first.snapshot, hold_status=False)
        return plan, replace(second, written=first.written or second.written)

    def _decide(self, snapshot: Snapshot, reports: Reports, now: datetime) -> Plan:
        return self._parts.decide(
            replace(
                snapshot.observed,
                reports=reports.current,
                last_reports=reports.former,
                refusals=self._parts.applier.refusals,
            ),
            now,
        )

    def _next(self, plan: Plan, outcome: PassOutcome, fresh_until: float) -> Agenda:
        now = self._clock.monotonic()
        looks = [fresh_until]
        if plan.wake_after is not None:
            looks.append(now + plan.wake_after.total_seconds())
        if outcome.written:
            looks.append(now + LOOK_AGAIN_SECONDS)
        retry_in = self._parts.applier.retry_in
        ask_at = now + plan.report_interval.total_seconds() if plan.report_interval is not None else None
        return Agenda(look_at=min(looks), ask_at=ask_at, retry_at=None if retry_in is None else now + retry_in)

    def _back_off(self, kind: str, message: str, longest: float, retry_after: float | None = None) -> None:
        """Schedules the next attempt after 1, 2, 4 … seconds, shortened at random by up to half; a wake meanwhile is
        answered after one second."""
        self._failures += 1
        pause = doubling(FIRST_BACKOFF_SECONDS, self._failures, longest) * self._jitter()
        pause = max(pause, retry_after or 0.0)
        now = self._clock.monotonic()
        self._not_before = now + max(min(pause, FIRST_BACKOFF_SECONDS), retry_after or 0.0)
        self._agenda = Agenda(look_at=now if self._woken.is_set() else now + pause)
        self._metrics.reconciles.labels("Failed").inc()
        self._metrics.errors.labels(kind).inc()
        log = _log.warning if self._failures > 1 else _log.info
        log("%s/%s: will try again in %.1f s: %s", self.key.namespace, self.key.name, pause, message)


class Tasks:
    """The tasks of all NeuronModels, by UID. It receives what kopf's watches deliver."""

    def __init__(
        self,
        api: Api,
        report_client: ReportClient,
        decide: Decide,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
        leases: HoldsNamespaces,
    ) -> None:
        self._leases = leases
        self._api = api
        self._report_client = report_client
        self._decide = decide
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._passes = asyncio.Semaphore(MAX_PASSES)
        self._followed: dict[str, tuple[ModelTask, asyncio.Task[None]]] = {}
        metrics.follow(self._conditions, self.overdue_seconds)

    def model_changed(self, model: Mapping[str, Any]) -> None:
        """Called for a NeuronModel that was created, changed, deleted or just listed, including one whose deletion
        began before this operator."""
        meta = model["metadata"]
        task = self._task(meta["uid"])
        if task is None:
            self._follow(ModelKey(meta["namespace"], meta["name"], meta["uid"]))
        elif task.seen_version != meta["resourceVersion"]:
            task.wake()

    def model_gone(self, uid: str) -> None:
        if task := self._task(uid):
            task.wake()

    def child_changed(self, labels: Mapping[str, str]) -> None:
        if task := self._task(labels.get(names.LABEL_UID, "")):
            task.wake()

    def claim_changed(self, namespace: str, name: str) -> None:
        """Called for any claim: users' claims do not carry our label."""
        for task, _ in self._followed.values():
            if task.key.namespace == namespace and name in task.claims:
                task.wake()

    def overdue_seconds(self) -> float:
        return max((task.overdue_seconds for task, _ in self._followed.values()), default=0.0)

    async def stop(self) -> None:
        """Lets running passes reach their next write, then cancels them."""
        for task, _ in self._followed.values():
            task.stop()
        running = [runner for _, runner in self._followed.values()]
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=STOP_SECONDS)
        for runner in late:
            runner.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _follow(self, key: ModelKey) -> None:
        task = self._new_task(key)
        runner = asyncio.create_task(task.run(), name=f"{key.namespace}/{key.name}")
        self._followed[key.uid] = (task, runner)
        runner.add_done_callback(lambda _: self._followed.pop(key.uid, None))

    def _new_task(self, key: ModelKey) -> ModelTask:
        applier = Applier(
            self._api,
            key,
            now=self._clock.now,
            monotonic=self._clock.monotonic,
            stopping=lambda: task.stopping or not self._leases.is_held(key.namespace),
            wake=lambda: task.wake(),
            longest_pause=self._longest_pause,
        )
        parts = Parts(
            look=lambda: look(self._api, key, self._clock.now()),
            reports=ReportCache(self._report_client),
            decide=lambda observed, now: self._decide(observed, now, self._settings),
            applier=applier,
        )
        task = ModelTask(
            key,
            parts,
            clock=self._clock,
            metrics=self._metrics,
            passes=self._passes,
            leases=self._leases,
            longest_pause=self._longest_pause,
        )
        return task

    def _longest_pause(self) -> float:
        """Returns the longest pause in seconds; it grows with the number of NeuronModels, so that retrying all of them
        is no load of its own."""
        return min(LAST_BACKOFF_SECONDS, max(LONGEST_PAUSE_SECONDS, len(self._followed) / MODELS_A_SECOND))

    def _task(self, uid: str) -> ModelTask | None:
        found = self._followed.get(uid)
        return found[0] if found else None

    def _conditions(self) -> dict[str, tuple[Condition, ...]]:
        return {uid: task.conditions for uid, (task, _) in self._followed.items()}
