"""Writes to what belongs to one NeuronModel: which are under way, which were turned down, when each is tried again.

A write that the API server does not answer keeps no pass waiting: it goes on behind, the status tells of it meanwhile,
and its end wakes the NeuronModel's task. Whatever a write is answered, it is remembered as a `Refusal` until it
succeeds or is no longer wanted.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from neuronmodel_api.reasons import Reason
from neuronmodel_operator.cluster.backoff import doubling
from neuronmodel_operator.cluster.client import ApiError
from neuronmodel_operator.state.observed import Refusal
from neuronmodel_operator.wording import stable

WAIT_SECONDS: Final = 2.0
"""How long the writes of one plan may hold up its status, all together."""
LEAST_WAIT_SECONDS: Final = 0.1
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 5.0
"""Between two tries. What stood in the way, a quota or a webhook, makes no event that anybody could watch when it is
gone: it is looked for, so that a NeuronModel goes on within seconds."""
MOMENT_SECONDS: Final = 0.25
_MOMENTARY: Final = frozenset({409, 500, 502, 503, 504})

ChildKey = tuple[str, str]
"""(kind, name)"""
Verb = Literal["write", "delete"]
Request = Callable[[], Awaitable[bool]]
"""Whether something was written. Raises ApiError, TurnedDownError for what is found out otherwise, OutdatedError."""


class TurnedDownError(Exception):
    """Not by the API server: by what is there already."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class OutdatedError(Exception):
    """What a write was derived from has changed meanwhile: it is derived anew. That is nobody's trouble, and what was
    told of the write before stays true: a status that told otherwise for a moment would outdate the next one too."""


@dataclass(frozen=True)
class _Refused:
    refusal: Refusal
    digest: str
    attempts: int
    retry_at: float
    """Monotonic seconds."""


class Writes:
    """Of one NeuronModel."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        wake: Callable[[], None],
        longest_pause: Callable[[], float],
    ) -> None:
        """`wake` is called when a write that was not waited for has ended; `longest_pause` is between two tries, in
        seconds."""
        self._now = now
        self._monotonic = monotonic
        self._wake = wake
        self._longest_pause = longest_pause
        self._under_way: dict[ChildKey, asyncio.Task[bool]] = {}
        self._refused: dict[tuple[str, str, Verb], _Refused] = {}
        self._written: dict[ChildKey, None] = {}
        self._wait_until = float("inf")

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(refused.refusal for _, refused in sorted(self._refused.items()))

    @property
    def retry_in(self) -> float | None:
        """Seconds until what was turned down is worth another try; None: nothing was, or its try is under way."""
        due = [refused.retry_at for key, refused in self._refused.items() if key[:2] not in self._under_way]
        return max(0.0, min(due) - self._monotonic()) if due else None

    @contextmanager
    def of_one_plan(self) -> Iterator[None]:
        """Bounds how long the writes within are waited for."""
        self._wait_until = asyncio.get_running_loop().time() + WAIT_SECONDS
        try:
            yield
        finally:
            self._wait_until = float("inf")

    def may_try(self, key: ChildKey, verb: Verb, digest: str) -> bool:
        """Not while one is under way, nor the same again before its time."""
        refused = self._refused.get((*key, verb))
        is_early = refused is not None and refused.digest == digest and self._monotonic() < refused.retry_at
        return key not in self._under_way and not is_early

    async def attempt(self, key: ChildKey, verb: Verb, digest: str, request: Request) -> bool:
        """Whether it was written by now. Raises nothing of what the API server may answer."""
        is_first = (*key, verb) not in self._refused
        task = asyncio.create_task(_with_one_retry(request) if is_first else _once(request))
        self._under_way[key] = task
        left = self._wait_until - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait({task}, timeout=max(LEAST_WAIT_SECONDS, left))
        if done:
            return self._settle(key, verb, digest, task)
        if is_first:
            self._refuse(key, verb, digest, ApiError(0, Reason.NO_ANSWER, "the API server has not answered yet"))
        task.add_done_callback(lambda task: self._end(key, verb, digest, task))
        return False

    def forget_all_but(self, planned: Collection[tuple[str, str, Verb]]) -> None:
        """What is no longer wanted stands in nobody's way."""
        self._refused = {key: refused for key, refused in self._refused.items() if key in planned}

    def is_wanted(self, key: ChildKey | None) -> bool:
        """And not written yet, or only since that was last asked for."""
        if key is None:
            return False
        return key in self._under_way or key in self._written or any(key == refused[:2] for refused in self._refused)

    def take_written(self) -> tuple[ChildKey, ...]:
        """What was written or deleted since this was last asked for, in order."""
        written, self._written = tuple(self._written), {}
        return written

    def close(self) -> None:
        """Gives up what is under way; whether it still takes effect is the API server's to know."""
        for task in self._under_way.values():
            task.cancel()

    def _end(self, key: ChildKey, verb: Verb, digest: str, task: asyncio.Task[bool]) -> None:
        if not task.cancelled():
            self._settle(key, verb, digest, task)
            self._wake()

    def _settle(self, key: ChildKey, verb: Verb, digest: str, task: asyncio.Task[bool]) -> bool:
        self._under_way.pop(key, None)
        error = task.exception()
        if error is None:
            self._refused.pop((*key, verb), None)
            if verb == "delete":
                self._refused.pop((*key, "write"), None)
            if task.result():
                self._written[key] = None
            return task.result()
        if isinstance(error, OutdatedError):
            return False
        if not isinstance(error, ApiError | TurnedDownError):
            raise error
        self._refuse(key, verb, digest, error)
        return False

    def _refuse(self, key: ChildKey, verb: Verb, digest: str, error: ApiError | TurnedDownError) -> None:
        former = self._refused.get((*key, verb))
        attempts = former.attempts + 1 if former and former.digest == digest else 1
        pause = doubling(FIRST_PAUSE_SECONDS, attempts, self._longest_pause())
        if isinstance(error, ApiError) and error.retry_after:
            pause = max(pause, error.retry_after)
        refusal = self._as_refusal(key, verb, error)
        if former:
            refusal = replace(refusal, since=former.refusal.since)
            if _is_same_answer(former.refusal, refusal):
                refusal = former.refusal
        self._refused[(*key, verb)] = _Refused(refusal, digest, attempts, self._monotonic() + pause)

    def _as_refusal(self, key: ChildKey, verb: Verb, error: ApiError | TurnedDownError) -> Refusal:
        every = round(self._longest_pause())
        if isinstance(error, TurnedDownError):
            return Refusal(*key, error.reason, error.message, 409, verb, self._now(), every)
        reason = "NamespaceTerminating" if "NamespaceTerminating" in error.causes else error.reason
        every = max(every, round(error.retry_after or 0))
        return Refusal(*key, reason, error.message, error.status, verb, self._now(), every)


async def _with_one_retry(request: Request) -> bool:
    """What may have been a matter of the moment is asked for once more before it counts."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        return await request()
    except ApiError as error:
        is_cut = error.status == 0 and loop.time() - began < 1
        if not is_cut and error.status not in _MOMENTARY:
            raise
    await asyncio.sleep(MOMENT_SECONDS)
    return await request()


async def _once(request: Request) -> bool:
    return await request()


def _is_same_answer(former: Refusal, refusal: Refusal) -> bool:
    """But for what differs each time. What the server says of itself may count ("request 17 …"); a quota's numbers are
    for whoever mends it."""
    if (former.reason, former.status) != (refusal.reason, refusal.status):
        return False
    alike = _without_numbers if refusal.is_of_the_server else stable
    return alike(former.message) == alike(refusal.message)


def _without_numbers(text: str) -> str:
    return re.sub(r"\b[0-9a-f]*[0-9][0-9a-f]*\b", "0", text)
