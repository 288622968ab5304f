"""The status of a NeuronModel after a failed pass. If the cluster can't be observed, the decision fails or the spec
can't be read, there is no full status to write, so the condition Ready alone says why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason
from neuronmodel_api.status import ConditionStatus
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, ReadsAndWrites
from neuronmodel_operator.cluster.observe import ModelKey
from neuronmodel_operator.state.observed import Object
from neuronmodel_operator.state.plan import EventNote
from neuronmodel_operator.status.summary import summary
from neuronmodel_operator.wording import moment, sentence

BELIEVED_FOR: Final = timedelta(seconds=10)
"""For this long, a NeuronModel that was Ready is assumed to be Ready while it can't be observed."""


@dataclass(frozen=True)
class PassFailure:
    """Why a pass failed, as the condition Ready shows it."""

    status: ConditionStatus
    reason: str
    message: str
    is_final: bool = True
    """False while the pass is still running: then it is shown only if Ready says nothing about this generation yet."""


def failure_of(error: Exception) -> PassFailure:
    """Returns the failure for an error of observing or deciding."""
    if isinstance(error, ApiError):
        reason = Reason.NOT_PERMITTED if error.status == 403 else Reason.CANNOT_LOOK
        return PassFailure("Unknown", reason, f"The operator can't see what there is of it: {error.message}")
    if isinstance(error, ValidationError):
        return PassFailure(
            "False", Reason.SPEC_UNREADABLE, f"This version of the operator can't read the spec: {_places(error)}"
        )
    return PassFailure(
        "Unknown",
        Reason.OPERATOR_FAILED,
        f"The operator failed over it ({type(error).__name__}: {error}); its log has more",
    )


def unanswered(seconds: float) -> PassFailure:
    return PassFailure(
        "Unknown",
        Reason.CANNOT_LOOK,
        f"The operator can't see what there is of it: the API server has not answered for {seconds:.0f} s",
        is_final=False,
    )


def not_written(error: ApiError) -> EventNote:
    """Returns an Event about a status that can't be written: nothing else can report it."""
    return EventNote("Warning", Reason.STATUS_NOT_WRITTEN, f"The API server does not take the status: {error.message}")


class FailedPassStatus:
    """Writes the condition Ready of one NeuronModel after a failed pass; it reads and writes nothing else."""

    def __init__(self, api: ReadsAndWrites, key: ModelKey, now: Callable[[], datetime]) -> None:
        self._api = api
        self._key = key
        self._now = now

    async def write(self, failure: PassFailure, since: datetime) -> tuple[EventNote, Object] | None:
        """Writes the condition Ready and returns the matching Event and the NeuronModel. Returns None if it is
        unchanged or if the NeuronModel is still assumed to be Ready. Raises ApiError."""
        raw = await self._api.get(client.MODEL, self._key.namespace, self._key.name)
        if raw is None or raw["metadata"]["uid"] != self._key.uid:
            return None
        patch = status_patch(raw, failure, since, self._now())
        if patch is None:
            return None
        body = {"metadata": {"resourceVersion": raw["metadata"]["resourceVersion"]}, "status": patch}
        raw = await self._api.merge(client.MODEL, self._key.namespace, self._key.name, body, "status")
        return EventNote("Warning", failure.reason, failure.message), raw


def status_patch(raw: Object, failure: PassFailure, since: datetime, now: datetime) -> dict[str, Any] | None:
    """Returns a JSON merge patch of the status, or None if nothing has to change."""
    status: Mapping[str, Any] = raw.get("status") or {}
    generation = raw["metadata"]["generation"]
    conditions = [c for c in status.get("conditions") or () if isinstance(c, Mapping)]
    before: Mapping[str, Any] = next((c for c in conditions if c.get("type") == ConditionType.READY), {})
    is_of_now = bool(before) and status.get("observedGeneration") == generation
    is_believed = before.get("status") == "True" and now - since < BELIEVED_FOR
    if is_of_now and (is_believed or not failure.is_final):
        return None
    is_as_before = before.get("status") == failure.status
    ready = {
        "type": ConditionType.READY.value,
        "status": failure.status,
        "reason": failure.reason,
        "message": f"{sentence(failure.message)} Since {moment(since)}; it is tried again by itself.",
        "lastTransitionTime": before.get("lastTransitionTime") if is_as_before else moment(now),
        "observedGeneration": generation,
    }
    if ready == before:
        return None
    others = [condition for condition in conditions if condition.get("type") != ConditionType.READY]
    text = summary(failure.status, failure.reason, ready["message"], status.get("progress"), status.get("lastLoad"))
    return {"conditions": [ready, *others], "summary": text}


def _places(error: ValidationError) -> str:
    """Returns the invalid fields of the spec and what is wrong with each."""
    found = (f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()[:3])
    return "; ".join(found)
