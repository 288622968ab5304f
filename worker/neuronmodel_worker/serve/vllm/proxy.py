"""The serving port in front of vLLM: it forwards requests to /v1/ and the responses to them.

Bytes are forwarded unchanged in both directions; token counts are read from responses on the way, for the metrics.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.serve.middleware import Middleware, OpenAIError

# Each is a label of the request metric; the rest of vLLM's API shares the last one.
PATHS: Final = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/{name:.+}", "/v1/{path:.+}")
GENERATING: Final = ("/v1/completions", "/v1/chat/completions")
MAX_ANSWER_BYTES: Final = 16 << 20
"""The limit for a response that is not streamed: a longer one is forwarded, and its tokens are not counted."""

# RFC 9110, section 7.6.1: these belong to a connection, not to the request. Both lengths are set again.
OF_ONE_CONNECTION: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
NOT_PASSED_ON: Final = OF_ONE_CONNECTION | {"authorization", "host", "content-length", "accept-encoding", "expect"}


def open_session() -> ClientSession:
    """Opens a client session. Responses may take any time; connections are not reused, as vLLM closes idle ones."""
    return ClientSession(
        connector=TCPConnector(limit=0, force_close=True),
        timeout=ClientTimeout(total=None, sock_connect=10),
        auto_decompress=False,
    )


@dataclass
class Proxy:
    """Forwards requests to vLLM. `url` is vLLM's, `key` the API key of vLLM's own port."""

    middleware: Middleware
    session: ClientSession
    url: str
    key: str

    def application(self) -> web.Application:
        application = self.middleware.application()
        for path in PATHS:
            application.router.add_route("*", path, self.forward)
        return application

    async def forward(self, request: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        headers = _forwarded_headers(request.headers, NOT_PASSED_ON)
        headers.update({"Authorization": f"Bearer {self.key}", "Accept-Encoding": "identity"})
        url = URL(f"{self.url}{request.rel_url.raw_path_qs}", encoded=True)  # also of a target that is a whole URL
        body = await request.read()
        try:
            async with self.session.request(
                request.method, url, data=body or None, headers=headers, allow_redirects=False
            ) as answer:
                return await self._forward_response(request, answer, began)
        except ClientError as error:
            message = f"vLLM does not answer: {error}. It may be ending; try again."
            raise OpenAIError(502, message, "server_error", "server_unavailable") from error

    async def _forward_response(self, request: web.Request, answer: ClientResponse, began: float) -> web.StreamResponse:
        headers = _forwarded_headers(answer.headers, OF_ONE_CONNECTION)
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        self.middleware.close_if_draining(response)
        await response.prepare(request)
        usage_counter = UsageCounter(answer.content_type, began)
        try:
            with _last_event_may_be_the_end(usage_counter):
                async for piece in answer.content.iter_any():
                    usage_counter.feed(piece)
                    await response.write(piece)
                    if usage_counter.is_done:
                        break
        except ClientError:
            _abort(request)
            return response
        if answer.ok and request.path in GENERATING:
            usage_counter.count(self.middleware.metrics)
        with _last_event_may_be_the_end(usage_counter):
            await response.write_eof()
        return response


def _forwarded_headers(headers: Mapping[str, str], without: frozenset[str]) -> CIMultiDict[str]:
    """Returns the headers to forward, repeated ones included."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in without | named)


def _abort(request: web.Request) -> None:
    """Closes the connection without ending the response. vLLM ended in the middle of it, and the client must not take
    it for complete."""
    if request.transport:
        request.transport.abort()


@dataclass
class UsageCounter:
    """Reads the token counts from a response. A streamed one has them only if the client asked for usage."""

    content_type: str
    began: float
    """When the request arrived, in seconds of the monotonic clock."""
    first_token: float | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    is_done: bool = False
    """Whether the last event of a stream came."""
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, piece: bytes) -> None:
        if len(self._buffer) <= MAX_ANSWER_BYTES:
            self._buffer += piece
        while self._is_streamed and b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            self._feed_line(bytes(line))

    @property
    def _is_streamed(self) -> bool:
        return self.content_type == "text/event-stream"

    def _feed_line(self, line: bytes) -> None:
        data = line.removeprefix(b"data:").strip()
        self.is_done = self.is_done or (line.startswith(b"data:") and data == b"[DONE]")
        if not line.startswith(b"data:") or not data.startswith(b"{"):
            return
        if self.first_token is not None and b'"usage"' not in data:
            return
        event = _object(data)
        self._take_usage(event)
        if self.first_token is None and _has_content(event):
            self.first_token = time.monotonic()

    def _take_usage(self, answer: Mapping[str, Any]) -> None:
        if isinstance(usage := answer.get("usage"), dict):
            self.usage = usage

    def count(self, metrics: WorkerMetrics) -> None:
        """Adds the figures of a complete response to the metrics."""
        if self.content_type == "application/json":
            self._take_usage(_object(bytes(self._buffer)))
        metrics.prompt_tokens.inc(_tokens(self.usage, "prompt_tokens"))
        metrics.generated_tokens.inc(_tokens(self.usage, "completion_tokens"))
        metrics.answer_seconds.observe(time.monotonic() - self.began)
        if self.first_token is not None:
            metrics.first_token_seconds.observe(self.first_token - self.began)


@contextmanager
def _last_event_may_be_the_end(counter: UsageCounter) -> Iterator[None]:
    """A client that has a stream's last event may close the connection, which cancels the handler, before the response
    is at its end: it got its answer all the same."""
    try:
        yield
    except (ConnectionError, asyncio.CancelledError):
        if not counter.is_done:
            raise


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _has_content(event: Mapping[str, Any]) -> bool:
    """Returns whether a streamed event carries text; a chat's first event names only the role."""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if choice.get("text") or any(delta.get(name) for name in ("content", "reasoning_content", "tool_calls")):
            return True
    return False


def _tokens(usage: Mapping[str, Any], name: str) -> int:
    count = usage.get(name)
    return count if isinstance(count, int) and count > 0 else 0
