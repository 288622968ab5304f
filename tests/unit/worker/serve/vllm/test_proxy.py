"""The port in front of vLLM, between a real client and a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession, web
from yarl import URL

from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import Stage
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.serve import listener as serving_port
from neuronmodel_worker.serve.api_keys import ApiKey
from neuronmodel_worker.serve.listener import open_listener
from neuronmodel_worker.serve.middleware import MAX_REQUEST_BYTES, Middleware
from neuronmodel_worker.serve.vllm.proxy import Proxy, open_session
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Behind:
    """What stands for vLLM: `answer` is what it does, `seen` what it was asked."""

    answer: Handler
    seen: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@dataclass
class World:
    behind: Behind
    middleware: Middleware
    client: ClientSession
    url: str
    port: Any

    def metric(self, name: str, **labels: str) -> float:
        return self.middleware.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def world(answer: Handler, key: ApiKey | None = None) -> AsyncIterator[World]:
    behind = Behind(answer)
    application = web.Application(client_max_size=MAX_REQUEST_BYTES * 2)
    application.router.add_route("*", "/{path:.*}", behind.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    inner, outer = free_port(), free_port()
    await web.TCPSite(runner, "127.0.0.1", inner).start()
    middleware = Middleware(WorkerMetrics(StartClock(Stage.SERVE, FirstLine.now())), key)
    config = WorkerConfig(namespace="n", name="m", uid="u", spec_hash="h", serving_port=outer)
    try:
        async with open_session() as session, ClientSession() as client:
            proxy = Proxy(middleware, session, f"http://127.0.0.1:{inner}", "of the inside")
            async with open_listener(middleware, proxy.application(), config) as port:
                yield World(behind, middleware, client, f"http://127.0.0.1:{outer}", port)
    finally:
        await runner.cleanup()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - of objects that tell nobody when they change
            await asyncio.sleep(0.01)


async def echo(request: web.Request) -> web.Response:
    return web.json_response({"path": request.raw_path, "method": request.method})


async def test_a_request_arrives_as_it_was_sent() -> None:
    async with world(echo) as w:
        body = json.dumps({"model": "small", "prompt": "Grüße"}).encode()
        url = URL(f"{w.url}/v1/completions?a=%2F&b=%C3%BC", encoded=True)
        asked = w.client.post(url, data=body, headers={"X-Request-Id": "7"})
        async with asked as answer:
            assert (await answer.json())["path"] == "/v1/completions?a=%2F&b=%C3%BC"
        assert w.behind.bodies == [body]
        assert w.behind.seen[0].headers["X-Request-Id"] == "7"


async def test_a_request_that_names_the_whole_url_is_one_for_its_path() -> None:
    """Clients that are configured with a proxy send such requests."""
    async with world(echo) as w:
        url = URL("http://model.team.svc:8000/v1/models?a=%2F", encoded=True)
        async with w.client.get(url, proxy=w.url) as answer:
            assert (await answer.json())["path"] == "/v1/models?a=%2F"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/team/small", "/v1/embeddings", "/v1/audio/speech"])
async def test_all_of_the_api_is_passed_on(path: str) -> None:
    async with world(echo) as w, w.client.get(f"{w.url}{path}") as answer:
        assert (await answer.json()) == {"path": path, "method": "GET"}


@pytest.mark.parametrize("path", ["/health", "/metrics", "/tokenize", "/"])
async def test_what_is_no_part_of_the_api_is_not_passed_on(path: str) -> None:
    async with world(echo) as w, w.client.get(f"{w.url}{path}") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["type"] == "invalid_request_error"
        assert w.behind.seen == []


async def test_the_api_key_is_asked_for_and_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("of the outside")
    async with world(echo, ApiKey(tmp_path / "key")) as w:
        async with w.client.get(f"{w.url}/v1/models") as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["code"] == "invalid_api_key"
        headers = {"Authorization": "Bearer of the outside"}
        async with w.client.get(f"{w.url}/v1/models", headers=headers) as answer:
            assert answer.status == 200
        assert [each.headers["Authorization"] for each in w.behind.seen] == ["Bearer of the inside"]


async def test_headers_of_one_connection_stay_on_it() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            headers={"Keep-Alive": "timeout=5", "X-Kept": "1", "Connection": "X-Dropped", "X-Dropped": "1"}
        )

    async with world(answer) as w:
        headers = {"Connection": "X-Mine", "X-Mine": "1", "TE": "trailers"}
        async with w.client.get(f"{w.url}/v1/models", headers=headers) as found:
            assert found.headers.get("X-Kept") == "1"
            assert not {"Keep-Alive", "X-Dropped"} & set(found.headers)
        assert not {"X-Mine", "TE"} & set(w.behind.seen[0].headers)


async def test_errors_come_back_as_they_are() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "The prompt is too long."}}, status=400)

    async with world(answer) as w:
        async with w.client.post(f"{w.url}/v1/completions", json={}) as found:
            assert (found.status, (await found.json())["error"]["message"]) == (400, "The prompt is too long.")
        assert w.metric("neuronmodel_requests_total", endpoint="/v1/completions", status="400") == 1
        assert w.metric("neuronmodel_answer_seconds_count") == 0


async def test_pieces_are_passed_on_as_they_come() -> None:
    received = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": [{"text": "one"}]}\n\n')
        await received.wait()  # nothing more until the client has the first piece
        await response.write(b"data: [DONE]\n\n")
        return response

    async with world(answer) as w, w.client.post(f"{w.url}/v1/completions", json={"stream": True}) as found:
        assert found.headers["Content-Type"] == "text/event-stream"
        assert await found.content.readline() == b'data: {"choices": [{"text": "one"}]}\n'
        received.set()
        assert (await found.content.read()).endswith(b"data: [DONE]\n\n")


async def test_tokens_of_a_whole_answer_are_counted() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})

    async with world(answer) as w:
        async with w.client.post(f"{w.url}/v1/chat/completions", json={}) as found:
            await found.read()
        assert w.metric("neuronmodel_prompt_tokens_total") == 5
        assert w.metric("neuronmodel_generated_tokens_total") == 7
        assert w.metric("neuronmodel_answer_seconds_count") == 1
        assert w.metric("neuronmodel_requests_total", endpoint="/v1/chat/completions", status="200") == 1


async def test_tokens_of_a_streamed_answer_are_counted_where_it_tells_them() -> None:
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": "Hello"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
    ]
    whole = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + b"data: [DONE]\n\n"

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for start in range(0, len(whole), 7):  # lines are torn anywhere
            await response.write(whole[start : start + 7])
        return response

    async with world(answer) as w:
        async with w.client.post(f"{w.url}/v1/chat/completions", json={"stream": True}) as found:
            assert await found.read() == whole
        assert (w.metric("neuronmodel_prompt_tokens_total"), w.metric("neuronmodel_generated_tokens_total")) == (5, 2)
        assert w.metric("neuronmodel_time_to_first_token_seconds_count") == 1


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"usage": 3}', b'{"usage": {"prompt_tokens": "x"}}'])
async def test_an_answer_that_tells_nothing_is_passed_on_all_the_same(body: bytes) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with world(answer) as w:
        async with w.client.post(f"{w.url}/v1/completions", json={}) as found:
            assert await found.read() == body
        assert w.metric("neuronmodel_prompt_tokens_total") == 0


@pytest.mark.parametrize("streams", [False, True])
async def test_a_client_that_leaves_ends_the_request_behind(streams: bool) -> None:
    began = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if streams:
            await response.prepare(request)
            await response.write(b"data: {}\n\n")
        began.set()
        await asyncio.sleep(3600)
        return response

    async with world(answer) as w:
        asked = asyncio.create_task(w.client.post(f"{w.url}/v1/completions", json={}))
        await began.wait()
        assert w.metric("neuronmodel_requests_in_flight") == 1
        if streams:
            (await asked).close()
        asked.cancel()
        await asyncio.wait_for(w.behind.cancelled.wait(), PATIENCE_SECONDS)
        await until(lambda: w.middleware.in_flight == 0)
        assert w.metric("neuronmodel_requests_in_flight") == 0


async def test_a_server_that_is_gone_is_reported_in_the_same_shape() -> None:
    async with world(echo) as w:
        w.behind.answer = _hang_up
        async with w.client.post(f"{w.url}/v1/completions", json={}) as found:
            assert found.status == 502
            assert (await found.json())["error"]["code"] == "server_unavailable"


async def _hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        return await _hang_up(request)

    async with world(answer) as w, w.client.post(f"{w.url}/v1/completions", json={}) as found:
        with pytest.raises(ClientPayloadError):
            await found.read()


async def test_a_request_that_is_too_big_is_refused_here() -> None:
    async with world(echo) as w:
        async with w.client.post(f"{w.url}/v1/completions", data=b"x" * (MAX_REQUEST_BYTES + 1)) as found:
            assert found.status == 413
        assert w.behind.seen == []


async def test_draining_finishes_what_is_under_way_and_closes_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_port, "LINGER_SECONDS", 3.0)  # for a request that comes late
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/v1/completions":
            await release.wait()
        return web.json_response({"whole": True})

    async with world(answer) as w:
        slow = asyncio.create_task(w.client.post(f"{w.url}/v1/completions", json={}))
        await until(lambda: bool(w.behind.seen))
        drained = asyncio.create_task(w.port.drain(PATIENCE_SECONDS))
        await until(lambda: bool(w.middleware.draining))
        async with w.client.get(f"{w.url}/v1/models") as late:
            assert (late.status, late.headers.get("Connection")) == (200, "close")
        assert not drained.done()
        release.set()
        async with await slow as found:
            assert await found.json() == {"whole": True}
        await drained
