"""Which faults a recording gives rise to.

The first three patterns are those of Sieve (OSDI 2022): a controller that acts on an intermediate state (it is killed
before or after each of its writes), that sees a stale state (events that come late; an API server that is behind,
after a restart), and that misses a state (events that never come).
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.campaign.trial import Trial
from tests.campaign.workers import WORKER_ANSWERS, Answer, Befallen
from tests.faults.faults import Around, CutAfter, CutBefore, CutInside, Delay, Fault, Hang, Lag, Refuse
from tests.faults.requests import ApiRequest, Match, WriteId
from tests.faults.watch_events import EventId


class Pattern(StrEnum):
    INTERMEDIATE = "intermediate state"
    STALE = "stale state"
    UNOBSERVED = "unobserved state"
    ANSWER = "answers to writes"
    READ = "answers to reads"
    WATCH = "watches"
    WORKER = "answers of workers"
    CLOCK = "the operator's clock"
    CLUSTER = "the cluster's own"


@dataclass(frozen=True)
class Tried:
    pattern: Pattern
    what: str
    """In the words of the table's rows."""
    where: str
    """The write, event or read."""
    arm: Callable[[Trial], None] = lambda trial: None
    clock_offset: float = 0.0
    """By how many seconds the operator's clock is ahead, all the time."""
    ends_namespace: bool = False
    """The story ends with its namespace."""
    loses_reports: bool = False
    """A worker that goes meanwhile has told nobody what its start was made of."""
    begin: Callable[[], Awaitable[None]] | None = None
    """Awaited before the story is told; what befalls it then is of no single trial."""

    def is_reached(self, trial: Trial) -> bool:
        """Whether it came about: a write or an event of that number was there."""
        return self.clock_offset != 0 or self.begin is not None or trial.num_befallen > 0

    def __str__(self) -> str:
        return f"{self.what}: {self.where}"


RESOURCES_WRITTEN: Final = (
    *("neuronmodels", "neuronmodels/status", "deployments", "services", "jobs", "persistentvolumeclaims", "events"),
    "leases",
)
"""Reviews of the operator's own rights are no writes."""
STALE_READS: Final = 2
MANY: Final = 1_000_000
ANSWERS: Final[dict[str, Fault]] = {
    "429 with Retry-After": Refuse(429, "TooManyRequests", retry_after=1),
    "500": Refuse(500),
    "503": Refuse(503, "ServiceUnavailable"),
    "409": Refuse(409, "Conflict"),
    "403": Refuse(403, "Forbidden"),
    "delayed by 3 s": Delay(3.0),
    "never answered": Hang(),
    "cut before it took effect": CutBefore(),
    "cut after it took effect": CutAfter(),
    "cut in the middle of the answer": CutInside(),
}
READ_ANSWERS: Final[dict[str, Fault]] = {
    "429 with Retry-After": Refuse(429, "TooManyRequests", retry_after=1),
    "500": Refuse(500),
    "503": Refuse(503, "ServiceUnavailable"),
    "403": Refuse(403, "Forbidden"),
    "never answered": Hang(),
    "cut": CutBefore(),
    "cut in the middle of the answer": CutInside(),
    "an older answer": Lag(),
}
READ_RESOURCES: Final = (
    *("neuronmodels", "deployments", "services", "jobs", "replicasets", "pods", "persistentvolumeclaims", "events"),
)
READS: Final = frozenset({"get", "list"})
NUM_READS_BEFALLEN: Final = 3
ANSWERS_A_WRITE: Final = 2
"""Of ANSWERS, by chance: a webhook answers every write in every way in tests/cluster."""
ANSWERS_A_READ: Final = 3
EVENTS_OF_WATCHES: Final = 1 / 5
NUM_REPORTS_BEFALLEN: Final = 4


def tries_of(story: str, writes: Sequence[WriteId], events: Sequence[EventId], seed: int) -> list[Tried]:
    return [
        *_killed(writes),
        *_events(events),
        *_answers(story, writes, seed),
        *_reads(story, seed),
        *_watches(story, events, seed),
        *_workers(),
        *_clocks(),
        *_namespaces(writes),
    ]


def _killed(writes: Sequence[WriteId]) -> Iterator[Tried]:
    for write in writes:
        if write.what.split()[1] not in RESOURCES_WRITTEN:
            continue
        yield Tried(Pattern.INTERMEDIATE, "killed before a write", str(write), _kill(write, is_after=False))
        yield Tried(Pattern.INTERMEDIATE, "killed after a write", str(write), _kill(write, is_after=True))
        yield Tried(
            Pattern.STALE, "killed after a write, then reads as before it", str(write),
            _kill(write, is_after=True, is_stale=True),
        )  # fmt: skip


def _namespaces(writes: Sequence[WriteId]) -> Iterator[Tried]:
    for write in writes:
        if write.what.split()[1] in RESOURCES_WRITTEN:
            yield Tried(
                Pattern.CLUSTER, "the namespace is deleted after a write", str(write), _delete_namespace(write),
                ends_namespace=True,
            )  # fmt: skip


def _delete_namespace(write: WriteId) -> Callable[[Trial], None]:
    def arm(trial: Trial) -> None:
        async def end(request: ApiRequest) -> None:
            await trial.delete_namespace()

        trial.proxy.write_faults = {write: Around(after=end)}

    return arm


def _kill(write: WriteId, *, is_after: bool, is_stale: bool = False) -> Callable[[Trial], None]:
    def arm(trial: Trial) -> None:
        async def kill(request: ApiRequest) -> None:
            if is_stale:
                trial.proxy.serve_stale(STALE_READS)
            trial.kill_operator()

        fault = Around(after=kill) if is_after else Around(before=kill)
        trial.proxy.write_faults = {write: fault}

    return arm


def _events(events: Sequence[EventId]) -> Iterator[Tried]:
    for event in events:
        yield Tried(Pattern.UNOBSERVED, "an event that never comes", str(event), _befall("dropped", event))
        yield Tried(Pattern.STALE, "an event after the next three", str(event), _befall("late", event))


def _watches(story: str, events: Sequence[EventId], seed: int) -> Iterator[Tried]:
    """Each for one event in five."""
    for what, field in (
        ("an event that comes twice", "repeated"),
        ("a watch that is closed after an event", "closing"),
        ("410 Gone after an event", "expiring"),
    ):
        for event in events:
            if random.Random(f"{seed} {story} {what} {event}").random() < EVENTS_OF_WATCHES:
                yield Tried(Pattern.WATCH, what, str(event), _befall(field, event))


def _befall(fault: str, event: EventId) -> Callable[[Trial], None]:
    def arm(trial: Trial) -> None:
        # Of the watches that are open as well.
        setattr(trial.proxy.event_faults, fault, frozenset({event}))

    return arm


def _answers(story: str, writes: Sequence[WriteId], seed: int) -> Iterator[Tried]:
    for write in writes:
        if write.what.split()[1] not in RESOURCES_WRITTEN:
            continue
        # The same of each write, whatever else is recorded.
        chance = random.Random(f"{seed} {story} {write}")
        for name in chance.sample(list(ANSWERS), k=ANSWERS_A_WRITE):
            yield Tried(Pattern.ANSWER, f"a write {_said(name)}", str(write), _answer(write, ANSWERS[name]))


def _answer(write: WriteId, fault: Fault) -> Callable[[Trial], None]:
    def arm(trial: Trial) -> None:
        trial.proxy.write_faults = {write: fault}

    return arm


def _reads(story: str, seed: int) -> Iterator[Tried]:
    chance = random.Random(f"reads {story} {seed}")
    for resource in READ_RESOURCES:
        for name in chance.sample(list(READ_ANSWERS), k=ANSWERS_A_READ):
            yield Tried(Pattern.READ, f"reads {_said(name)}", resource, _read(resource, READ_ANSWERS[name]))


def _read(resource: str, fault: Fault) -> Callable[[Trial], None]:
    def arm(trial: Trial) -> None:
        trial.proxy.faults.add(fault, Match(READS, resource), skip=1, times=NUM_READS_BEFALLEN)

    return arm


def _said(name: str) -> str:
    return f"answered with {name}" if name[0].isdigit() or name.startswith("an ") else name


def _workers() -> Iterator[Tried]:
    for name, answer in WORKER_ANSWERS.items():
        yield Tried(Pattern.WORKER, f"a report {_said(name)}", f"the first {NUM_REPORTS_BEFALLEN}", _report(answer))


def _clocks() -> Iterator[Tried]:
    for what, seconds in (("an hour ahead", 3600.0), ("an hour behind", -3600.0)):
        yield Tried(Pattern.CLOCK, what, "all the time", clock_offset=seconds)


def _report(answer: Answer) -> Callable[[Trial], None]:
    def arm(trial: Trial) -> None:
        trial.behaviour.answer = Befallen(answer, NUM_REPORTS_BEFALLEN)

    return arm
