"""The plan that follows from one look at the cluster: data, carried out by `apply` in the order of the fields."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Literal

from neuronmodel_api.status import NeuronModelStatus

REPORT_WHEN_READY: Final = timedelta(seconds=60)
"""`Plan.report_interval` of workers that answer."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ObjectRef:
    """An object to delete, by name and UID, so that a later object of the same name is never deleted."""

    api_version: str
    kind: str
    name: str
    uid: str
    propagation: Literal["Background", "Foreground"] = "Background"


@dataclass(frozen=True)
class EventNote:
    """An Event about the NeuronModel."""

    type: Literal["Normal", "Warning"]
    reason: str
    note: str
    about: tuple[str, str] | None = None
    """Kind and name of the object whose write or deletion the Event reports; it is emitted once that has succeeded."""


@dataclass(frozen=True)
class Plan:
    """A plan is idempotent: carrying it out twice has the same effect as once."""

    finalizer: bool | None = None
    """True if it must be set before anything else is done, False if it must be removed after everything else, and only
    once everything of `delete` is gone; None to leave it as it is."""
    delete: tuple[ObjectRef, ...] = ()
    apply: tuple[Manifest, ...] = ()
    """Manifests for server-side apply."""
    create: tuple[Manifest, ...] = ()
    """Objects that are created once (Jobs); it is no error if they exist already."""
    status: NeuronModelStatus | None = None
    """None to leave it as it is (while a NeuronModel is being deleted)."""
    events: tuple[EventNote, ...] = ()
    """Events, emitted after the status was written."""
    wake_after: timedelta | None = None
    """When to look again even if nothing happens; None for the slow resync."""
    report_interval: timedelta | None = None
    """How often to fetch reports from this NeuronModel's pods; None for never."""

    @property
    def of_status(self) -> "Plan":
        """The plan without what writes other objects."""
        events = tuple(note for note in self.events if note.about is None)
        return replace(self, finalizer=None, delete=(), apply=(), create=(), events=events)
