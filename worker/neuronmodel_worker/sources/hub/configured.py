"""The repository that a pod's configuration names."""

from collections.abc import Callable
from pathlib import Path

from neuronmodel_api import names
from neuronmodel_api.config import HubSource
from neuronmodel_worker.failures import BadInput, SourceUnreadable
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubClient, HubServer
from neuronmodel_worker.sources.hub.repository import HubRepository, open_repository
from neuronmodel_worker.sources.remote.certificates import mounted_certificates
from neuronmodel_worker.sources.remote.endpoint import endpoint_of
from neuronmodel_worker.sources.remote.refusals import RevisionNotFound
from neuronmodel_worker.sources.remote.traffic import Traffic


class RepositoryUnnamed(BadInput):
    """The configuration's repository, revision or endpoint is none."""


def open_configured(source: HubSource, kept: Path, watch: Callable[[Traffic], None] = lambda _: None) -> HubRepository:
    """Opens it, with snapshots in `kept`. Raises what `open_repository` raises, RepositoryUnnamed, and SourceUnreadable
    where the certificates or the token cannot be read."""
    address, server = _named(source)
    try:
        return open_repository(address, server, kept, watch, source.resolved_at)
    except RevisionNotFound as error:
        if source.commit in (None, source.revision):
            raise
        raise RevisionNotFound(
            f"{source.repository} at {server.host} has the commit {source.commit} no more, which its revision "
            f"{source.revision} was resolved to. A new value of the annotation {names.ANNOTATION_RESTART} has the "
            "revision resolved again."
        ) from error


def client_of(source: HubSource) -> HubClient:
    """Returns what asks about the repository. Raises RepositoryUnnamed and SourceUnreadable."""
    address, server = _named(source)
    return HubClient(server, address.repository)


def _named(source: HubSource) -> tuple[HubAddress, HubServer]:
    def token() -> str | None:
        return _read_token(Path(source.token_file)) if source.token_file else None

    try:
        address = HubAddress.parse(f"{source.repository}@{source.commit or source.revision}")
        endpoint = endpoint_of(source.endpoint, "The Hub's endpoint")
    except ValueError as error:
        raise RepositoryUnnamed(str(error)) from error
    return address, HubServer(endpoint, token, lambda: mounted_certificates(source.ca_file))


def _read_token(file: Path) -> str | None:
    """A Secret that does not exist leaves no file, and the start may not need one."""
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SourceUnreadable(file, error if isinstance(error, OSError) else OSError(0, str(error))) from error
