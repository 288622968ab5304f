"""What is known of every source on a network: as the spec names it, and as a worker is told to read it.

A kind is two classes in a module of its own: a NetworkSource, which is a member of `spec.model.source`, and a
NetworkSourceConfig, which is a field of WorkerConfig.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Self

from pydantic import AwareDatetime
from pydantic.alias_generators import to_camel

from neuronmodel_api.model import Tolerant
from neuronmodel_api.reasons import Reason
from neuronmodel_api.references import CABundle


@dataclass(frozen=True)
class SecretFiles:
    """Keys of a Secret that a pod mounts: `keys` has the key of each file."""

    secret: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class OptionalFile:
    """A file that a source may be read without: the pod starts where its Secret or ConfigMap is missing."""

    path: str
    explains: frozenset[Reason]
    """Failures that may come of its absence."""
    absence: str
    """A sentence for those failures."""


class NetworkSourceConfig(Tolerant, ABC):
    """What a worker is told of a source on a network."""

    PINNED_BY: ClassVar[str]
    """The field with the revision that is read: a state of the source that has a name."""

    resolved_at: AwareDatetime | None = None
    """When the revision was found, where that was in an earlier attempt."""
    ca_file: str | None = None
    """PEM certificates, trusted in addition to the system's; a missing file adds none."""
    check_seconds: int | None = None
    """Serve only: how often a worker that answers asks whether the source has moved; None for never."""

    @property
    def pinned(self) -> str | None:
        """The revision that prepare found; for prepare, that of an earlier attempt, None at the first."""
        revision: str | None = getattr(self, self.PINNED_BY)
        return revision

    @property
    def unpinned(self) -> Self:
        """The same for any run: without what an earlier one has found."""
        return self.model_copy(update={self.PINNED_BY: None, "resolved_at": None})

    @property
    def optional_files(self) -> tuple[OptionalFile, ...]:
        if self.ca_file is None:
            return ()
        absence = "No certificates are mounted: the ConfigMap or Secret of caBundle is missing, or has no such key."
        return (OptionalFile(self.ca_file, frozenset({Reason.CERTIFICATE_UNTRUSTED}), absence),)

    def watched(self, check_seconds: int | None) -> Self:
        """The same for a worker that serves, which looks after the source as often as that."""
        return self.model_copy(update={"resolved_at": None, "check_seconds": check_seconds})


class NetworkSource(Tolerant, ABC):
    """A member of `spec.model.source` that is read over a network."""

    FIELD: ClassVar[str]
    """Its name in `Source`."""
    CONFIG: ClassVar[type[NetworkSourceConfig]]
    """What a worker is told of it."""
    CONFIG_FIELD: ClassVar[str]
    """The field of WorkerConfig for that."""
    SETTINGS: ClassVar[str]
    """The operator's settings of it are NEURONMODEL_<SETTINGS>_ENDPOINTS and NEURONMODEL_<SETTINGS>_CHECK_SECONDS."""
    PUBLIC_ENDPOINT: ClassVar[str]
    """What is read where the spec names no endpoint."""
    RIGHTS: ClassVar[frozenset[str]]
    """Fields that say by what right the source is read, and not what is read: they do not make it another one."""
    REVISION: ClassVar[str]
    """What messages call a revision."""
    IS_OVERWRITTEN: ClassVar[bool]
    """Whether a revision is gone once the source has moved, so that nobody can read it any more."""
    ASKS_THE_INSTANCE: ClassVar[bool] = False
    """Whether credentials may be asked of addresses inside the pod's node, which no proxy reaches."""

    endpoint: str | None = None
    """Absent: the public one."""
    ca_bundle: CABundle | None = None

    @classmethod
    def member(cls) -> str:
        """Returns its name in `spec.model.source` and in the chart's `sources`."""
        return to_camel(cls.FIELD)

    @property
    @abstractmethod
    def address(self) -> str:
        """The source as `--model` takes it."""

    @property
    @abstractmethod
    def display(self) -> str:
        """The source as messages name it."""

    @property
    @abstractmethod
    def identity(self) -> list[str | None]:
        """What makes it this source and no other."""

    @property
    @abstractmethod
    def moves(self) -> bool:
        """Whether it may be another one tomorrow under the same name."""

    @property
    @abstractmethod
    def secret_files(self) -> SecretFiles | None:
        """What it is read with; None for nothing."""

    @abstractmethod
    def served_at(self, revision: str) -> str:
        """Returns a sentence without its end: what is served, and what it is that is somewhere else by now."""

    @abstractmethod
    def config(self, revision: str | None, resolved_at: datetime | None) -> NetworkSourceConfig:
        """Returns what a worker is told; `revision` is the one that was found before."""
