"""Carries plans out: the only module that writes to the API.

Every write is idempotent and safe to lose: between any two of them the operator may be killed, and the next look at the
cluster leads to the same plan again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_api.status import ConditionType, NeuronModelStatus
from neuronmodel_operator import client
from neuronmodel_operator.client import Api, ApiError
from neuronmodel_operator.observe import ModelKey, Snapshot, is_made_for, standing
from neuronmodel_operator.observed import Object, Refusal
from neuronmodel_operator.plan import EventNote, Manifest, ObjectRef, Plan

FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 60.0
APPLY_AGAIN_SECONDS: Final = 300.0
"""A child whose manifest is unchanged is applied anew after so long: labels that somebody took away move no version
that we compare."""
MAX_EVENT_NOTE: Final = 1024
"""The API server refuses longer ones."""
RETRYABLE: Final = frozenset({0, 401, 404, 408, 409, 429})
"""Together with 5xx: answers that say nothing about what was asked for."""

_log = logging.getLogger(__name__)

ChildKey = tuple[str, str]
"""(kind, name)"""


class StoppingError(Exception):
    """The operator ends: what is left of the plan is for its successor."""


@dataclass(frozen=True)
class Outcome:
    """What became of a plan."""

    snapshot: Snapshot
    """With the NeuronModel as the last write to it left it."""
    written: bool = False
    """Something was."""
    refusals_changed: bool = False
    """The status was not written: the plan didn't know of them. Decide again."""


@dataclass(frozen=True)
class _Refused:
    refusal: Refusal
    digest: str
    attempts: int
    retry_at: float
    """Monotonic seconds."""


@dataclass(frozen=True)
class _Applied:
    digest: str
    version: tuple[str, str]
    at: float
    """Monotonic seconds."""


class Applier:
    """Of one NeuronModel: remembers what it applied and what was refused, to do neither again for nothing."""

    def __init__(
        self,
        api: Api,
        key: ModelKey,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._api = api
        self._key = key
        self._now = now
        self._monotonic = monotonic
        self._stopping = stopping
        self._applied: dict[ChildKey, _Applied] = {}
        self._refused: dict[ChildKey, _Refused] = {}

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(refused.refusal for _, refused in sorted(self._refused.items()))

    @property
    def retry_in(self) -> float | None:
        """Seconds until what was refused is worth trying again."""
        due = [refused.retry_at for refused in self._refused.values()]
        return max(0.0, min(due) - self._monotonic()) if due else None

    async def carry_out(self, plan: Plan, snapshot: Snapshot, *, hold_status: bool) -> Outcome:
        """Raises ApiError for what is worth another try, StoppingError between two writes.

        With `hold_status`, the status waits for another decision when the plan did not know what was refused.
        """
        known = self.refusals
        written = False
        if plan.finalizer is True and names.FINALIZER not in snapshot.observed.model.finalizers:
            snapshot = await self._write_finalizers(snapshot, [*snapshot.observed.model.finalizers, names.FINALIZER])
            written = True
        for ref in plan.delete:
            written |= await self._delete(ref)
        for manifest in plan.apply:
            written |= await self._apply(manifest, snapshot)
        for manifest in plan.create:
            written |= await self._create(manifest)
        self._forget_unplanned((*plan.apply, *plan.create))
        if hold_status and self.refusals != known:
            return Outcome(snapshot, written, refusals_changed=True)
        if plan.status is not None:
            snapshot = await self._write_status(plan.status, snapshot)
        for note in plan.events:
            await self._tell(note, snapshot)
        if plan.finalizer is False and names.FINALIZER in snapshot.observed.model.finalizers:
            others = [name for name in snapshot.observed.model.finalizers if name != names.FINALIZER]
            snapshot = await self._write_finalizers(snapshot, others)
            written = True
        return Outcome(snapshot, written)

    async def _write_finalizers(self, snapshot: Snapshot, finalizers: list[str]) -> Snapshot:
        """The list is written whole, so only onto the version that it was derived from."""
        self._stop_here()
        meta = snapshot.raw["metadata"]
        patch = {"metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "finalizers": finalizers}}
        raw = await self._api.merge(client.MODEL, self._key.namespace, self._key.name, patch)
        self._say("holds on to its finalizer" if names.FINALIZER in finalizers else "lets its finalizer go")
        return snapshot.with_model(raw)

    async def _delete(self, ref: ObjectRef) -> bool:
        self._stop_here()
        try:
            await self._api.delete(client.kind_of(ref.api_version, ref.kind), self._key.namespace, ref)
        except ApiError as error:
            if error.status in (404, 409):  # gone, or another one of that name
                return False
            raise
        self._refused.pop((ref.kind, ref.name), None)
        self._say("deleted %s %s", ref.kind, ref.name)
        return True

    async def _apply(self, manifest: Manifest, snapshot: Snapshot) -> bool:
        key = _child_key(manifest)
        digest = _digest(manifest)
        if self._is_in_force(key, digest, snapshot) or self._is_refused_still(key, digest):
            return False
        self._stop_here()
        if key in snapshot.leaving:
            raise self._leaving(key)
        if key in snapshot.taken:
            self._refuse(key, digest, _name_taken(key))
            return False
        kind = client.kind_of(manifest["apiVersion"], manifest["kind"])
        try:
            made = await self._api.apply(kind, self._key.namespace, manifest)
        except ApiError as error:
            self._refuse(key, digest, _as_refusal(key, error))
            return False
        self._refused.pop(key, None)
        self._applied[key] = _Applied(digest, _version(made), self._monotonic())
        self._say("applied %s %s", *key)
        return True

    async def _create(self, manifest: Manifest) -> bool:
        key = _child_key(manifest)
        digest = _digest(manifest)
        if self._is_refused_still(key, digest):
            return False
        self._stop_here()
        kind = client.kind_of(manifest["apiVersion"], manifest["kind"])
        try:
            await self._api.create(kind, self._key.namespace, manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                self._refuse(key, digest, _as_refusal(key, error))
                return False
            existing = await self._api.get(kind, self._key.namespace, key[1])
            if existing is not None and not is_made_for(existing, self._key):
                if standing(existing, self._key) == "Former":
                    raise self._leaving(key) from None
                self._refuse(key, digest, _name_taken(key))
            return False
        self._refused.pop(key, None)
        self._say("made %s %s", *key)
        return True

    async def _write_status(self, status: NeuronModelStatus, snapshot: Snapshot) -> Snapshot:
        """At most one write, of what changed alone, and only onto the version that the plan was made from: on a status
        the API server heeds no UID (tried on 1.34), so that a successor of the name would get it."""
        patch = merge_patch(snapshot.raw.get("status") or {}, status.to_json())
        if not patch:
            return snapshot
        self._stop_here()
        body = {"metadata": {"resourceVersion": snapshot.raw["metadata"]["resourceVersion"]}, "status": patch}
        raw = await self._api.merge(client.MODEL, self._key.namespace, self._key.name, body, "status")
        self._say_transition(snapshot.observed.model.status, status)
        return snapshot.with_model(raw)

    async def _tell(self, note: EventNote, snapshot: Snapshot) -> None:
        """An Event that can't be written is only logged: the status says the same."""
        self._stop_here()
        try:
            await self._write_event(event_manifest(note, snapshot.raw, self._now()))
        except ApiError as error:
            if "NamespaceTerminating" not in error.causes:
                self._say("Event %s was not written: %s", note.reason, error, level=logging.WARNING)

    async def _write_event(self, event: Manifest) -> None:
        try:
            await self._api.create(client.EVENT, self._key.namespace, event)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            name = event["metadata"]["name"]
            former = await self._api.get(client.EVENT, self._key.namespace, name) or {}
            again = {"count": (former.get("count") or 1) + 1, "lastTimestamp": event["lastTimestamp"]}
            await self._api.merge(client.EVENT, self._key.namespace, name, again)

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

    def _is_refused_still(self, key: ChildKey, digest: str) -> bool:
        refused = self._refused.get(key)
        return refused is not None and refused.digest == digest and self._monotonic() < refused.retry_at

    def _refuse(self, key: ChildKey, digest: str, refusal: Refusal) -> None:
        former = self._refused.get(key)
        attempts = former.attempts + 1 if former and former.digest == digest else 1
        pause = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** (attempts - 1))
        self._refused[key] = _Refused(refusal, digest, attempts, self._monotonic() + pause)
        if former is None or former.refusal != refusal:
            self._say("%s %s was refused (%s): %s", *key, refusal.reason, refusal.message, level=logging.WARNING)

    def _forget_unplanned(self, manifests: Iterable[Manifest]) -> None:
        planned = {_child_key(manifest) for manifest in manifests}
        self._refused = {key: refused for key, refused in self._refused.items() if key in planned}

    def _leaving(self, key: ChildKey) -> ApiError:
        return ApiError(409, "Leaving", f"{key[0]} {key[1]} of a former {self._key.name} is still being removed")

    def _stop_here(self) -> None:
        if self._stopping():
            raise StoppingError

    def _say_transition(self, old: NeuronModelStatus, new: NeuronModelStatus) -> None:
        before, after = old.condition(ConditionType.READY), new.condition(ConditionType.READY)
        if after and (before is None or (before.status, before.reason) != (after.status, after.reason)):
            self._say("Ready is %s (%s): %s", after.status, after.reason, after.message)

    def _say(self, message: str, *arguments: object, level: int = logging.INFO) -> None:
        extra = {"namespace": self._key.namespace, "model": self._key.name}
        _log.log(level, "%s/%s: " + message, self._key.namespace, self._key.name, *arguments, extra=extra)


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes `new` of `old`; empty when they are the same."""
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


def event_manifest(note: EventNote, model: Object, now: datetime) -> Manifest:
    """Named by what it says: said again, it is counted and not repeated, also by the operator's successor."""
    meta = model["metadata"]
    text = note.note if len(note.note) <= MAX_EVENT_NOTE else note.note[: MAX_EVENT_NOTE - 1] + "…"
    digest = hashlib.sha256(f"{meta['uid']} {note.type} {note.reason} {text}".encode()).hexdigest()[:16]
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
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
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "reportingInstance": names.FIELD_MANAGER,
    }


def _as_refusal(key: ChildKey, error: ApiError) -> Refusal:
    """Raises the error again when it says nothing about what was asked for."""
    if error.status in RETRYABLE or error.status >= 500:
        raise error
    reason = "NamespaceTerminating" if "NamespaceTerminating" in error.causes else error.reason
    return Refusal(kind=key[0], name=key[1], reason=reason, message=error.message)


def _name_taken(key: ChildKey) -> Refusal:
    message = (
        f"{key[0]} {key[1]} exists and is not of this NeuronModel; delete it, or give the NeuronModel another name"
    )
    return Refusal(kind=key[0], name=key[1], reason="NameTaken", message=message)


def _child_key(manifest: Mapping[str, Any]) -> ChildKey:
    return manifest["kind"], manifest["metadata"]["name"]


def _observed_child(key: ChildKey, snapshot: Snapshot) -> Object | None:
    observed = snapshot.observed
    children = (observed.deployment, observed.service, *(claim.object for claim in observed.claims.values()))
    return next((child for child in children if child is not None and _child_key(child) == key), None)


def _version(child: Object) -> tuple[str, str]:
    """Changes with the object's spec; what has no generation counts every change."""
    meta = child["metadata"]
    return meta["uid"], str(meta.get("generation") or meta["resourceVersion"])


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
