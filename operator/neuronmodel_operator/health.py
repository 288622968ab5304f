"""/healthz and /metrics: whether this process still does what it is for, and its figures."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

OVERDUE_SECONDS: Final = 120.0
WATCH_SECONDS: Final = 60
"""A watch is asked for so long and then renewed, so that each shows a sign of life even where nothing happens."""
INACTIVITY_SECONDS: Final = 75
"""A watch without a sign of life for so long is given up by kopf and begun anew."""
SILENT_SECONDS: Final = 180.0
"""A watch that was not renewed for so long is dead in spite of both."""

_log = logging.getLogger(__name__)


class WatchPulse:
    """When each watch was last (re-)established, as seen from the HTTP session that kopf watches through."""

    def __init__(self, monotonic: Callable[[], float] = monotonic) -> None:
        self._monotonic = monotonic
        self._since = monotonic()
        self._seen: dict[str, float] = {}

    def trace(self) -> aiohttp.TraceConfig:
        config = aiohttp.TraceConfig()
        config.on_request_start.append(self._asked)
        config.on_request_end.append(self._answered)
        return config

    def silent(self) -> dict[str, float]:
        """Seconds by path, of watches that were silent for too long; of none at all, when none was ever begun."""
        now = self._monotonic()
        seen = self._seen or {"any": self._since}
        return {path: now - at for path, at in seen.items() if now - at > SILENT_SECONDS}

    async def _asked(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestStartParams
    ) -> None:
        if params.url.query.get("watch") == "true":
            self._seen.setdefault(params.url.path, self._monotonic())

    async def _answered(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        if params.url.query.get("watch") == "true" and params.response.status == 200:
            self._seen[params.url.path] = self._monotonic()


class Health:
    """Fails for what a restart may mend, never because there is nothing to do."""

    def __init__(self, pulse: WatchPulse, overdue_seconds: Callable[[], float], registry: CollectorRegistry) -> None:
        self._pulse = pulse
        self._overdue_seconds = overdue_seconds
        self._registry = registry

    def complaints(self) -> list[str]:
        """Sentences; empty: healthy."""
        overdue = self._overdue_seconds()
        late = [f"a pass is overdue by {overdue:.0f} s"] if overdue > OVERDUE_SECONDS else []
        silent = [f"the watch of {path} is silent for {s:.0f} s" for path, s in sorted(self._pulse.silent().items())]
        return late + silent

    async def healthz(self, request: web.Request) -> web.Response:
        if not (complaints := self.complaints()):
            return web.Response(text="ok\n")
        _log.warning("unhealthy: %s", "; ".join(complaints))
        return web.Response(status=503, text="\n".join(complaints) + "\n")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@asynccontextmanager
async def serve(health: Health, port: int) -> AsyncIterator[None]:
    """On all addresses of the pod."""
    app = web.Application()
    app.add_routes([web.get("/healthz", health.healthz), web.get("/metrics", health.metrics)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
