"""A proxy in front of a Kubernetes API server, on this machine alone, that goes wrong as it is told.

It speaks HTTP to the client, whose token it passes on, and what the kubeconfig says to the API server.
"""

import asyncio
import base64
import json
import ssl
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

from tests.faults.faults import Around, CutAfter, CutBefore, CutInside, Delay, Fault, Faults, Hang, Lag, Refuse
from tests.faults.requests import ApiRequest, NumberedWrites, WriteId, read_request
from tests.faults.watch_events import EventFaults, Seen, WatchStream

HOST: Final = "127.0.0.1"
MAX_BODY_BYTES: Final = 64 << 20
MAX_ANSWERS: Final = 8
"""Of each read that are remembered."""
READS: Final = frozenset({"get", "list"})
NOT_PASSED_ON: Final = frozenset({"host", "connection", "transfer-encoding", "content-length", "accept-encoding"})
NOT_GIVEN_BACK: Final = frozenset({"connection", "transfer-encoding", "content-length", "content-encoding"})

T = TypeVar("T")


@dataclass(frozen=True)
class Recorded:
    """A request that reached the API server, and its answer."""

    request: ApiRequest
    status: int
    body: Any
    """What was written; None for a read."""
    at: float
    """Monotonic seconds."""


@dataclass
class FaultProxy:
    """`faults` befall requests, `event_faults` the events of watches. What passes is recorded."""

    upstream: URL
    tls: ssl.SSLContext | None = None
    faults: Faults = field(default_factory=Faults)
    write_faults: Mapping[WriteId, Fault] = field(default_factory=dict)
    """Befall single writes, before `faults` are asked."""
    event_faults: EventFaults = field(default_factory=EventFaults)
    recorded: list[Recorded] = field(default_factory=list)
    numbered: NumberedWrites = field(default_factory=NumberedWrites)
    events: Seen = field(default_factory=Seen)
    num_befallen: int = 0
    """Requests that a fault befell."""
    url: str = ""
    _answers: dict[str, deque[bytes]] = field(default_factory=dict)
    """What reads were answered, the latest last, by path and query."""
    _stale_reads: int = 0
    _stale: Counter[str] = field(default_factory=Counter)
    """By path and query, how often a read was answered with an old answer."""
    _calls: set[asyncio.Future[Any]] = field(default_factory=set)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def writes(self) -> list[Recorded]:
        """The writes that reached the API server, in their order."""
        return [each for each in self.recorded if each.request.is_write]

    def begin(self) -> None:
        """Writes and events are numbered and recorded from now on."""
        self.recorded.clear()
        self.numbered = NumberedWrites()
        self.events.forget()  # watches that are open hold on to it

    def serve_stale(self, reads: int) -> None:
        """The next reads of each path are answered as the last one before was: by an API server that is behind."""
        self._stale_reads = reads
        self._stale.clear()

    def write_times(self, resource: str, namespace: str) -> list[float]:
        """When it was written to a resource, or to a subresource as in neuronmodels/status; monotonic seconds."""
        return [
            each.at
            for each in self.writes
            if each.request.namespace == namespace
            and resource == "/".join(filter(None, (each.request.resource, each.request.subresource)))
        ]

    # Requests.

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = read_request(request.method, request.path, request.query)
        fault = await self._fault_of(request, asked)
        self.num_befallen += fault is not None
        if asked and asked.verb in READS and (stale := self._stale_answer(request.path_qs)):
            return web.Response(body=stale, content_type="application/json")
        match fault:
            case Delay(seconds):
                await asyncio.sleep(seconds)
            case Refuse():
                return _refusal(fault)
            case Hang():
                await self._ended.wait()
                return self._cut(request)
            case CutBefore():
                return self._cut(request)
            case Around(before=before) if before and asked:
                await self._seen_through(before(asked))
                return self._cut(request)
            case Lag(answers):
                known = self._answers.get(request.path_qs, ())
                if len(known) > answers:
                    return web.Response(body=known[-1 - answers], content_type="application/json")
        try:
            if isinstance(fault, Around):
                return await self._seen_through(self._forward(request, asked, fault))
            return await self._forward(request, asked, fault)
        except aiohttp.ClientError:
            return self._cut(request)

    async def _fault_of(self, request: web.Request, asked: ApiRequest | None) -> Fault | None:
        if asked is None:
            return None
        if asked.is_write:
            identity = self.numbered.id_of(asked, _parsed(await request.read()))
            if (fault := self.write_faults.get(identity)) is not None:
                return fault
        return self.faults.of(asked)

    def _stale_answer(self, path: str) -> bytes | None:
        known = self._answers.get(path)
        if not known or self._stale[path] >= self._stale_reads:
            return None
        self._stale[path] += 1
        self.num_befallen += 1
        return known[-1]

    async def _forward(self, request: web.Request, asked: ApiRequest | None, fault: Fault | None) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in NOT_PASSED_ON}
        url = self.upstream.join(URL(request.raw_path, encoded=True))
        async with (
            self._session.request(
                request.method, url, headers=headers, data=body or None, allow_redirects=False
            ) as answer,
        ):
            if asked and asked.is_watch and answer.status == web.HTTPOk.status_code:
                return await self._watch(request, asked, answer)
            content = await answer.read()
            if asked:
                self._record(request, asked, answer.status, body, content)
            match fault:
                case CutAfter():
                    return self._cut(request)
                case CutInside():
                    return await self._cut_inside(request, answer, content)
                case Around(after=after) if after and asked:
                    await after(asked)
                    return self._cut(request)
            return web.Response(status=answer.status, body=content, headers=_given_back(answer.headers))

    async def _seen_through(self, call: Awaitable[T]) -> T:
        """To its end, though the client may give up and its request be cancelled meanwhile."""
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return await asyncio.shield(task)

    def _record(self, request: web.Request, asked: ApiRequest, status: int, body: bytes, content: bytes) -> None:
        self.recorded.append(Recorded(asked, status, _parsed(body) if asked.is_write else None, monotonic()))
        if asked.verb in READS and status == web.HTTPOk.status_code:
            self._answers.setdefault(request.path_qs, deque(maxlen=MAX_ANSWERS)).append(content)

    def _cut(self, request: web.Request) -> web.Response:
        """Closes the connection; what is returned reaches nobody."""
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _cut_inside(
        self, request: web.Request, answer: aiohttp.ClientResponse, content: bytes
    ) -> web.StreamResponse:
        headers = _given_back(answer.headers) | {"Content-Length": str(len(content))}
        cut = web.StreamResponse(status=answer.status, headers=headers)
        with suppress(ConnectionError):
            await cut.prepare(request)
            await cut.write(content[: len(content) // 2])
        self._cut(request)
        return cut

    async def _watch(
        self, request: web.Request, asked: ApiRequest, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        stream = WatchStream(asked, self.events, self.event_faults)
        passed_on = web.StreamResponse(headers=_given_back(answer.headers))
        with suppress(ConnectionError):
            await passed_on.prepare(request)
            async with _released(stream, passed_on, self.event_faults.held_seconds):
                async for line in _lines(answer):
                    for each in stream.lines(line):
                        await passed_on.write(each)
                    if stream.ended:
                        break
            await passed_on.write_eof()
        return passed_on

    # Its life.

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultProxy"]:
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1.0)
        connector = aiohttp.TCPConnector(ssl=self.tls or True, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=1 << 22) as self._session:
            await runner.setup()
            try:
                site = web.TCPSite(runner, HOST, 0)
                await site.start()
                self.url = f"http://{HOST}:{runner.addresses[0][1]}"
                yield self
            finally:
                self._ended.set()
                await runner.cleanup()


def proxy_of(kubeconfig: Path) -> FaultProxy:
    """A proxy in front of the kubeconfig's cluster."""
    cluster = current_cluster(yaml.safe_load(kubeconfig.read_text()))
    file, data = cluster.get("certificate-authority"), cluster.get("certificate-authority-data")
    authority = base64.b64decode(data).decode() if data else None
    return FaultProxy(URL(cluster["server"]), ssl.create_default_context(cafile=file, cadata=authority))


def write_kubeconfig_of_proxy(kubeconfig: Path, proxy: FaultProxy, path: Path) -> None:
    """The same user, by way of the proxy."""
    content = yaml.safe_load(kubeconfig.read_text())
    cluster = current_cluster(content)
    cluster.clear()
    cluster["server"] = proxy.url
    path.write_text(yaml.safe_dump(content))


def current_cluster(content: Mapping[str, Any]) -> dict[str, Any]:
    """The cluster of the kubeconfig's current context."""
    context = next(each["context"] for each in content["contexts"] if each["name"] == content["current-context"])
    found: dict[str, Any] = next(each["cluster"] for each in content["clusters"] if each["name"] == context["cluster"])
    return found


@asynccontextmanager
async def _released(stream: WatchStream, passed_on: web.StreamResponse, seconds: float) -> AsyncIterator[None]:
    """Passes on what is held back, however little else comes."""

    async def release() -> None:
        while True:
            await asyncio.sleep(0.25)
            if stream.is_holding:
                await asyncio.sleep(seconds)
                for line in stream.held_back():
                    await passed_on.write(line)

    releasing = asyncio.create_task(release())
    try:
        yield
    finally:
        releasing.cancel()
        await asyncio.gather(releasing, return_exceptions=True)


def _parsed(body: bytes) -> Any:
    return json.loads(body) if body else None


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines, however long; the API server sends one for each event."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line


def _refusal(refuse: Refuse) -> web.Response:
    status = {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": refuse.status,
        "reason": refuse.reason, "message": refuse.message,
    }  # fmt: skip
    headers = {} if refuse.retry_after is None else {"Retry-After": str(refuse.retry_after)}
    return web.json_response(status, status=refuse.status, headers=headers)


def _given_back(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in NOT_GIVEN_BACK}
