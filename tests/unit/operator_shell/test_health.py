"""When the operator calls itself unhealthy, over HTTP as a probe sees it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from neuronmodel_operator.health import OVERDUE_SECONDS, SILENT_SECONDS, Health, WatchPulse, serve
from tests.ports import free_port


class Time:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def api_server() -> AsyncIterator[str]:
    """Answers watches of pods and refuses those of jobs."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=500 if "jobs" in request.path else 200)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def fetch(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(url) as response:
        await response.read()


async def test_a_watch_that_is_renewed_is_alive_and_one_that_is_not_falls_silent(api_server: str) -> None:
    time = Time()
    pulse = WatchPulse(time)
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        for watch in ("pods", "jobs"):
            await fetch(session, f"{api_server}/{watch}?watch=true")
        time.seconds += SILENT_SECONDS - 1
        assert pulse.silent() == {}
        for watch in ("pods", "jobs"):
            await fetch(session, f"{api_server}/{watch}?watch=true")
        time.seconds += 2
        assert list(pulse.silent()) == ["/jobs"], "a refused watch is no sign of life"


async def test_a_list_is_no_watch(api_server: str) -> None:
    time = Time()
    pulse = WatchPulse(time)
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        time.seconds += SILENT_SECONDS + 1
        await fetch(session, f"{api_server}/pods")
    assert list(pulse.silent()) == ["any"], "nothing was ever watched"


@pytest.mark.parametrize(("overdue", "healthy"), [(0.0, True), (OVERDUE_SECONDS, True), (OVERDUE_SECONDS + 1, False)])
def test_a_pass_that_is_two_minutes_overdue_is_unhealthy(overdue: float, healthy: bool) -> None:
    health = Health(WatchPulse(), lambda: overdue, CollectorRegistry())
    assert (health.complaints() == []) == healthy


async def test_a_probe_gets_200_or_503_with_the_reason_and_prometheus_its_figures() -> None:
    overdue = 0.0
    registry = CollectorRegistry()
    Counter("passes", "Passes.", registry=registry).inc()
    health = Health(WatchPulse(), lambda: overdue, registry)
    port = free_port()
    async with serve(health, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/healthz") as response:
            assert response.status == 200
        overdue = 500.0
        async with session.get("/healthz") as response:
            assert response.status == 503
            assert "overdue by 500 s" in await response.text()
        async with session.get("/metrics") as response:
            assert "passes_total 1.0" in await response.text()
