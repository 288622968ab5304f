"""Opens a repository: the one that a pod's configuration names, or the one that somebody has typed.

Somebody's token and endpoint come from where people have them for the Hub's own client: HF_TOKEN, the file that
HF_TOKEN_PATH or HF_HOME names, or ~/.cache/huggingface/token; HF_ENDPOINT. Nothing of it is printed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.sources import HubSource
from neuronmodel_api.sources.hugging_face import PUBLIC_HUB
from neuronmodel_worker.failures import BadInput, SourceUnreadable, UsageInvalid
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubClient, HubServer
from neuronmodel_worker.sources.hub.repository import HubRepository, open_repository
from neuronmodel_worker.sources.remote.certificates import mounted_certificates
from neuronmodel_worker.sources.remote.endpoint import endpoint_of
from neuronmodel_worker.sources.remote.environment import given_certificates
from neuronmodel_worker.sources.remote.refusals import RevisionNotFound
from neuronmodel_worker.sources.remote.retries import RetryBudget
from neuronmodel_worker.sources.remote.traffic import Traffic

MAX_TOKEN_BYTES: Final = 4096


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


def current_revision(source: HubSource, asks_with: Callable[[RetryBudget], None]) -> str:
    """Returns the commit that the revision is at. Raises what is in `remote.refusals`, RepositoryUnnamed and
    SourceUnreadable."""
    address, server = _named(source)
    client = HubClient(server, address.repository)
    asks_with(client.budget)
    return client.commit(source.revision)


def _named(source: HubSource) -> tuple[HubAddress, HubServer]:
    def token() -> str | None:
        return _mounted_token(Path(source.token_file)) if source.token_file else None

    try:
        address = HubAddress.parse(f"{source.repository}@{source.commit or source.revision}")
        endpoint = endpoint_of(source.endpoint, "The Hub's endpoint")
    except ValueError as error:
        raise RepositoryUnnamed(str(error)) from error
    return address, HubServer(endpoint, token, lambda: mounted_certificates(source.ca_file))


def _mounted_token(file: Path) -> str | None:
    """A Secret that does not exist leaves no file, and the start may not need one."""
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SourceUnreadable(file, error if isinstance(error, OSError) else OSError(0, str(error))) from error


def open_named(address: HubAddress, environment: Mapping[str, str]) -> HubRepository:
    """Opens what somebody has typed. Raises what `open_repository` raises, UsageInvalid, and ValueError with a
    sentence."""
    endpoint = endpoint_of(environment.get("HF_ENDPOINT") or PUBLIC_HUB, "HF_ENDPOINT")
    server = HubServer(endpoint, lambda: given_token(environment), lambda: given_certificates(environment))
    return open_repository(address, server)


def given_token(environment: Mapping[str, str]) -> str | None:
    """Returns the token of HF_TOKEN, or of the file where the Hub's own client keeps it. Raises UsageInvalid for a file
    that cannot be read."""
    found = environment.get("HF_TOKEN") or _read_token(_token_file(environment))
    return found.strip() or None if found else None


def _token_file(environment: Mapping[str, str]) -> Path:
    if given := environment.get("HF_TOKEN_PATH"):
        return _expanded(given)
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(environment.get("HF_HOME") or f"{cache}/huggingface") / "token"


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a user without a home, as in many containers
        return Path(path)


def _read_token(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_TOKEN_BYTES).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageInvalid(f"The token in {file} cannot be read: {error.strerror or error}.") from error
