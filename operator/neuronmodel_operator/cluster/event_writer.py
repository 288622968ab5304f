"""Writes the Events of one NeuronModel. They are informative: they delay a pass by little, and one that a busy API
server does not take is written with a later pass."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, ReadsAndWrites
from neuronmodel_operator.state.observed import Object, is_of_the_server
from neuronmodel_operator.state.plan import EventNote, Manifest
from neuronmodel_operator.wording import moment

MAX_EVENT_NOTE: Final = 1024
"""The API server rejects longer notes."""
PASS_SECONDS: Final = 2.0
"""The Events of one plan may delay a pass by this much in total."""
LEAST_EVENT_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 15.0
"""How long after one pass another is made for Events that are waiting, if there is no other cause for one."""
MAX_ATTEMPTS: Final = 10
"""Passes that try to write an Event. One that the API server does not take for so long is only in the log."""
MAX_UNANSWERED: Final = 2
"""How many Events one pass tries that an API server in trouble does not take: the others wait for a later pass."""
MAX_WAITING: Final = 20
"""Events that wait for a later pass. If there are more, the oldest are only in the log."""


class LogWarning(Protocol):
    def __call__(self, message: str, *arguments: object) -> None: ...


@dataclass(frozen=True)
class _Unwritten:
    manifest: Manifest
    attempts: int = 0

    @property
    def reason(self) -> str:
        return str(self.manifest["reason"])


class EventWriter:
    def __init__(
        self,
        api: ReadsAndWrites,
        namespace: str,
        *,
        now: Callable[[], datetime],
        check_stopping: Callable[[], None],
        log_warning: LogWarning,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._now = now
        self._check_stopping = check_stopping
        self._log_warning = log_warning
        self._waiting: list[_Unwritten] = []
        """Events that earlier passes could not write, oldest first."""

    @property
    def retry_in(self) -> float | None:
        """Seconds until another pass for Events that are waiting; None if none is."""
        return RETRY_SECONDS if self._waiting else None

    async def write(self, notes: Iterable[EventNote], model: Object) -> None:
        """Writes these Events and then those that are waiting. An error is logged, not raised: the status has the same
        information."""
        fresh = [_Unwritten(event_manifest(note, model, self._now())) for note in notes]
        unwritten, self._waiting = [*fresh, *self._waiting], []
        loop, num_kept = asyncio.get_running_loop(), 0
        deadline = loop.time() + PASS_SECONDS
        for number, event in enumerate(unwritten):
            self._check_stopping()
            is_late = number >= len(fresh) and loop.time() >= deadline
            if is_late or num_kept >= MAX_UNANSWERED:
                self._waiting.append(event)
                continue
            num_kept += not await self._attempt(event, max(LEAST_EVENT_SECONDS, deadline - loop.time()))
        for event in self._waiting[MAX_WAITING:]:
            self._log_warning("Event %s was not written: too many others are waiting", event.reason)
        del self._waiting[MAX_WAITING:]

    async def _attempt(self, event: _Unwritten, seconds: float) -> bool:
        """Returns False if the API server is in trouble, and the Event worth another attempt."""
        try:
            async with asyncio.timeout(seconds):
                await self._write(event.manifest, is_retry=event.attempts > 0)
        except TimeoutError:
            self._keep(event, "the API server did not answer")
            return False
        except ApiError as error:
            if "NamespaceTerminating" in error.causes:
                return True
            if is_of_the_server(error.status):
                self._keep(event, error.message)
                return False
            self._log_warning("Event %s was not written: %s", event.reason, error.message)
        return True

    def _keep(self, event: _Unwritten, why: str) -> None:
        attempts = event.attempts + 1
        if attempts < MAX_ATTEMPTS:
            self._waiting.append(_Unwritten(event.manifest, attempts))
        if event.attempts == 0:
            self._log_warning("Event %s was not written: %s; a later pass tries again", event.reason, why)
        elif attempts == MAX_ATTEMPTS:
            self._log_warning("Event %s was not written in %d attempts: %s", event.reason, attempts, why)

    async def _write(self, event: Manifest, *, is_retry: bool) -> None:
        """Creates the Event, or counts it if it is there. A retry does not count one that is there with its time: the
        attempt before, which was not answered, has written it."""
        try:
            await self._api.create(client.EVENT, self._namespace, event)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            name = event["metadata"]["name"]
            former = await self._api.get(client.EVENT, self._namespace, name) or {}
            if not (is_retry and former.get("lastTimestamp") == event["lastTimestamp"]):
                again = {"count": (former.get("count") or 1) + 1, "lastTimestamp": event["lastTimestamp"]}
                await self._api.merge(client.EVENT, self._namespace, name, again)


def event_manifest(note: EventNote, model: Object, now: datetime) -> Manifest:
    """Returns the manifest of an Event. Its name is derived from its content, so that a repeated Event is counted and
    not duplicated, even by a new process of the operator."""
    meta = model["metadata"]
    text = note.note if len(note.note) <= MAX_EVENT_NOTE else note.note[: MAX_EVENT_NOTE - 1] + "…"
    digest = hashlib.sha256(f"{meta['uid']} {note.type} {note.reason} {text}".encode()).hexdigest()[:16]
    at = moment(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{digest}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
        "type": note.type,
        "reason": note.reason,
        "message": text,
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "reportingInstance": names.FIELD_MANAGER,
    }
