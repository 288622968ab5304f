"""The repository that a pod's configuration names."""

from pathlib import Path

from neuronmodel_api.config import HubSource
from neuronmodel_worker.failures import SourceUnreadable
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubServer
from neuronmodel_worker.sources.hub.repository import HubRepository, open_repository


def open_configured(source: HubSource, kept: Path) -> HubRepository:
    """Opens it, with snapshots in `kept`. Raises what `open_repository` raises, and SourceUnreadable where the
    certificates cannot be read."""

    def token() -> str | None:
        return _read_token(Path(source.token_file)) if source.token_file else None

    certificates = _read_certificates(Path(source.ca_file)) if source.ca_file else None
    server = HubServer(source.endpoint.rstrip("/"), token, certificates)
    return open_repository(HubAddress(source.repository, source.commit or source.revision), server, kept)


def _read_token(file: Path) -> str | None:
    """A Secret that does not exist leaves no file, and the start may not need one."""
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SourceUnreadable(file, error if isinstance(error, OSError) else OSError(0, str(error))) from error


def _read_certificates(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise SourceUnreadable(file, error) from error
