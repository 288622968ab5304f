"""What one look at the cluster leads to: data, carried out by `apply` in the order of the fields."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from neuronmodel_api.status import NeuronModelStatus

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ObjectRef:
    """What to delete: by name and UID, so that a successor of the same name is never hit."""

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
    """Kind and name of the object whose being written or deleted it tells: it waits until that has succeeded."""


@dataclass(frozen=True)
class Plan:
    """Idempotent: carried out twice it does what it does once."""

    finalizer: bool | None = None
    """True: must be there, before anything else is done; False: must go, after all else is; None: as it is."""
    delete: tuple[ObjectRef, ...] = ()
    apply: tuple[Manifest, ...] = ()
    """By server-side apply."""
    create: tuple[Manifest, ...] = ()
    """Made once (Jobs): that it exists already is no error."""
    status: NeuronModelStatus | None = None
    """None: leave it (a NeuronModel that goes)."""
    events: tuple[EventNote, ...] = ()
    """After the status was written."""
    wake_after: timedelta | None = None
    """When to look again though nothing happens; None: at the slow resync."""
    report_interval: timedelta | None = None
    """How often to ask this NeuronModel's pods for their reports; None: not at all."""
