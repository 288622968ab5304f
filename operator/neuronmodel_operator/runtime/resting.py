"""NeuronModels that have no task: those that rest, and those that were listed and wait to be looked at.

A NeuronModel rests when nothing but an event, another version of it, or news from one of its workers can make a
difference. Of thousands most do, most of the time, so each is a small record; one task asks all their workers for news.
After a restart all are listed at once: a few at a time get a task, in every namespace alike.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from neuronmodel_operator.clock import Clock
from neuronmodel_operator.cluster.observe import ModelKey
from neuronmodel_operator.runtime.metrics import Verdicts
from neuronmodel_operator.state.plan import REPORT_WHEN_READY

QUESTIONS_A_SECOND: Final = 25.0
"""To workers of NeuronModels that rest. An answer that brings nothing new takes about a millisecond of a processor."""
MAX_BEGUN: Final = 32
"""Listed NeuronModels that have a task and were not looked at yet: enough that passes never wait for one."""


class HasReports(Protocol):
    """What is needed of `worker_reports.ReportCache`."""

    @property
    def has_answers(self) -> bool: ...

    async def has_news(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class LastSeen:
    """What is remembered of a look once the objects themselves are forgotten."""

    version: str
    """Of the NeuronModel."""
    claims: tuple[str, ...]
    """Names of the claims whose changes matter."""
    verdicts: Verdicts


@dataclass(frozen=True, slots=True)
class Rest:
    """What a task leaves of a NeuronModel that rests, for the next one."""

    seen: LastSeen
    reports: HasReports
    is_confirmed: bool
    """Whether a version of it that was acted on was the latest."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A NeuronModel without a task."""

    key: ModelKey
    rest: Rest | None
    """None: it was listed, and not looked at yet."""
    since: float
    """In monotonic seconds."""


Begin = Callable[[Parked, bool], None]
"""Called to give a NeuronModel a task; True if somebody may be waiting for it."""


class Resting:
    """`begin` takes them up again; `is_held` says whether this operator acts in a namespace."""

    def __init__(self, begin: Begin, is_held: Callable[[str], bool], clock: Clock) -> None:
        self._begin = begin
        self._is_held = is_held
        self._clock = clock
        self._parked: dict[str, Parked] = {}
        """By UID."""
        self._unseen: dict[str, deque[str]] = {}
        """UIDs of those that were listed and not looked at, by namespace."""
        self._begun: set[str] = set()
        """UIDs of listed ones that have a task, and were not looked at yet."""
        self._scouts: dict[str, str] = {}
        """UIDs, by namespace, of those that find out whether this operator may act there."""
        self._round: deque[tuple[float, str, Parked]] = deque()
        """Whose workers are asked for news next, and when."""
        self._never = asyncio.Event()

    def __len__(self) -> int:
        return len(self._parked)

    def __iter__(self) -> Iterator[Parked]:
        return iter(self._parked.values())

    def get(self, uid: str) -> Parked | None:
        return self._parked.get(uid)

    @property
    def uids(self) -> frozenset[str]:
        return frozenset(self._parked)

    @property
    def num_unseen(self) -> int:
        return sum(parked.rest is None for parked in self._parked.values())

    @property
    def overdue_seconds(self) -> float:
        """For how long the first of those that could be looked at has waited."""
        first = [
            self._parked[uids[0]].since
            for namespace, uids in self._unseen.items()
            if uids and uids[0] in self._parked and self._is_held(namespace)
        ]
        return max(0.0, self._clock.monotonic() - min(first)) if first else 0.0

    def add_listed(self, key: ModelKey) -> None:
        """One that is there, and of which nothing is known."""
        self._parked[key.uid] = Parked(key, None, self._clock.monotonic())
        self._unseen.setdefault(key.namespace, deque()).append(key.uid)
        self._feed()

    def park(self, key: ModelKey, rest: Rest) -> None:
        parked = Parked(key, rest, self._clock.monotonic())
        self._parked[key.uid] = parked
        self._ask_later(parked)

    def wake(self, uid: str, *, prompt: bool) -> bool:
        """Returns whether it was parked: it has a task now."""
        parked = self._parked.pop(uid, None)
        if parked is None:
            return False
        self._begin(parked, prompt)
        return True

    def looked_at(self, key: ModelKey) -> None:
        """Called when a pass over a NeuronModel has ended, or waits for its namespace: others may begin."""
        is_scout = self._scouts.get(key.namespace) == key.uid and self._is_held(key.namespace)
        if is_scout:
            del self._scouts[key.namespace]
        if is_scout or key.uid in self._begun:
            self._begun.discard(key.uid)
            self._feed()

    def forget(self, key: ModelKey) -> None:
        """Called when a NeuronModel's task has ended."""
        self._begun.discard(key.uid)
        if self._scouts.get(key.namespace) == key.uid:
            del self._scouts[key.namespace]
        self._feed()

    def clear(self) -> None:
        for each in (self._parked, self._unseen, self._begun, self._scouts, self._round):
            each.clear()

    async def ask_for_news(self) -> None:
        """Runs until it is cancelled."""
        asking: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._clock.wait(self._never, 1 / QUESTIONS_A_SECOND if self._is_due() else 1.0)
                if self._is_due():
                    _, uid, parked = self._round.popleft()
                    if self._parked.get(uid) is parked:
                        asked = asyncio.create_task(self._ask(parked))
                        asking.add(asked)
                        asked.add_done_callback(asking.discard)
        finally:
            for each in asking:
                each.cancel()

    def _is_due(self) -> bool:
        return bool(self._round) and self._round[0][0] <= self._clock.monotonic()

    async def _ask(self, parked: Parked) -> None:
        assert parked.rest is not None
        has_news = await parked.rest.reports.has_news()
        if self._parked.get(parked.key.uid) is not parked:
            return
        if has_news:
            self.wake(parked.key.uid, prompt=False)
        else:
            self._ask_later(parked)

    def _ask_later(self, parked: Parked) -> None:
        if parked.rest is not None and parked.rest.reports.has_answers:
            due_at = self._clock.monotonic() + REPORT_WHEN_READY.total_seconds()
            self._round.append((due_at, parked.key.uid, parked))

    def _feed(self) -> None:
        """Gives tasks to a few of those that were not looked at: in a namespace where this operator may not act yet to
        one, which finds out."""
        has_begun = True
        while has_begun:
            has_begun = False
            for namespace, uids in list(self._unseen.items()):
                has_begun |= self._feed_from(namespace, uids)

    def _feed_from(self, namespace: str, uids: deque[str]) -> bool:
        """Returns whether one was given a task."""
        while uids and uids[0] not in self._parked:  # an event has woken it
            uids.popleft()
        if not uids:
            del self._unseen[namespace]
            return False
        if not self._is_held(namespace):
            if namespace in self._scouts:
                return False
            self._scouts[namespace] = uids[0]
        elif len(self._begun) >= MAX_BEGUN:
            return False
        else:
            self._begun.add(uids[0])
        self.wake(uids.popleft(), prompt=False)
        return True
