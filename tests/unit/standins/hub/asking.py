"""One request by the standard library, no redirect followed."""

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str | None]:
        return self.status, self.headers["X-Error-Code"]


def connect(url: str, tls: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=PATIENCE_SECONDS, context=tls)
    return http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)


def ask(
    url: str,
    method: str = "GET",
    *,
    token: str | None = None,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Answer:
    """Headers are given with `_` for `-`."""
    connection = connect(url, tls)
    try:
        return send(connection, url, method, token=token, body=body, **headers)
    finally:
        connection.close()


def send(
    connection: http.client.HTTPConnection,
    url: str,
    method: str = "GET",
    *,
    token: str | None = None,
    body: bytes | None = None,
    **headers: str,
) -> Answer:
    """Over a connection that stays."""
    parts = urlsplit(url)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    sent |= {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, sent)
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())
