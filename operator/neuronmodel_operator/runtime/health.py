"""Serves /healthz and /metrics, which say whether this process still works and give its figures, and the /readyz of
`readiness`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from neuronmodel_operator.runtime.readiness import Readiness

OVERDUE_SECONDS: Final = 120.0
WATCH_SECONDS: Final = 60
"""A watch is requested for this long and then renewed, so that each shows activity even where nothing happens."""
INACTIVITY_SECONDS: Final = 75
"""kopf drops and restarts a watch without activity for this long."""
SILENT_SECONDS: Final = 180.0
"""A watch that was not renewed for this long is dead in spite of both."""
FAILING_SECONDS: Final = 10.0
"""A list or watch that fails for a shorter time is a normal restart of the API server."""
FORBIDDEN: Final = 403
_TRIED_AGAIN: Final = frozenset({401, FORBIDDEN, 429})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failing:
    status: int
    """The HTTP status; 0 if there was no answer."""
    since: float


class WatchPulse:
    """Tracks when each watch was last established, as seen from the HTTP session through which kopf watches."""

    def __init__(self, monotonic: Callable[[], float] = monotonic, denied: Callable[[], None] = lambda: None) -> None:
        """`denied` is called when the API server answers 403."""
        self._monotonic = monotonic
        self._denied = denied
        self._since: float | None = None
        self._seen: dict[str, float] = {}
        self._failing: dict[str, _Failing] = {}
        self.lost = asyncio.Event()
        """Set when a list or a watch got an answer after which kopf does not retry, for example because the definition
        was deleted. After a list, kopf ends all its watches, and hangs."""

    def begin(self) -> None:
        """From now on, watches are expected."""
        self._since = self._monotonic()

    def trace(self) -> aiohttp.TraceConfig:
        config = aiohttp.TraceConfig()
        config.on_request_start.append(self._asked)
        config.on_request_end.append(self._answered)
        config.on_request_exception.append(self._unanswered)
        return config

    def silent(self) -> dict[str, float]:
        """Returns, by path, the seconds of watches that have been silent for too long; the path is "any" if none was
        ever started."""
        now = self._monotonic()
        seen = self._seen or ({} if self._since is None else {"any": self._since})
        return {path: now - at for path, at in seen.items() if now - at > SILENT_SECONDS}

    @property
    def age(self) -> float:
        """For how many seconds the watch that was silent longest has been; 0 before the first."""
        now = self._monotonic()
        return max((now - at for at in self._seen.values()), default=0.0)

    def complaints(self) -> list[str]:
        """Returns a sentence for each path that can't be listed or watched."""
        now = self._monotonic()
        return [
            f"The API server {_described(failing.status)} when the operator lists or watches {path}."
            for path, failing in sorted(self._failing.items())
            if failing.status == FORBIDDEN or now - failing.since >= FAILING_SECONDS
        ]

    async def _asked(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestStartParams
    ) -> None:
        if params.url.query.get("watch") == "true":
            self._seen.setdefault(params.url.path, self._monotonic())

    async def _answered(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        path, status = params.url.path, params.response.status
        is_watched = path in self._seen
        if status == 200 or (status == 404 and not is_watched):
            self._failing.pop(path, None)
        else:
            self._record_failure(path, status)
        # While kopf finds out what there is, 404 is no failure.
        if 400 <= status < 500 and status not in _TRIED_AGAIN and (is_watched or status != 404):
            self.lost.set()
        if status == 200 and params.url.query.get("watch") == "true":
            self._seen[path] = self._monotonic()
        if status == FORBIDDEN:
            self._mark_answered(path)
            self._denied()

    async def _unanswered(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams
    ) -> None:
        if isinstance(params.exception, aiohttp.ClientError | TimeoutError):
            self._record_failure(params.url.path, 0)

    def _mark_answered(self, path: str) -> None:
        """Counts a denied request as activity: a restart would not help."""
        self._since = self._since and self._monotonic()
        if path in self._seen:
            self._seen[path] = self._monotonic()

    def _record_failure(self, path: str, status: int) -> None:
        former = self._failing.get(path)
        self._failing[path] = _Failing(status, former.since if former else self._monotonic())


def _described(status: int) -> str:
    return {0: "does not answer", FORBIDDEN: "says that it may not"}.get(status, f"answers with status {status}")


class Health:
    """Reports problems that a restart may solve; having nothing to do is never one."""

    def __init__(
        self,
        pulse: WatchPulse,
        silent: Callable[[], Mapping[str, float]],
        overdue_seconds: Callable[[], float],
        registry: CollectorRegistry,
    ) -> None:
        """`silent` returns, by what is watched besides, the seconds of watches that have been silent for too long."""
        self._pulse = pulse
        self._silent = silent
        self._overdue_seconds = overdue_seconds
        self._registry = registry

    def complaints(self) -> list[str]:
        """Returns sentences; none if the process is healthy."""
        overdue = self._overdue_seconds()
        late = [f"a pass is overdue by {overdue:.0f} s"] if overdue > OVERDUE_SECONDS else []
        watches = {**self._pulse.silent(), **self._silent()}
        silent = [f"the watch of {path} is silent for {s:.0f} s" for path, s in sorted(watches.items())]
        return late + silent

    async def healthz(self, request: web.Request) -> web.Response:
        if not (complaints := self.complaints()):
            return web.Response(text="ok\n")
        _log.warning("unhealthy: %s", "; ".join(complaints))
        return web.Response(status=503, text="\n".join(complaints) + "\n")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@asynccontextmanager
async def serve(health: Health, readiness: Readiness, port: int) -> AsyncIterator[None]:
    """Serves on all addresses of the pod while the context is open."""
    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", health.healthz),
            web.get("/readyz", readiness.readyz),
            web.get("/metrics", health.metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
