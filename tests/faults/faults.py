"""What goes wrong with a request, and with which: rules that are used up, in the order in which they were added."""

import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.faults.requests import ApiRequest, Match


@dataclass(frozen=True)
class Delay:
    """Forwards it after some seconds."""

    seconds: float


@dataclass(frozen=True)
class Refuse:
    """Answers with a Status of its own, and forwards nothing."""

    status: int
    reason: str = "InternalError"
    message: str = "as it was told"
    retry_after: int | None = None


@dataclass(frozen=True)
class Hang:
    """Forwards nothing and never answers, as long as the client waits."""


@dataclass(frozen=True)
class CutBefore:
    """Closes the connection before anything is forwarded."""


@dataclass(frozen=True)
class CutAfter:
    """Forwards it, and closes the connection in place of the answer: a write took effect."""


@dataclass(frozen=True)
class CutInside:
    """Forwards it, and closes the connection in the middle of the answer's body."""


@dataclass(frozen=True)
class Lag:
    """Answers a read as it was answered `answers` times before: an API server that is behind. Forwards it where there
    was no such answer yet."""

    answers: int = 1


@dataclass(frozen=True)
class Around:
    """Calls something before it is forwarded, or after the API server's answer, and then closes the connection."""

    before: Callable[[ApiRequest], Awaitable[None]] | None = None
    after: Callable[[ApiRequest], Awaitable[None]] | None = None


Fault = Delay | Refuse | Hang | CutBefore | CutAfter | CutInside | Lag | Around


@dataclass
class Rule:
    """Befalls `times` of the requests that match, after the first `skip` of them."""

    match: Match
    fault: Fault
    skip: int = 0
    times: int = 1
    num_seen: int = 0

    @property
    def num_used(self) -> int:
        return max(0, min(self.num_seen - self.skip, self.times))

    def befalls(self, request: ApiRequest) -> bool:
        """Counts the request if it matches."""
        if not self.match.holds(request):
            return False
        self.num_seen += 1
        return self.skip < self.num_seen <= self.skip + self.times


@dataclass
class Faults:
    """The rules of a proxy. Each request is befallen by the first rule that is not used up."""

    rules: list[Rule] = field(default_factory=list)

    def add(self, fault: Fault, match: Match | None = None, *, skip: int = 0, times: int = 1) -> Rule:
        self.rules.append(rule := Rule(match or Match(), fault, skip, times))
        return rule

    def clear(self) -> None:
        self.rules.clear()

    def of(self, request: ApiRequest) -> Fault | None:
        return next((rule.fault for rule in self.rules if rule.befalls(request)), None)


@dataclass
class RandomFaults(Faults):
    """Faults of a seed: each request that matches is befallen by one of `choices` with the given probability. The same
    requests in the same order are befallen by the same faults."""

    seed: int = 0
    probability: float = 0.1
    choices: Sequence[Fault] = ()
    match: Match = field(default_factory=Match)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._numbers = itertools.count()

    def of(self, request: ApiRequest) -> Fault | None:
        if (told := super().of(request)) is not None or not self.choices or not self.match.holds(request):
            return told
        befallen, choice = self._chance.random() < self.probability, self._chance.choice(self.choices)
        return choice if befallen else None
