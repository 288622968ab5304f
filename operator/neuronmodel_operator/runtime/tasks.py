"""One task per NeuronModel: woken by events, retried with backoff, monitored for lateness.

A task observes the cluster, decides and carries out, one pass at a time, until its NeuronModel is gone. It is
level-triggered: a wake means only that something may have changed, any number of wakes before a pass count as one, and
a wake during a pass leads to another pass after it.
"""

import asyncio
import logging
import random
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from neuronmodel_api import names
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.clock import Clock
from neuronmodel_operator.cluster.apply import Applier, PassOutcome, StatusError, StoppingError
from neuronmodel_operator.cluster.backoff import await_with_notice, doubling
from neuronmodel_operator.cluster.client import ApiError, is_older
from neuronmodel_operator.cluster.failed_pass import PassFailure, failure_of, unanswered
from neuronmodel_operator.cluster.mirrored_api import MirroredApi
from neuronmodel_operator.cluster.observe import (
    SETTLED_FRESH_SECONDS,
    EventsRead,
    ModelKey,
    OutdatedLookError,
    Snapshot,
    claim_names,
    look,
)
from neuronmodel_operator.cluster.worker_reports import ReportCache, ReportClient, Reports
from neuronmodel_operator.cluster.writes import LONGEST_PAUSE_SECONDS
from neuronmodel_operator.runtime.metrics import Metrics, Verdicts
from neuronmodel_operator.runtime.model_metrics import ModelMetrics
from neuronmodel_operator.runtime.pace import Pace
from neuronmodel_operator.runtime.resting import LastSeen, Parked, Rest, Resting
from neuronmodel_operator.runtime.turns import Turns, Urgency
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.observed import Object, Observed, ObservedModel, Refusal
from neuronmodel_operator.state.plan import REPORT_WHEN_READY, EventNote, Plan

FIRST_BACKOFF_SECONDS: Final = 1.0
LAST_BACKOFF_SECONDS: Final = 60.0
"""The longest pause after an error of the operator itself. While the API server is the cause, it is
LONGEST_PAUSE_SECONDS."""
REPORTS_A_SECOND: Final = 25.0
"""Of workers, of each interval that plans wish for. One of a worker that starts takes a whole pass."""
LIVE_LOOKS_A_SECOND: Final = 4.0
"""Each takes some ten requests."""
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
_VERDICTS: Final[dict[Verdicts, Verdicts]] = {}
"""Those that there are: thousands of NeuronModels have the same few."""

Decide = Callable[[Observed, datetime, Settings], Plan]


class CarriesOut(Protocol):
    """What a task needs of `apply.Applier`."""

    @property
    def refusals(self) -> tuple[Refusal, ...]: ...

    @property
    def retry_in(self) -> float | None: ...

    async def carry_out(self, plan: Plan, snapshot: Snapshot, *, hold_status: bool) -> PassOutcome: ...

    async def report_failure(self, failure: PassFailure, since: datetime) -> None: ...

    @property
    def is_confirmed(self) -> bool: ...

    @property
    def is_done(self) -> bool: ...

    def close(self) -> None: ...


class HoldsNamespaces(Protocol):
    """What a task needs of `leases.Leases`: the operator acts in the namespaces that it holds."""

    async def wait_until_held(self, namespace: str) -> None: ...

    def is_held(self, namespace: str) -> bool: ...

    def acting_since(self, namespace: str) -> datetime | None: ...


class CollectsReports(Protocol):
    """What a task needs of `worker_reports.ReportCache`."""

    async def collect(self, pods: Iterable[Object], askable: frozenset[str], *, ask: bool) -> Reports: ...

    @property
    def has_answers(self) -> bool: ...

    async def has_news(self) -> bool: ...


@dataclass(frozen=True)
class Look:
    """How to look."""

    is_live: bool
    """No event asked for it: what watches said may be what is wrong."""
    events: Mapping[str, EventsRead]
    """Kubernetes' Events about the children that were read before, by UID."""
    is_first: bool
    """Of a NeuronModel without a status only what that needs is looked at."""


@dataclass(frozen=True)
class Parts:
    """The functions and objects that a task works with."""

    look: Callable[[Look], Awaitable[Snapshot | None]]
    """Returns None if the NeuronModel is gone."""
    reports: CollectsReports
    decide: Callable[[Observed, datetime], Plan]
    applier: CarriesOut
    pause: Callable[[float | None], float | None] = lambda wished: wished
    """Returns how long the workers are not asked, given how long the plan wishes for."""
    freshness: Callable[[float], float] = lambda seconds: seconds
    """Returns how long a look does without an event, given how long it should at most."""
    follow_claims: Callable[[Iterable[str], Iterable[str]], None] = lambda former, names: None
    """Called with the names of the claims whose changes mattered, and of those whose changes do."""
    saw: Callable[[NeuronModelStatus, ObservedModel, Iterable[EventNote]], None] = lambda before, model, events: None
    """Called after a pass with the status that it began with, the NeuronModel that it left, and what it told."""
    failed: Callable[[PassFailure], None] = lambda failure: None
    """Called when passes fail one after the other, with what the NeuronModel says of it."""
    looked: Callable[[], None] = lambda: None
    """Called when a pass has ended, or waits until this operator may act in the namespace."""


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
    """Follows one NeuronModel until it is gone, or rests."""

    def __init__(
        self,
        key: ModelKey,
        parts: Parts,
        *,
        clock: Clock,
        metrics: Metrics,
        turns: Turns,
        leases: HoldsNamespaces,
        seen: LastSeen | None = None,
        prompt: bool = True,
        longest_pause: Callable[[], float] = lambda: LONGEST_PAUSE_SECONDS,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0),  # noqa: S311 (spreads load, hides nothing)
    ) -> None:
        self.key = key
        self._parts = parts
        self._clock = clock
        self._metrics = metrics
        self._turns = turns
        self._leases = leases
        self._is_prompt = prompt
        """Whether somebody may be waiting for the next pass: an event led to it."""
        self._is_queueing = False
        self._longest_pause = longest_pause
        self._jitter = jitter
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._snapshot: Snapshot | None = None
        """None before the first look, and when the last one is outdated."""
        self._seen = seen
        self._is_at_rest = False
        """Whether nothing is due: an event, or news from a worker, begins another task."""
        self._is_first_look = seen is None
        self._has_status_alone = False
        """Whether the last pass gave it its first status, so that the next one has everything else to do."""
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

    def wake(self, *, prompt: bool = True) -> None:
        """Requests a pass because something may have changed; `prompt` if somebody may be waiting for it."""
        self._is_prompt |= prompt
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
        return self._seen.version if self._seen else None

    @property
    def claims(self) -> tuple[str, ...]:
        """Names of the claims whose changes matter."""
        return self._seen.claims if self._seen else ()

    @property
    def verdicts(self) -> Verdicts:
        return self._seen.verdicts if self._seen else ()

    @property
    def overdue_seconds(self) -> float:
        """How many seconds ago the next pass was due; a running pass counts from when it was due. It is 0 while another
        operator holds the namespace."""
        if not self._leases.is_held(self.key.namespace):
            return 0.0
        return max(0.0, self._clock.monotonic() - max(self._agenda.due_at, self._not_before))

    @property
    def stuck_seconds(self) -> float:
        """As `overdue_seconds`, but 0 while it waits for its turn, which may take minutes after a restart."""
        return 0.0 if self._is_queueing else self.overdue_seconds

    @property
    def is_woken(self) -> bool:
        return self._woken.is_set()

    @property
    def is_prompt(self) -> bool:
        return self._is_prompt

    async def run(self) -> Rest | None:
        """Returns what is left of a NeuronModel that rests, or None if it is gone or the operator stops."""
        try:
            while not await self._wait_and_attempt():
                if self._is_at_rest and self._seen is not None:
                    return Rest(self._seen, self._parts.reports, self._parts.applier.is_confirmed)
            return None
        finally:
            self._parts.applier.close()

    async def _wait_and_attempt(self) -> bool:
        """Waits, makes one pass, and returns whether the task is done."""
        await self._wait_until_due()
        await self._wait_for_lease()
        if self.stopping:
            return True
        self._is_queueing = True
        try:
            async with self._turns.turn(self._urgency):
                self._is_queueing = False
                # From here on it counts: what it waited for is over.
                self._not_before = max(self._not_before, self._clock.monotonic())
                return await self._attempt()
        finally:
            self._is_queueing = False
            self._parts.looked()

    @property
    def _urgency(self) -> Urgency:
        if not self._is_prompt:
            return Urgency.PATIENT
        if self._seen is None:
            return Urgency.NEW
        return Urgency.BEGUN if self._has_status_alone else Urgency.CHANGED

    async def _wait_for_lease(self) -> None:
        """Waits while another operator holds the namespace, and then drops the snapshot, which is outdated."""
        if self._leases.is_held(self.key.namespace):
            return
        self._parts.looked()
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
        look = self._next_look()
        self._is_first_look &= not looking
        self._woken.clear()
        self._is_prompt = False
        if looking:
            self._snapshot = self._not_outdated(
                await await_with_notice(
                    self._parts.look(look),
                    LOOK_NOTICE_SECONDS,
                    lambda: self._report_failure(unanswered(LOOK_NOTICE_SECONDS)),
                )
            )
        if (snapshot := self._snapshot) is None:
            return None
        due = self._agenda.ask_at is not None and self._agenda.ask_at <= started
        reports = await self._parts.reports.collect(snapshot.observed.pods, snapshot.askable, ask=looking or due)
        plan, outcome = await self._decide_and_carry_out(snapshot, reports)
        self._remember(outcome.snapshot)
        self._parts.saw(snapshot.observed.model.status, outcome.snapshot.observed.model, plan.events)
        self._outdated, self._has_status_alone = outcome.written, snapshot.is_new
        if self._has_status_alone:
            self.wake()
        fresh = self._parts.freshness(snapshot.fresh_seconds) if looking else 0.0
        fresh_until = started + fresh if looking else self._agenda.look_at
        self._is_at_rest = looking and not self._woken.is_set() and self._may_rest(plan, outcome)
        return self._next(plan, outcome, fresh_until)

    def _next_look(self) -> Look:
        """The first look, one that an event asked for, and every look at a NeuronModel that serves are read from
        mirrors: what serves can wait for the lists of every five minutes, which find what watches have missed."""
        former = self._snapshot
        is_live = former is not None and not self._woken.is_set() and not former.observed.model.status.is_ready
        return Look(is_live, former.events_read if former else {}, self._is_first_look)

    def _may_rest(self, plan: Plan, outcome: PassOutcome) -> bool:
        """Whether nothing but an event can make a difference: all that has to do with it is settled, and the plan
        wishes for nothing at a certain time."""
        return (
            outcome.snapshot.fresh_seconds >= SETTLED_FRESH_SECONDS
            and plan.wake_after is None
            and not outcome.written
            and self._parts.applier.is_done
            and (plan.report_interval is None or plan.report_interval >= REPORT_WHEN_READY)
        )

    def _remember(self, snapshot: Snapshot) -> None:
        model = snapshot.observed.model
        former, claims = self.claims, tuple(map(sys.intern, sorted(claim_names(model))))
        if claims != former:
            self._parts.follow_claims(former, claims)
        verdicts = tuple((c.type.value, sys.intern(c.status)) for c in model.status.conditions)
        self._snapshot = snapshot
        self._seen = LastSeen(
            snapshot.raw["metadata"]["resourceVersion"], claims, _VERDICTS.setdefault(verdicts, verdicts)
        )

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
            if self._failures and described.is_final:
                self._parts.failed(described)
            await self._parts.applier.report_failure(described, self._failing_since)
        except StoppingError:
            return
        except Exception as error:  # the pass is retried, whether its failure could be reported or not
            _log.info("%s/%s: its status can't tell of it: %r", self.key.namespace, self.key.name, error)

    async def _decide_and_carry_out(self, snapshot: Snapshot, reports: Reports) -> tuple[Plan, PassOutcome]:
        """Decides and carries out; of a NeuronModel that is new the status alone, as many may have been made at once.
        Twice if the set of refused writes changed, so that the status of this pass shows it. Both decisions use the
        same time: a change that is observed now is written with it, and that write may still be under way."""
        now = self._clock.now()
        plan = self._decide(snapshot, reports, now)
        if snapshot.is_new:
            plan = plan.of_status
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
        pause = self._parts.pause(plan.report_interval.total_seconds() if plan.report_interval is not None else None)
        ask_at = None if pause is None else now + pause
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
        api: MirroredApi,
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
        self._turns = Turns(MAX_PASSES, clock.monotonic)
        self._pace = Pace(REPORTS_A_SECOND)
        self._looks = Pace(LIVE_LOOKS_A_SECOND)
        self._followed: dict[str, tuple[ModelTask, asyncio.Task[Rest | None]]] = {}
        self._resting = Resting(self._begin, leases.is_held, clock)
        self._users: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        """UIDs of NeuronModels, by namespace and name of the claims that they name."""
        self._model_metrics = ModelMetrics(clock.now, leases.is_held)
        metrics.registry.register(self._model_metrics)
        metrics.follow(self._verdicts, self.overdue_seconds, lambda: self._turns.num_waiting + self._resting.num_unseen)

    def model_changed(self, model: Mapping[str, Any], *, is_listed: bool = False) -> None:
        """Called for a NeuronModel that was created, changed, deleted or just listed (`is_listed`), including one whose
        deletion began before this operator. Only its metadata is read."""
        meta = model["metadata"]
        uid, version = meta["uid"], meta["resourceVersion"]
        if task := self._task(uid):
            if task.seen_version != version:
                task.wake(prompt=not is_listed)
        elif parked := self._resting.get(uid):
            if parked.rest.seen.version != version if parked.rest else not is_listed:
                self._resting.wake(uid, prompt=not is_listed)
        elif is_listed:
            self._resting.add_listed(ModelKey(meta["namespace"], meta["name"], uid))
        else:
            self._follow(ModelKey(meta["namespace"], meta["name"], uid), prompt=True)

    def models_listed(self, models: Sequence[Mapping[str, Any]], begun_with: frozenset[str]) -> None:
        """Called with the metadata of all NeuronModels that there are: what a watch has missed is found. `begun_with`:
        the UIDs of `followed` before the list was read, as one that is followed since may not be in it."""
        there = set()
        for model in models:
            there.add(model["metadata"]["uid"])
            self.model_changed(model, is_listed=True)
        for uid in begun_with - there:
            self._wake(uid, prompt=False)

    @property
    def followed(self) -> frozenset[str]:
        return frozenset(self._followed) | self._resting.uids

    def model_gone(self, uid: str) -> None:
        self._wake(uid)

    def child_changed(self, labels: Mapping[str, str]) -> None:
        self._wake(labels.get(names.LABEL_UID, ""))

    def claim_changed(self, namespace: str, name: str) -> None:
        """Called for any claim: users' claims do not carry our label."""
        for uid in list(self._users.get((namespace, name), ())):
            self._wake(uid)

    def _wake(self, uid: str, *, prompt: bool = True) -> None:
        if task := self._task(uid):
            task.wake(prompt=prompt)
        else:
            self._resting.wake(uid, prompt=prompt)

    async def ask_for_news(self) -> None:
        """Asks workers of NeuronModels that rest; runs until it is cancelled."""
        await self._resting.ask_for_news()

    def overdue_seconds(self) -> float:
        late = max((task.overdue_seconds for task, _ in self._followed.values()), default=0.0)
        return max(late, self._resting.overdue_seconds)

    def stuck_seconds(self) -> float:
        """How late a pass is that nothing holds up, or how long nobody was given a turn."""
        late = max((task.stuck_seconds for task, _ in self._followed.values()), default=0.0)
        return max(late, self._turns.stalled_seconds)

    async def stop(self) -> None:
        """Lets running passes reach their next write, then cancels them."""
        self._resting.clear()
        for task, _ in self._followed.values():
            task.stop()
        running = [runner for _, runner in self._followed.values()]
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=STOP_SECONDS)
        for runner in late:
            runner.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _begin(self, parked: Parked, prompt: bool) -> None:
        self._follow(parked.key, prompt=prompt, rest=parked.rest)

    def _follow(self, key: ModelKey, *, prompt: bool, rest: Rest | None = None) -> None:
        task = self._new_task(key, prompt, rest)
        runner = asyncio.create_task(task.run(), name=f"{key.namespace}/{key.name}")
        self._followed[key.uid] = (task, runner)
        runner.add_done_callback(lambda ended: self._unfollow(key, task, ended))

    def _unfollow(self, key: ModelKey, task: ModelTask, ended: "asyncio.Task[Rest | None]") -> None:
        """Parks a NeuronModel that rests; one that was woken meanwhile gets another task."""
        del self._followed[key.uid]
        self._pace.forget(key.uid)
        self._looks.forget(key.uid)
        rest = None if ended.cancelled() or ended.exception() else ended.result()
        if rest is None or task.stopping:
            self._follow_claims(key, task.claims, ())
            self._model_metrics.gone(key.uid)
        elif task.is_woken:
            self._follow(key, prompt=task.is_prompt, rest=rest)
        else:
            self._resting.park(key, rest)
        self._resting.forget(key)

    def _follow_claims(self, key: ModelKey, former: Iterable[str], names_of_claims: Iterable[str]) -> None:
        for name in {*former} - {*names_of_claims}:
            self._drop_user((key.namespace, name), key.uid)
        for name in {*names_of_claims} - {*former}:
            self._users[key.namespace, name].add(key.uid)

    def _drop_user(self, place: tuple[str, str], uid: str) -> None:
        users = self._users[place]
        users.discard(uid)
        if not users:
            del self._users[place]

    def _new_task(self, key: ModelKey, prompt: bool, rest: Rest | None) -> ModelTask:
        applier = Applier(
            self._api,
            key,
            now=self._clock.now,
            monotonic=self._clock.monotonic,
            stopping=lambda: task.stopping or not self._leases.is_held(key.namespace),
            wake=lambda: task.wake(),
            longest_pause=self._longest_pause,
            acting_since=lambda: self._leases.acting_since(key.namespace),
            is_confirmed=rest is not None and rest.is_confirmed,
        )
        reports = rest.reports if rest else ReportCache(self._report_client)
        assert isinstance(reports, ReportCache)
        parts = Parts(
            look=lambda how: self._look(key, how),
            reports=reports,
            decide=lambda observed, now: self._decide(observed, now, self._settings),
            applier=applier,
            pause=lambda wished: self._pace.pause(key.uid, wished),
            freshness=lambda seconds: self._freshness(key.uid, seconds),
            follow_claims=lambda former, names_of_claims: self._follow_claims(key, former, names_of_claims),
            saw=self._model_metrics.saw,
            failed=lambda failure: self._model_metrics.failed(key, failure),
            looked=lambda: self._resting.looked_at(key),
        )
        task = ModelTask(
            key,
            parts,
            clock=self._clock,
            metrics=self._metrics,
            turns=self._turns,
            leases=self._leases,
            seen=rest.seen if rest else None,
            prompt=prompt,
            longest_pause=self._longest_pause,
        )
        return task

    async def _look(self, key: ModelKey, how: Look) -> Snapshot | None:
        api = self._api.live if how.is_live else self._api
        return await look(api, key, self._clock.now(), how.events, is_first=how.is_first)

    def _freshness(self, uid: str, seconds: float) -> float:
        """Looks that no event asks for are live: a few a second, however many NeuronModels have not settled."""
        if seconds >= SETTLED_FRESH_SECONDS:
            self._looks.forget(uid)
            return seconds
        return min(SETTLED_FRESH_SECONDS, self._looks.pause(uid, seconds) or seconds)

    def _longest_pause(self) -> float:
        """Returns the longest pause in seconds; it grows with the number of NeuronModels, so that retrying all of them
        is no load of its own."""
        return min(LAST_BACKOFF_SECONDS, max(LONGEST_PAUSE_SECONDS, len(self._followed) / MODELS_A_SECOND))

    def _task(self, uid: str) -> ModelTask | None:
        found = self._followed.get(uid)
        return found[0] if found else None

    def _verdicts(self) -> list[Verdicts]:
        at_rest = (parked.rest.seen.verdicts if parked.rest else () for parked in self._resting)
        return [*(task.verdicts for task, _ in self._followed.values()), *at_rest]
