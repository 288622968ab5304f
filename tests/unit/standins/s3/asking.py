"""One request by the standard library, signed by a signature of the tests' own."""

import hashlib
import hmac
import http.client
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tests.standins.s3 import Key

PATIENCE_SECONDS = 60
UNSIGNED = "UNSIGNED-PAYLOAD"


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
        return self.status, self.element("Code")

    def element(self, name: str) -> str | None:
        """The first one's text, as it is in the XML."""
        found = self.elements(name)
        return found[0] if found else None

    def elements(self, name: str) -> list[str]:
        return re.findall(rf"<{name}>([^<]*)</{name}>", self.body.decode())


@dataclass(frozen=True)
class Signing:
    """How a request is signed; what is not usual is for refusals."""

    key: Key
    region: str = "us-east-1"
    service: str = "s3"
    payload: str = UNSIGNED
    now: float | None = None
    unsigned: tuple[str, ...] = ()
    """Headers that are sent and not signed."""
    extra: Mapping[str, str] = field(default_factory=dict)

    def headers(self, method: str, url: str, given: Mapping[str, str]) -> dict[str, str]:
        """All that are sent."""
        parts = urlsplit(url)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now))
        sent = {"host": parts.netloc, "x-amz-date": stamp, "x-amz-content-sha256": self.payload, **given, **self.extra}
        if self.key.token:
            sent["x-amz-security-token"] = self.key.token
        names = sorted(name for name in sent if name not in self.unsigned)
        lines = "".join(f"{name}:{sent[name]}\n" for name in names)
        query = "&".join(sorted(parts.query.split("&"))) if parts.query else ""
        canonical = f"{method}\n{parts.path}\n{query}\n{lines}\n{';'.join(names)}\n{self.payload}"
        scope = f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        secret = f"AWS4{self.key.secret}".encode()
        for part in scope.split("/"):
            secret = hmac.digest(secret, part.encode(), "sha256")
        signature = hmac.digest(secret, text.encode(), "sha256").hex()
        fields = f"Credential={self.key.id}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
        return {**sent, "authorization": f"AWS4-HMAC-SHA256 {fields}"}


def url_of(endpoint: str, bucket: str, key: str = "", /, **query: str) -> str:
    """Parameters are given with `_` for `-`."""
    path = f"{endpoint}/{bucket}" + (f"/{quote(key, safe='/-_.~')}" if key else "")
    parameters = {name.replace("_", "-"): value for name, value in query.items()}
    return f"{path}?{urlencode(parameters, quote_via=quote, safe='-_.~')}" if parameters else path


def ask(
    url: str,
    method: str = "GET",
    *,
    signed: Key | Signing | None = None,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Answer:
    """Headers are given with `_` for `-`."""
    connection = connect(url, tls)
    try:
        given = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        signing = Signing(signed) if isinstance(signed, Key) else signed
        sent = signing.headers(method, url, given) if signing else given
        parts = urlsplit(url)
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def connect(url: str, tls: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=PATIENCE_SECONDS, context=tls)
    return http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
