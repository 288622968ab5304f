"""A Hub and its CDN in one process, for tests to begin, change and ask."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from ..faulty_http import Faults, FaultyServer, reached, tls_of
from .access import Access, Token
from .cdn_origin import CdnOrigin
from .control import HubControl
from .hub_origin import HubOrigin
from .rates import Rates
from .records import HubRecords
from .repository import Gated, Repositories, Repository
from .settings import Addresses, Settings
from .signing import Signer


class Hub(FaultyServer):
    """`with Hub() as hub:` serves until the end of the block; `hub.endpoint` is for clients.

    Ports of 0 are chosen by the system and kept while it is down. `advertise` is the Hub's base URL as clients reach
    it, where that is not the address it listens at; without a port it has the Hub's own. `advertise_cdn` is the CDN's,
    by default on the same host. With `certificate` and `key` both origins speak https; the control API never does.
    """

    requests: HubRecords

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
        super().__init__(HubRecords(), Faults(), HubControl(self), control_listen, control_port)
        self.repositories = Repositories()
        self.access = Access()
        self.settings = Settings()
        self.rates = Rates(clock=clock)
        self.signer = Signer(clock=clock)
        self._advertised = (advertise, advertise_cdn)
        self._addresses = Addresses()
        tls = tls_of(certificate, key)
        shared = (self.repositories, self.access, self.signer, self.rates, self._addresses, self.settings)
        self._hub = self._serve(HubOrigin(*shared), listen, port, tls)
        self._cdn = self._serve(CdnOrigin(self.repositories, self.signer), listen, cdn_port, tls)

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return self._addresses.hub

    @property
    def cdn(self) -> str:
        return self._addresses.cdn

    def up(self) -> None:
        super().up()
        hub, cdn = self._advertised
        derived = f"{self._cdn.scheme}://{reached(urlsplit(hub).hostname or '')}" if hub else None
        self._addresses.hub = self._hub.url_as(hub)
        self._addresses.cdn = self._cdn.url_as(cdn or derived)

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
        return {"endpoint": self.endpoint, "cdn": self.cdn, **super().described()}
