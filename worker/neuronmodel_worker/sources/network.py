"""The kinds of sources on a network, an entry each: how people name one, what a pod is told of it, and what opens it.

What reads a network is imported for the kind that is opened alone: a folder does without.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from neuronmodel_api.sources import HubSource, NetworkSourceConfig, S3Source
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.s3.address import S3Address
from neuronmodel_worker.sources.source_address import SourceAddress

if TYPE_CHECKING:
    from neuronmodel_worker.sources.remote.remote_source import RemoteSource
    from neuronmodel_worker.sources.remote.retries import RetryBudget
    from neuronmodel_worker.sources.remote.traffic import Traffic

C = TypeVar("C", bound=NetworkSourceConfig, contravariant=True)
A = TypeVar("A", bound=SourceAddress, contravariant=True)


class Opening(Protocol[C, A]):
    """What a kind's module `opening` has."""

    def open_configured(self, source: C, kept: Path, watch: "Callable[[Traffic], None]") -> "RemoteSource":
        """Opens the source of a pod, with snapshots in `kept`; `watch` is called with the counters before the first
        request. Raises what is in `remote.refusals`, a BadInput for what names nothing, and SourceUnreadable where what
        it is read with cannot be read."""
        ...

    def open_named(self, address: A, environment: Mapping[str, str]) -> "RemoteSource":
        """Opens the source of a command that people type, which is read with what their environment has. Raises what is
        in `remote.refusals`, UsageInvalid, and ValueError with a sentence for what cannot be taken from there."""
        ...

    def current_revision(self, source: C, asks_with: "Callable[[RetryBudget], None]") -> str:
        """Asks where the source is now; `asks_with` is called with what waits, before the first request. Raises as
        `open_configured`."""
        ...


def _of_hub() -> Opening[HubSource, HubAddress]:
    from neuronmodel_worker.sources.hub import opening

    return opening


def _of_s3() -> Opening[S3Source, S3Address]:
    from neuronmodel_worker.sources.s3 import opening

    return opening


@dataclass(frozen=True)
class NetworkKind:
    """One kind of sources on a network."""

    address: type[SourceAddress]
    config: type[NetworkSourceConfig]
    snapshots: str
    """The folder of the artifacts volume with what is kept of its sources."""
    opening: Callable[[], Opening[Any, Any]]


KINDS: Final = (
    NetworkKind(HubAddress, HubSource, "hub", _of_hub),
    NetworkKind(S3Address, S3Source, "s3", _of_s3),
)


def forms() -> str:
    """Returns how sources on a network are written, for a sentence."""
    return ", or ".join(kind.address.FORM for kind in KINDS)


def parse_address(text: str) -> SourceAddress | None:
    """Returns the source that a text names; None for one with no scheme that is known. Raises ValueError with a
    sentence."""
    kind = next((kind for kind in KINDS if text.startswith(kind.address.SCHEME)), None)
    return kind.address.parse(text) if kind else None


def open_named(address: SourceAddress, environment: Mapping[str, str]) -> "RemoteSource":
    """Returns the source. Raises as `Opening.open_named`."""
    kind = next(kind for kind in KINDS if isinstance(address, kind.address))
    return kind.opening().open_named(address, environment)


def open_configured(source: NetworkSourceConfig, artifacts: Path, watch: "Callable[[Traffic], None]") -> "RemoteSource":
    """Returns the source, with snapshots on the volume at `artifacts`. Raises as `Opening.open_configured`."""
    kind = _kind_of(source)
    return kind.opening().open_configured(source, artifacts / kind.snapshots, watch)


def current_revision(source: NetworkSourceConfig, asks_with: "Callable[[RetryBudget], None]") -> str:
    """Returns where the source is now. Raises as `Opening.current_revision`."""
    return _kind_of(source).opening().current_revision(source, asks_with)


def _kind_of(source: NetworkSourceConfig) -> NetworkKind:
    return next(kind for kind in KINDS if isinstance(source, kind.config))
