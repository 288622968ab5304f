"""Some origins in one process that record requests and fail together, for tests to begin, change and ask."""

import ssl
from pathlib import Path
from types import TracebackType
from typing import Self

from .control import ControlOrigin
from .faults import Faults
from .listener import Listener
from .origins import Origin
from .records import Records, RequestRecord


class FaultyServer:
    """Serves until the end of a `with` block. Ports of 0 are chosen by the system and kept while it is down.

    A stand-in makes its listeners with `_serve`; the control API is beside them, never fails and never speaks https.
    """

    requests: Records[RequestRecord]
    faults: Faults

    def __init__(
        self,
        requests: Records[RequestRecord],
        faults: Faults,
        control: ControlOrigin,
        control_listen: str,
        control_port: int,
    ) -> None:
        self.requests = requests
        self.faults = faults
        self._listeners: list[Listener] = []
        self._control = Listener(control, control_listen, control_port, None, Records(RequestRecord), Faults())

    def _serve(self, origin: Origin, address: str, port: int, tls: ssl.SSLContext | None) -> Listener:
        """An origin, from when all are up."""
        listener = Listener(origin, address, port, tls, self.requests, self.faults)
        self._listeners.append(listener)
        return listener

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
    def control(self) -> str:
        return self._control.url

    @property
    def is_up(self) -> bool:
        return all(listener.is_open for listener in self._listeners)

    def up(self) -> None:
        """Listen again, at the same ports."""
        for listener in self._listeners:
            listener.open()

    def down(self) -> None:
        """Connections are refused, and those that are open end."""
        for listener in self._listeners:
            listener.close()

    def described(self) -> dict[str, object]:
        return {"control": self.control, "up": self.is_up}


def tls_of(certificate: Path | str | None, key: Path | str | None) -> ssl.SSLContext | None:
    """None without a certificate."""
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
