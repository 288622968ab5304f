"""Writes to the objects of one NeuronModel: which are under way, which were refused, and when each is retried.

A write that the API server does not answer delays no pass: it continues in the background, the status mentions it
meanwhile, and its completion wakes the NeuronModel's task. A failed write is remembered as a `Refusal` until it
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
"""The writes of one plan may delay its status by this much in total."""
LEAST_WAIT_SECONDS: Final = 0.1
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 5.0
"""The pause between two attempts. The end of what blocks a write (a quota, a webhook) is no event that could be
watched, so it is polled, and a NeuronModel goes on within seconds."""
MOMENT_SECONDS: Final = 0.25
_MOMENTARY: Final = frozenset({409, 500, 502, 503, 504})

ChildKey = tuple[str, str]
"""(kind, name)"""
Verb = Literal["write", "delete"]
Request = Callable[[], Awaitable[bool]]
"""Returns whether something was written. Raises ApiError, TurnedDownError for what is detected without the API server,
and OutdatedError."""


class TurnedDownError(Exception):
    """The write was rejected because of an existing object, not by the API server."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class OutdatedError(Exception):
    """The object that a write was derived from has changed meanwhile, so the write is derived again. This is not
    reported as a problem, and the previous state of the write stays reported: a status that changed for a moment would
    outdate the next write too."""


@dataclass(frozen=True)
class _Refused:
    refusal: Refusal
    digest: str
    attempts: int
    retry_at: float
    """In monotonic seconds."""


class Writes:
    """The writes of one NeuronModel."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        wake: Callable[[], None],
        longest_pause: Callable[[], float],
    ) -> None:
        """`wake` is called when a write has ended in the background; `longest_pause` returns the longest pause between
        two attempts, in seconds."""
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
        """Seconds until a refused write is worth another try; None if there is none, or if it is being retried."""
        due = [refused.retry_at for key, refused in self._refused.items() if key[:2] not in self._under_way]
        return max(0.0, min(due) - self._monotonic()) if due else None

    @property
    def are_done(self) -> bool:
        """Whether none is under way, and none was refused."""
        return not self._under_way and not self._refused

    @contextmanager
    def of_one_plan(self) -> Iterator[None]:
        """Limits how long the writes in the block are waited for."""
        self._wait_until = asyncio.get_running_loop().time() + WAIT_SECONDS
        try:
            yield
        finally:
            self._wait_until = float("inf")

    def may_try(self, key: ChildKey, verb: Verb, digest: str) -> bool:
        """Whether the write may be attempted now: no other one is under way, and the same one is not in its pause."""
        refused = self._refused.get((*key, verb))
        is_early = refused is not None and refused.digest == digest and self._monotonic() < refused.retry_at
        return key not in self._under_way and not is_early

    async def attempt(self, key: ChildKey, verb: Verb, digest: str, request: Request) -> bool:
        """Attempts the write and returns whether it has been written by now. Errors of the API server are not
        raised."""
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

    def is_refused(self, key: ChildKey, verb: Verb) -> bool:
        return (*key, verb) in self._refused

    def forget_all_but(self, planned: Collection[tuple[str, str, Verb]]) -> None:
        """Drops the refusals of writes that are no longer planned."""
        self._refused = {key: refused for key, refused in self._refused.items() if key in planned}

    def is_wanted(self, key: ChildKey | None) -> bool:
        """Whether the object is still to be written, or was written since `take_written` was last called."""
        if key is None:
            return False
        return key in self._under_way or key in self._written or any(key == refused[:2] for refused in self._refused)

    def take_written(self) -> tuple[ChildKey, ...]:
        """Returns what was written or deleted since the last call, in order."""
        written, self._written = tuple(self._written), {}
        return written

    def close(self) -> None:
        """Cancels writes under way; whether they still take effect is up to the API server."""
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
    """Runs the request and retries it once if the error may be transient."""
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
    """Whether two answers are the same apart from what differs each time. A server error may contain a counter
    ("request 17 …"), but the numbers of a quota matter to whoever has to raise it."""
    if (former.reason, former.status) != (refusal.reason, refusal.status):
        return False
    alike = _without_numbers if refusal.is_of_the_server else stable
    return alike(former.message) == alike(refusal.message)


def _without_numbers(text: str) -> str:
    return re.sub(r"\b[0-9a-f]*[0-9][0-9a-f]*\b", "0", text)
