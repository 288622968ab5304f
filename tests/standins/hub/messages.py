"""A request as it was read, an answer before it is sent, and a refusal as the Hub words it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    origin: str
    """`hub`, `cdn` or `control`."""
    method: str
    target: str
    """Path and query as they came, still quoted."""
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes = b""

    @property
    def quoted_path(self) -> str:
        return urlsplit(self.target).path

    @property
    def path(self) -> str:
        return unquote(self.quoted_path)

    @property
    def segments(self) -> list[str]:
        """The path's parts; one that contains a quoted slash, as a revision may, stays one."""
        return [unquote(part) for part in self.quoted_path.strip("/").split("/")]

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    def without_range(self) -> "Request":
        return replace(self, headers={name: value for name, value in self.headers.items() if name != "range"})


class Body(Protocol):
    @property
    def length(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes: ...


@dataclass(frozen=True)
class Text:
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        return self.data[offset : offset + count]


@dataclass(frozen=True)
class FilePart:
    """Bytes of a file on disk, read when they are sent."""

    location: Path
    start: int
    length: int

    def read(self, offset: int, count: int) -> bytes:
        wanted = max(0, min(count, self.length - offset))
        with self.location.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), wanted, self.start + offset)


@dataclass
class Response:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Body = Text(b"")


class Refused(Exception):
    """An answer that is not what was asked for; a client reads the code and the message from the headers."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers)

    def response(self) -> Response:
        made = json_response({"error": self.message}, self.status)
        made.headers |= {"X-Error-Message": self.message, **self.headers}
        if self.code:
            made.headers["X-Error-Code"] = self.code
        return made


def json_response(value: object, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    text = json.dumps(value).encode()
    return Response(status, {"Content-Type": "application/json; charset=utf-8", **headers}, Text(text))


def xml_error(status: int, code: str, message: str) -> Response:
    """As object stores and their CDNs word it."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(status, {"Content-Type": "application/xml"}, Text(text.encode()))
