"""A Hub of the tests with a small checkpoint, and clients of it that wait for milliseconds where others wait longer."""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubClient, HubServer
from neuronmodel_worker.sources.hub.repository import HubRepository, open_repository
from neuronmodel_worker.sources.remote import byte_ranges
from neuronmodel_worker.sources.remote.certificates import no_certificates
from neuronmodel_worker.sources.remote.retries import RetryBudget
from tests.standins.hub import Hub
from tests.standins.hub.records import Record
from tests.waiting import until

REPOSITORY = "org/name"
TOKEN = "hf_" + "Planted" * 4
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def wait_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are of about a millisecond, and no proxy is asked."""
    defaults: dict[str, Any] = vars(RetryBudget)["__init__"].__kwdefaults__
    monkeypatch.setitem(defaults, "pause_seconds", 0.001)
    monkeypatch.setattr("neuronmodel_worker.sources.remote.retries.LONGEST_PAUSE_SECONDS", 0.002)
    little = timedelta(milliseconds=1)
    monkeypatch.setitem(byte_ranges.WITHIN, "backoff", {"init_backoff": little, "max_backoff": little, "base": 2})
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def set_part_bytes(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    for module in ("remote.byte_ranges", "remote.remote_file", "remote.remote_source"):
        monkeypatch.setattr(f"neuronmodel_worker.sources.{module}.PART_BYTES", nbytes)


def served(hub: Hub, token: str | Callable[[], str | None] | None = None, ca: Path | None = None) -> HubServer:
    of_request = token if callable(token) else lambda: token
    return HubServer(hub.endpoint, of_request, ca.read_text if ca else no_certificates)


def asking(hub: Hub, token: str | Callable[[], str | None] | None = None, ca: Path | None = None) -> HubClient:
    return HubClient(served(hub, token, ca), REPOSITORY)


def opened(
    hub: Hub,
    revision: str = "main",
    token: str | Callable[[], str | None] | None = None,
    ca: Path | None = None,
    repository: str = REPOSITORY,
) -> HubRepository:
    return open_repository(HubAddress(repository, revision), served(hub, token, ca))


def delivered(hub: Hub) -> list[Record]:
    """The requests for ranges, each when it is done: what was sent is counted a moment later than it arrives."""

    def requests() -> list[Record]:
        return list(hub.requests.matching(origin="cdn"))

    until(lambda: all(record.done for record in requests()), "deliveries to be counted")
    return requests()


def weights_of(repository: HubRepository) -> list[str]:
    return sorted(name for name in repository.files if name.endswith(".safetensors"))


def git_digest(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
