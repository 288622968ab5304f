"""When the operator calls itself unhealthy, over HTTP as a probe sees it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from neuronmodel_operator.runtime.health import (
    FAILING_SECONDS,
    OVERDUE_SECONDS,
    SILENT_SECONDS,
    Health,
    WatchPulse,
    serve,
)
from neuronmodel_operator.runtime.readiness import Readiness
from tests.ports import free_port


class Time:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def api_server() -> AsyncIterator[str]:
    """Answers watches of pods, fails at those of jobs and denies those of services."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status={"/jobs": 500, "/services": 403}.get(request.path, 200))

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


async def test_the_age_of_a_watch_is_that_of_its_last_renewal(api_server: str) -> None:
    time = Time()
    pulse = WatchPulse(time)
    assert pulse.age == 0
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        await fetch(session, f"{api_server}/pods?watch=true")
        time.seconds += 40
        assert pulse.age == 40
        await fetch(session, f"{api_server}/pods?watch=true")
        assert pulse.age == 0


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
    pulse.begin()
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        time.seconds += SILENT_SECONDS + 1
        await fetch(session, f"{api_server}/pods")
    assert list(pulse.silent()) == ["any"], "nothing was ever watched"


def test_nothing_is_silent_before_there_is_something_to_watch() -> None:
    time = Time()
    pulse = WatchPulse(time)
    time.seconds += SILENT_SECONDS + 1
    assert pulse.silent() == {}


@pytest.mark.parametrize("query", ["?watch=true", ""])
async def test_a_watch_that_is_denied_is_not_silent_but_complained_of_at_once(api_server: str, query: str) -> None:
    time, denials = Time(), []
    pulse = WatchPulse(time, denied=lambda: denials.append(time.seconds))
    pulse.begin()
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        for _ in range(3):
            time.seconds += SILENT_SECONDS - 1
            await fetch(session, f"{api_server}/services{query}")
            assert pulse.silent() == {}
    assert len(denials) == 3
    (complaint,) = pulse.complaints()
    assert "may not" in complaint
    assert "/services" in complaint


@pytest.mark.parametrize(
    ("query", "status", "is_lost"),
    [
        *(("?watch=true", status, status in (404, 410)) for status in (200, 401, 403, 404, 410, 429, 500)),
        *(("", status, status in (400, 410)) for status in (200, 400, 401, 403, 404, 410, 429, 500)),
    ],
)
async def test_a_list_or_watch_is_lost_with_an_answer_after_which_kopf_asks_no_more(
    query: str, status: int, is_lost: bool
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=404 if request.path == "/discovered" else status)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    pulse, runner = WatchPulse(), web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        await fetch(session, f"{url}/discovered")
        assert not pulse.lost.is_set()
        await fetch(session, f"{url}/pods{query}")
    await runner.cleanup()
    assert pulse.lost.is_set() == is_lost


async def test_what_was_denied_once_and_is_never_watched_is_not_missed(api_server: str) -> None:
    """As a request that finds out which resources there are."""
    time = Time()
    pulse = WatchPulse(time)
    pulse.begin()
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        await fetch(session, f"{api_server}/services")
        await fetch(session, f"{api_server}/pods?watch=true")
        time.seconds += SILENT_SECONDS + 1
        await fetch(session, f"{api_server}/pods?watch=true")
    assert pulse.silent() == {}


async def test_a_failing_watch_is_complained_of_after_a_while_until_it_is_answered(api_server: str) -> None:
    time = Time()
    pulse = WatchPulse(time)
    gone = f"http://127.0.0.1:{free_port()}/claims?watch=true"
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        for _ in range(2):
            assert pulse.complaints() == []
            await fetch(session, f"{api_server}/jobs?watch=true")
            with pytest.raises(aiohttp.ClientError):
                await fetch(session, gone)
            time.seconds += FAILING_SECONDS / 2
        assert ["does not answer" in each for each in pulse.complaints()] == [True, False]
        assert "status 500" in pulse.complaints()[1]


async def test_a_watch_that_is_answered_again_is_forgiven() -> None:
    status = 500

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status)

    app, time = web.Application(), Time()
    app.router.add_get("/pods", answer)
    pulse, runner = WatchPulse(time), web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/pods?watch=true"
    async with aiohttp.ClientSession(trace_configs=[pulse.trace()]) as session:
        await fetch(session, url)
        time.seconds += FAILING_SECONDS
        assert pulse.complaints()
        status = 200
        await fetch(session, url)
    await runner.cleanup()
    assert pulse.complaints() == []


@pytest.mark.parametrize(("overdue", "healthy"), [(0.0, True), (OVERDUE_SECONDS, True), (OVERDUE_SECONDS + 1, False)])
def test_a_pass_that_is_two_minutes_overdue_is_unhealthy(overdue: float, healthy: bool) -> None:
    health = Health(WatchPulse(), dict, lambda: overdue, CollectorRegistry())
    assert (health.complaints() == []) == healthy


async def test_a_probe_gets_200_or_503_with_the_reason_and_prometheus_its_figures() -> None:
    overdue = 0.0
    registry = CollectorRegistry()
    Counter("passes", "Passes.", registry=registry).inc()
    health = Health(WatchPulse(), dict, lambda: overdue, registry)
    port = free_port()
    async with serve(health, Readiness([], []), port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/healthz") as response:
            assert response.status == 200
        overdue = 500.0
        async with session.get("/healthz") as response:
            assert response.status == 503
            assert "overdue by 500 s" in await response.text()
        async with session.get("/metrics") as response:
            assert "passes_total 1.0" in await response.text()
