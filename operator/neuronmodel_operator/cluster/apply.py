"""Carries out plans: every write of the operator begins here.

Every write is idempotent and may be lost: the operator may be killed between any two of them, and the next look at the
cluster leads to the same plan again.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.backoff import await_with_notice
from neuronmodel_operator.cluster.client import ApiError, ReadsAndWrites
from neuronmodel_operator.cluster.event_writer import EventWriter
from neuronmodel_operator.cluster.failed_pass import FailedPassStatus, PassFailure, not_written
from neuronmodel_operator.cluster.observe import ModelKey, Snapshot, is_made_for, standing
from neuronmodel_operator.cluster.writes import (
    LONGEST_PAUSE_SECONDS,
    ChildKey,
    OutdatedError,
    TurnedDownError,
    Verb,
    Writes,
)
from neuronmodel_operator.state.observed import Object, Refusal
from neuronmodel_operator.state.plan import EventNote, Manifest, ObjectRef, Plan

APPLY_AGAIN_SECONDS: Final = 300.0
"""A child whose manifest is unchanged is applied again after this long: a label that somebody removed changes none of
the versions that are compared."""
STATUS_NOTICE_SECONDS: Final = 5.0
"""If writing a status takes longer than this, an Event says so."""
CONFIRM_SECONDS: Final = 2.0
"""How long the question whether a NeuronModel is the latest may delay a pass."""
CLOCKS_APART: Final = timedelta(seconds=5)
"""By how much a corrected clock and times of the API server may differ."""
MAX_CONFLICTS: Final = 4
"""After which it is asked no more: within some ten seconds an API server has caught up."""

_log = logging.getLogger(__name__)


class StatusError(ApiError):
    """The status can't be written, so it can't report the failure; an Event does."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.status, error.reason, error.message, error.retry_after, error.causes)


class StoppingError(Exception):
    """The operator is stopping: its successor carries out the rest of the plan."""


@dataclass(frozen=True)
class PassOutcome:
    """The result of carrying out a plan."""

    snapshot: Snapshot
    """The snapshot, with the NeuronModel as the last write to it left it."""
    written: bool = False
    """Whether anything was written, or turned out to have been written unseen: the snapshot is outdated."""
    refusals_changed: bool = False
    """The status was not written because the plan was made before these refusals: decide again."""


@dataclass(frozen=True)
class _Applied:
    digest: str
    version: tuple[str, str]
    at: float
    """In monotonic seconds."""


class Applier:
    """Applies the plans of one NeuronModel. It remembers what it applied and what was refused, so as not to repeat
    either needlessly."""

    def __init__(
        self,
        api: ReadsAndWrites,
        key: ModelKey,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        stopping: Callable[[], bool] = lambda: False,
        wake: Callable[[], None] = lambda: None,
        longest_pause: Callable[[], float] = lambda: LONGEST_PAUSE_SECONDS,
        acting_since: Callable[[], datetime | None] = lambda: None,
        is_confirmed: bool = False,
    ) -> None:
        """`acting_since` returns a time: on what was created after it, nobody else has acted."""
        self._api = api
        self._acting_since = acting_since
        self._key = key
        self._now = now
        self._monotonic = monotonic
        self._stopping = stopping
        self._applied: dict[ChildKey, _Applied] = {}
        self._failed_pass = FailedPassStatus(api, key, now)
        self._writes = Writes(now=now, monotonic=monotonic, wake=wake, longest_pause=longest_pause)
        self._events = EventWriter(
            api, key.namespace, now=now, check_stopping=self._check_stopping, log_warning=self._log_warning
        )
        self._is_confirmed = is_confirmed
        """Whether a version of the NeuronModel that was acted on was the latest."""
        self._num_conflicts = 0
        """How often it was not."""
        self._logged_refusals: frozenset[Refusal] = frozenset()
        """Refusals that have been logged."""
        self._waiting_events: list[EventNote] = []
        """Events about objects that have not been written yet."""
        self._due_events: list[EventNote] = []
        """Events about objects that have been written."""

    @property
    def is_confirmed(self) -> bool:
        return self._is_confirmed

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return self._writes.refusals

    @property
    def retry_in(self) -> float | None:
        """Seconds until what was not written is worth another try; None if nothing is waiting."""
        pauses = (self._writes.retry_in, self._events.retry_in)
        return min((pause for pause in pauses if pause is not None), default=None)

    @property
    def is_done(self) -> bool:
        """Whether everything that was asked for is written, Events too."""
        return self._writes.are_done and self._events.retry_in is None and not self._waiting_events

    async def report_failure(self, failure: PassFailure, since: datetime) -> None:
        """Reports a pass that produced no status. Raises ApiError."""
        self._check_stopping()
        if written := await self._failed_pass.write(failure, since):
            note, raw = written
            await self._events.write([note], raw)

    def close(self) -> None:
        """Cancels writes under way; nothing is written after this."""
        self._writes.close()

    async def carry_out(self, plan: Plan, snapshot: Snapshot, *, hold_status: bool) -> PassOutcome:
        """Returns what was written. Raises ApiError when the NeuronModel itself can't be written, and StoppingError
        between two writes.

        An error of any other write becomes a refusal and does not stop the rest. With `hold_status`, the status is not
        written if the refusals differ from those that the plan was made from.
        """
        known = self.refusals
        with self._writes.of_one_plan():
            snapshot, written = await self._write_children(plan, snapshot)
        self._log_refusals()
        if hold_status and self.refusals != known:
            return PassOutcome(snapshot, written, refusals_changed=True)
        self._queue_events(plan)
        if plan.status is not None:
            snapshot = await self._write_status(plan.status, snapshot)
        due, self._due_events = self._due_events, []
        await self._events.write([*due, *(note for note in plan.events if note.about is None)], snapshot.raw)
        if (
            plan.finalizer is False
            and names.FINALIZER in snapshot.observed.model.finalizers
            and not self._is_owing(plan)
        ):
            others = [name for name in snapshot.observed.model.finalizers if name != names.FINALIZER]
            with self._writes.of_one_plan():
                snapshot, let_go = await self._attempt_finalizers(snapshot, others)
            written |= let_go
            self._log_refusals()
        return PassOutcome(snapshot, written)

    async def _write_children(self, plan: Plan, snapshot: Snapshot) -> tuple[Snapshot, bool]:
        """Tries every child, even after one has failed, but none before the finalizer is set, and none for a
        NeuronModel that is no longer so."""
        self._writes.forget_all_but(self._planned(plan))
        written = False
        if plan.finalizer is True and names.FINALIZER not in snapshot.observed.model.finalizers:
            finalizers = [*snapshot.observed.model.finalizers, names.FINALIZER]
            snapshot, held = await self._attempt_finalizers(snapshot, finalizers)
            if not held:
                return snapshot, False
            self._is_confirmed = written = True
        if plan.delete or plan.apply or plan.create:
            await self._confirm(snapshot)
        for ref in plan.delete:
            written |= await self._delete(ref)
        for manifest in plan.apply:
            written |= await self._apply(manifest, snapshot)
        for manifest in plan.create:
            written |= await self._create(manifest, snapshot)
        return snapshot, written

    async def _confirm(self, snapshot: Snapshot) -> None:
        """Before the first write of this process: a patch that changes nothing, onto the version that the plan was made
        from. An API server that is behind may show a process that has just begun a spec that is no longer wanted.
        Raises StatusError for an outdated one; any other answer says nothing against it. After a few conflicts it goes
        on: somebody may write to the NeuronModel all the time."""
        if self._is_confirmed or self._num_conflicts >= MAX_CONFLICTS or self._is_new(snapshot):
            return
        meta = snapshot.raw["metadata"]
        patch = {"metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}}
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                await self._api.merge(client.MODEL, self._key.namespace, self._key.name, patch)
        except ApiError as error:
            if error.is_outdated:
                self._num_conflicts += 1
                raise StatusError(error) from error
        except TimeoutError:
            pass
        else:
            self._is_confirmed = True

    def _is_new(self, snapshot: Snapshot) -> bool:
        """Whether no other process can have acted on the NeuronModel."""
        since = self._acting_since()
        return since is not None and snapshot.observed.model.created_at > since + CLOCKS_APART

    def _queue_events(self, plan: Plan) -> None:
        """Queues Events about an object until the object is written. No later plan contains them, so they must survive
        a status that can't be written."""
        fresh = {note.about for note in plan.events if note.about}
        owed = [note for note in self._waiting_events if self._writes.is_wanted(note.about) and note.about not in fresh]
        owed += [note for note in plan.events if note.about]
        written = self._writes.take_written()
        self._due_events += [note for note in owed if note.about in written]
        self._waiting_events = [note for note in owed if note.about not in written]

    def _is_owing(self, plan: Plan) -> bool:
        """Whether a deletion of the plan was refused: once the NeuronModel is gone, nobody tries it again."""
        return any(self._writes.is_refused((ref.kind, ref.name), "delete") for ref in plan.delete)

    def _planned(self, plan: Plan) -> set[tuple[str, str, Verb]]:
        planned: set[tuple[str, str, Verb]] = {
            (*_child_key(manifest), "write") for manifest in (*plan.apply, *plan.create)
        }
        planned |= {(ref.kind, ref.name, "delete") for ref in plan.delete}
        return planned | ({(names.KIND, self._key.name, "write")} if plan.finalizer is not None else set())

    async def _attempt_finalizers(self, snapshot: Snapshot, finalizers: list[str]) -> tuple[Snapshot, bool]:
        """The list is replaced as a whole, so it is written only onto the version that it was derived from."""
        key, digest = (names.KIND, self._key.name), " ".join(finalizers)
        if not self._writes.may_try(key, "write", digest):
            return snapshot, False
        self._check_stopping()
        meta = snapshot.raw["metadata"]
        patch = {"metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "finalizers": finalizers}}
        answers: list[Object] = []

        async def request() -> bool:
            try:
                answers.append(await self._api.merge(client.MODEL, self._key.namespace, self._key.name, patch))
            except ApiError as error:
                if error.is_outdated:
                    raise OutdatedError from error
                raise
            self._log_line("holds on to its finalizer" if names.FINALIZER in finalizers else "lets its finalizer go")
            return True

        written = await self._writes.attempt(key, "write", digest, request)
        return (snapshot.with_model(answers[0]) if written else snapshot), written

    async def _delete(self, ref: ObjectRef) -> bool:
        key = (ref.kind, ref.name)
        if not self._writes.may_try(key, "delete", ref.uid):
            return False
        self._check_stopping()

        async def request() -> bool:
            try:
                await self._api.delete(client.kind_of(ref.api_version, ref.kind), self._key.namespace, ref)
            except ApiError as error:
                if error.status == 404 or (error.status == 409 and "Precondition failed" in error.message):
                    return False  # it is gone, or another object has that name
                raise
            self._log_line("deleted %s %s", *key)
            return True

        return await self._writes.attempt(key, "delete", ref.uid, request)

    async def _apply(self, manifest: Manifest, snapshot: Snapshot) -> bool:
        key, digest = _child_key(manifest), _digest(manifest)
        if self._is_in_force(key, digest, snapshot) or not self._writes.may_try(key, "write", digest):
            return False
        self._check_stopping()

        async def request() -> bool:
            if key in snapshot.being_removed:
                raise self._being_removed(key)
            if key in snapshot.taken:
                raise _name_taken(key)
            kind = client.kind_of(manifest["apiVersion"], manifest["kind"])
            made = await self._api.apply(kind, self._key.namespace, manifest)
            self._applied[key] = _Applied(digest, _version(made), self._monotonic())
            self._log_line("applied %s %s", *key)
            return True

        return await self._writes.attempt(key, "write", digest, request)

    async def _create(self, manifest: Manifest, snapshot: Snapshot) -> bool:
        """Returns True also for a Job that exists although the look did not find it: the look was outdated, and another
        one is due as after a write."""
        key, digest = _child_key(manifest), _digest(manifest)
        overlooked = False
        if not self._writes.may_try(key, "write", digest):
            return False
        self._check_stopping()

        async def request() -> bool:
            nonlocal overlooked
            kind = client.kind_of(manifest["apiVersion"], manifest["kind"])
            try:
                await self._api.create(kind, self._key.namespace, manifest)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
                existing = await self._api.get_live(kind, self._key.namespace, key[1])
                if existing is not None and not is_made_for(existing, self._key):
                    is_former = standing(existing, self._key) == "Former"
                    raise (self._being_removed(key) if is_former else _name_taken(key)) from None
                overlooked = all(job["metadata"]["name"] != key[1] for job in snapshot.observed.jobs)
                return False
            self._log_line("made %s %s", *key)
            return True

        written = await self._writes.attempt(key, "write", digest, request)
        return written or overlooked

    async def _write_status(self, status: NeuronModelStatus, snapshot: Snapshot) -> Snapshot:
        """Makes at most one write, containing only what changed, and only onto the version that the plan was made from:
        the API server ignores a UID when it patches a status (tried on 1.34), so that a new NeuronModel of the same
        name would receive it."""
        patch = merge_patch(snapshot.raw.get("status") or {}, status.to_json())
        if not patch:
            return snapshot
        self._check_stopping()
        body = {"metadata": {"resourceVersion": snapshot.raw["metadata"]["resourceVersion"]}, "status": patch}
        try:
            raw = await await_with_notice(
                self._api.merge(client.MODEL, self._key.namespace, self._key.name, body, "status"),
                STATUS_NOTICE_SECONDS,
                lambda: self._events.write(
                    [not_written(ApiError(0, Reason.NO_ANSWER, "it has not answered yet"))], snapshot.raw
                ),
            )
        except ApiError as error:
            if not error.is_outdated:
                await self._events.write([not_written(error)], snapshot.raw)
            raise StatusError(error) from error
        self._log_transition(snapshot.observed.model.status, status)
        return snapshot.with_model(raw)

    def _is_in_force(self, key: ChildKey, digest: str, snapshot: Snapshot) -> bool:
        applied = self._applied.get(key)
        child = _observed_child(key, snapshot)
        return (
            applied is not None
            and child is not None
            and applied.digest == digest
            and applied.version == _version(child)
            and self._monotonic() - applied.at < APPLY_AGAIN_SECONDS
        )

    def _being_removed(self, key: ChildKey) -> TurnedDownError:
        return TurnedDownError(
            "Leaving", f"{key[0]} {key[1]} of a former NeuronModel {self._key.name} is still being removed"
        )

    def _log_refusals(self) -> None:
        """Logs each refusal once."""
        for refusal in self.refusals:
            if refusal not in self._logged_refusals:
                what = "deleted" if refusal.verb == "delete" else "written"
                self._log_warning(
                    "%s %s was not %s (%s): %s", refusal.kind, refusal.name, what, refusal.reason, refusal.message
                )
        self._logged_refusals = frozenset(self.refusals)

    def _check_stopping(self) -> None:
        if self._stopping():
            raise StoppingError

    def _log_transition(self, old: NeuronModelStatus, new: NeuronModelStatus) -> None:
        before, after = old.condition(ConditionType.READY), new.condition(ConditionType.READY)
        if after and (before is None or (before.status, before.reason) != (after.status, after.reason)):
            self._log_line("Ready is %s (%s): %s", after.status, after.reason, after.message)

    def _log_warning(self, message: str, *arguments: object) -> None:
        self._log_line(message, *arguments, level=logging.WARNING)

    def _log_line(self, message: str, *arguments: object, level: int = logging.INFO) -> None:
        extra = {"namespace": self._key.namespace, "model": self._key.name}
        _log.log(level, "%s/%s: " + message, self._key.namespace, self._key.name, *arguments, extra=extra)


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON merge patch (RFC 7386) that turns `old` into `new`; it is empty when they are equal."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif isinstance(value, Mapping) and isinstance(old[key], Mapping):
            if inner := merge_patch(old[key], value):
                patch[key] = inner
        elif value != old[key]:
            patch[key] = value
    return patch


def _name_taken(key: ChildKey) -> TurnedDownError:
    return TurnedDownError(
        Reason.NAME_TAKEN,
        f"{key[0]} {key[1]} exists and is not of this NeuronModel; delete it, or give the NeuronModel another name",
    )


def _child_key(manifest: Mapping[str, Any]) -> ChildKey:
    return manifest["kind"], manifest["metadata"]["name"]


def _observed_child(key: ChildKey, snapshot: Snapshot) -> Object | None:
    observed = snapshot.observed
    children = (observed.deployment, observed.service, *(claim.object for claim in observed.claims.values()))
    return next((child for child in children if child is not None and _child_key(child) == key), None)


def _version(child: Object) -> tuple[str, str]:
    """Returns a version that changes with the object's spec; for objects without a generation it changes with every
    write."""
    meta = child["metadata"]
    return meta["uid"], str(meta.get("generation") or meta["resourceVersion"])


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
