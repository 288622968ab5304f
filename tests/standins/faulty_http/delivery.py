"""How an answer goes out over one connection, with what rules of faults make of it."""

import os
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus

from .faults import Rule
from .messages import Body, FilePart, Request, Response, Text
from .records import RequestRecord

PIECE = 4 << 20
SLOW_PIECE = 16 << 10
FOREVER_SECONDS = 24 * 3600.0


class Cut(Exception):
    """The connection is closed here, in the middle of things."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        self.reset = reset


@dataclass(frozen=True)
class Delivery:
    connection: socket.socket
    request: Request
    record: RequestRecord
    rules: Sequence[Rule]

    def deliver(self, answer: Callable[[Request], Response], *, closes: bool) -> None:
        """Raises Cut where the rules say so, OSError where the client has gone."""
        for rule in self.rules:
            rule.pause(rule.fault.delay_seconds)
        for rule in self.rules:
            if rule.fault.never_answers:
                rule.pause(FOREVER_SECONDS)
            if rule.fault.cut_before_headers or rule.fault.never_answers:
                raise Cut(rule.fault.reset)
        self._send(self._changed(self._answered(answer)), closes)

    def _answered(self, answer: Callable[[Request], Response]) -> Response:
        for rule in self.rules:
            if response := rule.fault.response():
                return response
        ignores_range = any(rule.fault.ignore_range for rule in self.rules)
        return answer(replace(self.request, ignores_range=ignores_range))

    def _changed(self, response: Response) -> Response:
        headers, body = dict(response.headers), response.body
        for fault in (rule.fault for rule in self.rules):
            headers |= fault.set_headers
            dropped = {name.lower() for name in fault.drop_headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in dropped}
            body = _Damaged(body) if fault.corrupt else body
            body = _Shortened(body, max(0, body.length - fault.short_by)) if fault.short_by else body
        return Response(response.status, headers, body, response.error)

    def _send(self, response: Response, closes: bool) -> None:
        head = self._head(response, closes)
        self.record.answered(response)
        if self.request.method == "HEAD" or response.status == 304:
            self.connection.sendall(head)
        elif isinstance(response.body, Text) and not self.rules:
            self.connection.sendall(head + response.body.read(0, response.body.length))
            self.record.bytes_sent = response.body.length
        else:
            self.connection.sendall(head)
            self._send_body(response.body)

    def _head(self, response: Response, closes: bool) -> bytes:
        headers = {"Content-Length": str(response.body.length), "Date": formatdate(usegmt=True), **response.headers}
        if closes:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _stops(self) -> list[tuple[int, Rule]]:
        """Where the body does not just go on, in order."""
        stalls = [(rule.fault.stall_after_bytes, rule) for rule in self.rules]
        cuts = [(rule.fault.cut_after_bytes, rule) for rule in self.rules]
        found = [(offset, rule) for offset, rule in (*stalls, *cuts) if offset is not None]
        return sorted(found, key=lambda stop: stop[0])

    def _send_body(self, body: Body) -> None:
        sent = 0
        for offset, rule in self._stops():
            if offset < body.length:
                self._send_span(body, sent, offset)
                sent = max(sent, offset)
                self._stop(rule, offset)
        self._send_span(body, sent, body.length)

    def _stop(self, rule: Rule, offset: int) -> None:
        if rule.fault.stall_after_bytes == offset:
            rule.pause(rule.fault.stall_seconds)
        if rule.fault.cut_after_bytes == offset:
            raise Cut(rule.fault.reset)

    def _send_span(self, body: Body, start: int, end: int) -> None:
        slow = [rule for rule in self.rules if rule.fault.bytes_per_second]
        piece = SLOW_PIECE if slow else PIECE
        for offset in range(start, end, piece):
            count = min(piece, end - offset)
            for rule in slow:
                rule.throttle(count)
            for rule in self.rules:
                rule.count_bytes(self.request, count)
            self._send_piece(body, offset, count)
            self.record.bytes_sent += count

    def _send_piece(self, body: Body, offset: int, count: int) -> None:
        if isinstance(body, FilePart) and not isinstance(self.connection, ssl.SSLSocket):
            _send_file(self.connection, replace(body, start=body.start + offset, length=count))
            return
        data = body.read(offset, count)
        if len(data) != count:
            raise Cut(reset=True)  # the file on disk has become shorter
        self.connection.sendall(data)


@dataclass(frozen=True)
class _Shortened:
    whole: Body
    length: int

    def read(self, offset: int, count: int) -> bytes:
        return self.whole.read(offset, min(count, self.length - offset))


@dataclass(frozen=True)
class _Damaged:
    whole: Body

    @property
    def length(self) -> int:
        return self.whole.length

    def read(self, offset: int, count: int) -> bytes:
        data, middle = bytearray(self.whole.read(offset, count)), self.length // 2 - offset
        if 0 <= middle < len(data):
            data[middle] ^= 0xFF
        return bytes(data)


def cut(connection: socket.socket, reset: bool) -> None:
    """End it at once; with `reset` the client sees an error rather than an end."""
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        connection.shutdown(socket.SHUT_RDWR)


def _send_file(connection: socket.socket, part: FilePart) -> None:
    with part.location.open("rb", buffering=0) as file:
        sent = 0
        while sent < part.length:
            count = os.sendfile(connection.fileno(), file.fileno(), part.start + sent, part.length - sent)
            if count == 0:
                raise Cut(reset=True)  # the file on disk has become shorter
            sent += count


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
