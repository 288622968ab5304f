"""A Hub and its CDN in one process, for tests to begin, change and ask."""

import ssl
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from .access import Access, Token
from .cdn_origin import CdnOrigin
from .control import ControlOrigin
from .faults import Faults
from .hub_origin import HubOrigin
from .listener import Listener
from .rates import Rates
from .records import Records
from .repository import Gated, Repositories, Repository
from .settings import Addresses, Settings
from .signing import Signer


class Hub:
    """`with Hub() as hub:` serves until the end of the block; `hub.endpoint` is for clients.

    Ports of 0 are chosen by the system and kept while it is down. `advertise` is the Hub's base URL as clients reach
    it, where that is not the address it listens at; without a port it has the Hub's own. `advertise_cdn` is the CDN's,
    by default on the same host. With `certificate` and `key` both origins speak https; the control API never does.
    """

    def __init__(
        self,
        *,
        listen: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int = 0,
        control_listen: str = "127.0.0.1",
        control_port: int = 0,
        advertise: str | None = None,
        advertise_cdn: str | None = None,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.repositories = Repositories()
        self.access = Access()
        self.settings = Settings()
        self.rates = Rates(clock=clock)
        self.signer = Signer(clock=clock)
        self.faults = Faults()
        self.requests = Records()
        self._scheme = "https" if certificate else "http"
        self._advertised = (advertise, advertise_cdn)
        self._addresses = Addresses()
        tls = _tls(certificate, key) if certificate else None
        shared = (self.repositories, self.access, self.signer, self.rates, self._addresses, self.settings)
        hub, cdn = HubOrigin(*shared), CdnOrigin(self.repositories, self.signer)
        self._hub = Listener(hub, listen, port, tls, self.requests, self.faults)
        self._cdn = Listener(cdn, listen, cdn_port, tls, self.requests, self.faults)
        self._control = Listener(ControlOrigin(self), control_listen, control_port, None, Records(), Faults())

    def __enter__(self) -> Self:
        self._control.open()
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults.clear()
        self.down()
        self._control.close()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return self._addresses.hub

    @property
    def cdn(self) -> str:
        return self._addresses.cdn

    @property
    def control(self) -> str:
        return f"http://{_host(self._control.address)}:{self._control.port}"

    @property
    def is_up(self) -> bool:
        return self._hub.is_open and self._cdn.is_open

    def up(self) -> None:
        """Listen again, at the same ports."""
        self._hub.open()
        self._cdn.open()
        hub, cdn = self._advertised
        self._addresses.hub = _base(self._scheme, hub, self._hub)
        derived = f"{self._scheme}://{_host(urlsplit(hub).hostname or '')}" if hub else None
        self._addresses.cdn = _base(self._scheme, cdn or derived, self._cdn)

    def down(self) -> None:
        """Connections are refused, and those that are open end."""
        self._hub.close()
        self._cdn.close()

    def add_repository(
        self,
        id: str,
        folder: Path | str,
        *names: str,
        private: bool = False,
        gated: Gated = False,
        large: Iterable[str] = (),
    ) -> Repository:
        """With the folder's content as `main`, and under the other names too."""
        repository = Repository(id, private=private, gated=gated, large=tuple(large))
        repository.add_revision(folder, "main", *names)
        self.repositories.add(repository)
        return repository

    def repository(self, id: str) -> Repository:
        """KeyError where there is none."""
        repository = self.repositories.get(id)
        if repository is None:
            raise KeyError(f"there is no repository {id!r}")
        return repository

    def add_revision(self, id: str, folder: Path | str, *names: str) -> str:
        """A further commit, at which `main` points only if it is among the names; its sha."""
        return self.repository(id).add_revision(folder, *names)

    def rename(self, old: str, new: str, status: int = 307) -> None:
        """The old id is redirected."""
        self.repositories.rename(old, new, status)

    def add_token(self, token: str, user: str, *, reads_private: bool = True) -> None:
        self.access.tokens[token] = Token(user, reads_private)

    def revoke(self, token: str) -> None:
        """It is invalid from now on."""
        self.access.tokens.pop(token, None)

    def described(self) -> dict[str, object]:
        urls = {"endpoint": self.endpoint, "cdn": self.cdn, "control": self.control}
        return {**urls, "up": self.is_up}


def _tls(certificate: Path | str, key: Path | str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _base(scheme: str, advertised: str | None, listener: Listener) -> str:
    if advertised is None:
        return f"{scheme}://{_host(listener.address)}:{listener.port}"
    base = advertised.rstrip("/")
    return base if urlsplit(base).port else f"{base}:{listener.port}"


def _host(address: str) -> str:
    """One that this machine reaches, if it listens on all."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{reached}]" if ":" in reached else reached
