"""One operator per namespace: two that follow the same NeuronModels would overwrite each other's writes.

An operator that follows a NeuronModel holds the Lease of its namespace. While another live operator holds it, this one
does nothing there. A problem with the Lease itself stops nobody: serving models matters more than detecting a second
operator.

As in client-go, all times are this process's own: a holder counts as alive until its record has been unchanged for the
duration that is written in it, and clocks of different machines are never compared.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from neuronmodel_api.reasons import Reason
from neuronmodel_operator.clock import Clock
from neuronmodel_operator.cluster import client, lease_record
from neuronmodel_operator.cluster.client import ApiError, Kind
from neuronmodel_operator.cluster.lease_record import DURATION_SECONDS, Holder, Object
from neuronmodel_operator.wording import sentence

RENEW_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 2.0
"""The interval while somebody else holds it, and for a while after a call has failed."""
CALL_SECONDS: Final = 4.0
"""A renewal with all its calls, and the pause before it, must take less than the duration."""
RELEASE_SECONDS: Final = 5.0
GONE_SECONDS: Final = 60.0
"""A namespace that has been gone for this long is no longer followed."""
MAX_TRIES: Final = 2
"""A write that conflicts is retried once, based on the current version; after that the next look is soon enough."""
MAX_NAMED: Final = 5
"""The most namespaces that a sentence lists."""
MAX_ANSWER: Final = 250
"""The most characters of the API server's message that a sentence quotes."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class KeepsLeases(Protocol):
    """The part of `client.Api` that Leases need."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None: ...

    async def create(self, kind: Kind, namespace: str | None, manifest: Mapping[str, Any]) -> Object: ...

    async def replace(self, kind: Kind, namespace: str, manifest: Mapping[str, Any]) -> Object: ...


class Leases:
    """The Leases of all namespaces in which NeuronModels are followed."""

    def __init__(self, api: KeepsLeases, me: Holder, clock: Clock) -> None:
        self._api = api
        self._me = me
        self._clock = clock
        self._candidacies: dict[str, tuple[_Candidacy, asyncio.Task[None]]] = {}

    async def wait_until_held(self, namespace: str) -> None:
        """Returns when this operator may act in the namespace; the first call starts to follow the namespace."""
        candidacy = self._candidacy(namespace) or self._begin(namespace)
        while not candidacy.may_act:
            await candidacy.decided()

    def is_held(self, namespace: str) -> bool:
        """Whether this operator may act in the namespace now. A process that was suspended for long may not, until it
        has read the Lease again."""
        candidacy = self._candidacy(namespace)
        return candidacy is not None and candidacy.may_act

    def acting_since(self, namespace: str) -> datetime | None:
        """Since when this operator has acted in the namespace without a break; None if it doesn't."""
        candidacy = self._candidacy(namespace)
        return candidacy.acting_since if candidacy is not None and candidacy.may_act else None

    def complaints(self) -> list[str]:
        """Returns a sentence for each operator of another release because of which nothing is done in some
        namespaces."""
        return [
            f"{_namespaces(found)} operated by {other} (Lease {found[0]}/{lease_record.NAME}), so this operator does "
            "nothing there. Give each operator namespaces of its own (watchNamespaces of the chart), or uninstall one "
            "of them."
            for other, found in self._by_other().items()
            if not other.is_of_release(self._me)
        ]

    def remarks(self) -> list[str]:
        """Returns sentences about states that are fine but may surprise, and about problems that affect only the
        Lease."""
        standing_by = [
            f"{_namespaces(found)} operated by {other}: this operator stands by until that one ends."
            for other, found in self._by_other().items()
            if other.is_of_release(self._me)
        ]
        by_problem: defaultdict[str, list[str]] = defaultdict(list)
        for namespace, state in self._states():
            if state.problem:
                by_problem[state.problem].append(namespace)
        unguarded = [
            f"{_namespaces(found)} operated without the Lease {lease_record.NAME}, so that a second operator there "
            f"would not be noticed: {problem}"
            for problem, found in by_problem.items()
        ]
        return standing_by + unguarded

    async def release(self) -> None:
        """Releases all Leases, once nothing is written any more: a successor need not wait until they expire."""
        candidacies, self._candidacies = self._candidacies, {}
        for _, runner in candidacies.values():
            runner.cancel()
        await asyncio.gather(*(runner for _, runner in candidacies.values()), return_exceptions=True)
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await asyncio.gather(*(candidacy.release() for candidacy, _ in candidacies.values()))
        except TimeoutError:
            _log.info("not every Lease %s was released in time; they run out by themselves", lease_record.NAME)

    def _candidacy(self, namespace: str) -> "_Candidacy | None":
        found = self._candidacies.get(namespace)
        return found[0] if found else None

    def _begin(self, namespace: str) -> "_Candidacy":
        candidacy = _Candidacy(self._api, namespace, self._me, self._clock)
        runner = asyncio.create_task(candidacy.run(), name=f"Lease of {namespace}")
        self._candidacies[namespace] = (candidacy, runner)
        runner.add_done_callback(lambda _: self._forget(namespace, runner))
        return candidacy

    def _forget(self, namespace: str, runner: asyncio.Task[None]) -> None:
        """A cancelled candidacy may still hold its Lease, so it is kept for `release`."""
        if not runner.cancelled():
            self._candidacies.pop(namespace, None)

    def _states(self) -> Iterable[tuple[str, "_LeaseState"]]:
        return ((namespace, candidacy.state) for namespace, (candidacy, _) in sorted(self._candidacies.items()))

    def _by_other(self) -> dict[Holder, list[str]]:
        found: defaultdict[Holder, list[str]] = defaultdict(list)
        for namespace, state in self._states():
            if state.other:
                found[state.other].append(namespace)
        return found


@dataclass(frozen=True)
class _LeaseState:
    """The state of one namespace."""

    may_act: bool = False
    other: Holder | None = None
    """The operator that may act instead."""
    problem: str = ""
    """Why the Lease can't be used."""
    is_gone: bool = False
    """Whether the namespace is gone."""


_NEVER_READ: Final = ApiError(404, "NotFound", "it was not looked at yet")


class _Candidacy:
    """Acquires and renews the Lease of one namespace."""

    def __init__(self, api: KeepsLeases, namespace: str, me: Holder, clock: Clock) -> None:
        self.state = _LeaseState()
        self._api = api
        self._namespace = namespace
        self._me = me
        self._clock = clock
        self._lease: Object | None = None
        self._changed_at = clock.monotonic()
        """When the record was last observed to change, in monotonic seconds."""
        self._is_blind = False
        """Whether the last attempt to read it failed."""
        self._looked_at = float("-inf")
        self._failing_since: float | None = None
        self._gone_since: float | None = None
        self._decided = asyncio.Event()
        self.acting_since: datetime | None = None
        """Since when it may act, without a break."""

    @property
    def may_act(self) -> bool:
        return self.state.may_act and self._clock.monotonic() - self._looked_at < DURATION_SECONDS

    async def decided(self) -> None:
        """Waits for the next decision, whichever it is."""
        self._decided.clear()
        await self._decided.wait()

    async def run(self) -> None:
        """Runs until the namespace is gone."""
        while not self._is_long_gone():
            await self._decide()
            await self._clock.wait(asyncio.Event(), self._pause())

    async def release(self) -> None:
        """Releases the Lease if this operator holds it."""
        try:
            self._see(await self._get())
            if self._lease is not None and self._is_mine():
                await self._write(lease_record.released(self._lease, self._clock.now()))
        except ApiError as error:
            _log.info("the Lease %s/%s was not released, it runs out: %s", self._namespace, lease_record.NAME, error)

    async def _decide(self) -> None:
        began = self._clock.monotonic()
        try:
            state = await self._take_or_look()
        except Exception as error:  # a bug of ours must stop serving no more than a refusal of the API server does
            _log.exception("the Lease %s/%s: a look at it failed", self._namespace, lease_record.NAME)
            state = self.state if self.state.other else _LeaseState(may_act=True, problem=f"{error!r}.")
        self._log_change(self.state, state)
        if not self.may_act:
            self.acting_since = self._clock.now()
        self.state, self._looked_at = state, began
        self._failing_since = (self._failing_since or began) if state.problem else None
        self._gone_since = (self._gone_since or began) if state.is_gone else None
        self._decided.set()

    async def _take_or_look(self) -> _LeaseState:
        """Renews the Lease without reading it while nobody else writes to it; after a conflict it is read, and acquired
        if it is free."""
        refused = await self._refusal_of_taking() if self._is_mine() else _NEVER_READ
        for _ in range(MAX_TRIES):
            if refused is None:
                return _LeaseState(may_act=True)
            try:
                self._see(await self._get())
            except ApiError as error:
                return self._state_unreadable(error)
            if other := self._live_other():
                return _LeaseState(other=other)
            if not _is_based_on_another(refused):
                break
            refused = await self._refusal_of_taking()
        return self._state_refused(refused) if refused else _LeaseState(may_act=True)

    async def _refusal_of_taking(self) -> ApiError | None:
        """Tries to acquire the Lease; returns None on success."""
        try:
            self._see(await self._write(lease_record.taken(self._lease, self._me, self._clock.now())))
        except ApiError as error:
            return error
        return None

    def _state_unreadable(self, error: ApiError) -> _LeaseState:
        """The holder that was last observed keeps the Lease for its duration, and for as long as the API server does
        not answer at all."""
        self._is_blind = True
        other = self._other()
        is_answer = 400 <= error.status < 500 and error.status not in (401, 408, 429)
        if other and not (is_answer and self._age() >= lease_record.duration_seconds(self._lease)):
            return _LeaseState(other=other)
        return _LeaseState(may_act=True, problem=f"it can't be read: {_shortened(error)}")

    def _state_refused(self, error: ApiError) -> _LeaseState:
        if _is_based_on_another(error) and error.status == 409:
            return _LeaseState(may_act=self.state.may_act)
        if "NamespaceTerminating" in error.causes:
            return _LeaseState(may_act=True)
        if error.status == 404 and self._lease is None:
            return _LeaseState(may_act=True, is_gone=True)
        return _LeaseState(may_act=True, problem=f"it can't be written: {_shortened(error)}")

    def _see(self, found: Object | None) -> None:
        """After a failed read the holder is given a whole duration again: it may have been cut off from the API server
        as well."""
        if self._is_blind or not lease_record.is_same_record(self._lease, found):
            self._changed_at = self._clock.monotonic()
        self._lease, self._is_blind = found, False

    def _live_other(self) -> Holder | None:
        return self._other() if self._age() < lease_record.duration_seconds(self._lease) else None

    def _other(self) -> Holder | None:
        found = lease_record.holder(self._lease)
        return None if found is None or found.identity == self._me.identity else found

    def _is_mine(self) -> bool:
        found = lease_record.holder(self._lease)
        return found is not None and found.identity == self._me.identity

    def _age(self) -> float:
        return self._clock.monotonic() - self._changed_at

    def _pause(self) -> float:
        if not self.may_act:
            return LOOK_SECONDS
        is_fresh = self._failing_since is not None and self._clock.monotonic() - self._failing_since < DURATION_SECONDS
        return LOOK_SECONDS if is_fresh else RENEW_SECONDS

    def _is_long_gone(self) -> bool:
        return self._gone_since is not None and self._clock.monotonic() - self._gone_since >= GONE_SECONDS

    def _log_change(self, former: _LeaseState, state: _LeaseState) -> None:
        where = f"{self._namespace}/{lease_record.NAME}"
        if state.other and former.may_act:
            _log.warning("lost the Lease %s to %s: nothing more is done in that namespace", where, state.other)
        elif state.other and state.other != former.other:
            _log.warning("the Lease %s is held by %s: nothing is done in that namespace", where, state.other)
        elif state.problem and not former.problem:
            _log.warning("acting without the Lease %s: %s", where, state.problem)
        elif state.may_act and not state.problem and not state.is_gone and (former.problem or not former.may_act):
            _log.info("holding the Lease %s", where)

    async def _get(self) -> Object | None:
        return await _answered(self._api.get(client.LEASE, self._namespace, lease_record.NAME))

    async def _write(self, manifest: Object) -> Object:
        if "resourceVersion" in manifest["metadata"]:
            return await _answered(self._api.replace(client.LEASE, self._namespace, manifest))
        return await _answered(self._api.create(client.LEASE, self._namespace, manifest))


async def _answered(call: Awaitable[T]) -> T:
    """Returns the result. Raises ApiError, also if there is no answer in time."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await call
    except TimeoutError:
        raise ApiError(0, Reason.NO_ANSWER, f"the API server did not answer within {CALL_SECONDS:.0f} s") from None


def _is_based_on_another(error: ApiError) -> bool:
    """Whether reading the Lease again may help: it was created, deleted or changed meanwhile. (A webhook may answer 409
    too.)"""
    return error.status == 404 or error.reason == "AlreadyExists" or error.is_outdated


def _namespaces(found: Sequence[str]) -> str:
    """Returns the beginning of a sentence."""
    named = ", ".join(found[:MAX_NAMED]) + (f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else "")
    return f"Namespace {named} is" if len(found) == 1 else f"Namespaces {named} are"


def _shortened(error: ApiError) -> str:
    return sentence(error.message, MAX_ANSWER)
