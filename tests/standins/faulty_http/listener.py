"""One origin's listening socket and the threads of its connections; HTTP/1.1 with connections that are kept."""

import socket
import ssl
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from .delivery import Cut, Delivery, cut
from .faults import Faults
from .messages import Refusal, Request, Response, text_response
from .origins import Origin
from .records import Records, RequestRecord


class Listener:
    """Can be closed, so that connections are refused, and opened again at the same port."""

    def __init__(
        self,
        origin: Origin,
        address: str,
        port: int,
        tls: ssl.SSLContext | None,
        records: Records[RequestRecord],
        faults: Faults,
    ) -> None:
        self.origin = origin
        self.address = address
        self.port = port
        self.tls = tls
        self.records = records
        self.faults = faults
        self._server: _Server | None = None
        self._accepting: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        return self._server is not None

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def url(self) -> str:
        """As this machine reaches it, without a slash at the end."""
        return f"{self.scheme}://{reached(self.address)}:{self.port}"

    def url_as(self, advertised: str | None) -> str:
        """As clients reach it, where that is another base URL; one without a port has the listener's own."""
        if advertised is None:
            return self.url
        base = advertised.rstrip("/")
        return base if urlsplit(base).port else f"{base}:{self.port}"

    def open(self) -> None:
        if self._server is None:
            self._server = _Server(self)
            self.port = self._server.server_address[1]
            self._accepting = threading.Thread(target=self._server.accept, daemon=True)
            self._accepting.start()

    def close(self) -> None:
        """Its connections end too."""
        if self._server is not None and self._accepting is not None:
            self._server.end_accepting()
            self._accepting.join()
            self._server.server_close()
            self._server.end_connections()
            self._server = None


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.address_family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
        self._connections: set[socket.socket] = set()
        self._is_ending = False
        super().__init__((listener.address, listener.port), _Handler)

    def accept(self) -> None:
        """Until it is ended; without the polling of `serve_forever`, which tests would wait for."""
        while not self._is_ending:
            with suppress(OSError):
                self.process_request(*self.get_request())

    def end_accepting(self) -> None:
        self._is_ending = True
        self.socket.shutdown(socket.SHUT_RDWR)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The handshake is made here, in the connection's own thread."""
        tls = self.listener.tls
        connection: socket.socket = tls.wrap_socket(request, server_side=True) if tls else request
        self._connections.add(connection)
        try:
            _Handler(connection, client_address, self)
        finally:
            self._connections.discard(connection)
            connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, or does not trust the certificate, is nothing to tell of; all else is answered."""

    def end_connections(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        listener = self.server.listener
        request = self._request()
        known = listener.origin.known_as(request)
        record = listener.records.begin(request, known)
        rules = listener.faults.of(request, known)
        try:
            Delivery(self.connection, request, record, rules).deliver(self._answer, closes=self.close_connection)
        except Cut as asked:
            self.close_connection = True
            with suppress(OSError):
                cut(self.connection, asked.reset)
        except OSError:
            self.close_connection = True
        finally:
            record.done = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (http.server finds them by these names)

    def _request(self) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        return Request(self.server.listener.origin.name, self.command, self.path, headers, body)

    def _answer(self, request: Request) -> Response:
        try:
            return self.server.listener.origin.answer(request)
        except Refusal as refusal:
            return refusal.response()
        except Exception:
            traceback.print_exc()
            return text_response(traceback.format_exc(), 500)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are recorded, and not printed."""


def reached(address: str) -> str:
    """The host of a URL for an address: one that this machine reaches, if it stands for all."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{host}]" if ":" in host else host
