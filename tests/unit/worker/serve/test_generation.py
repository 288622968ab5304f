"""Requests take turns: as many at once as the batch, a bounded number waiting, the rest asked to retry later."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from neuronmodel_api.report import Stage
from neuronmodel_worker.engines import Limits, Sampling, SamplingNotCompiled
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.serve.api import OpenAIApi
from neuronmodel_worker.serve.generation import Generation
from neuronmodel_worker.serve.middleware import Middleware
from neuronmodel_worker.text import load_text
from tests.unit.worker.engines.models import write_tokenizer
from tests.waiting import PATIENCE_SECONDS

Client = TestClient[Request, Application]

ASKED = {"model": "small", "prompt": [5, 6], "max_tokens": 2}


class SlowModel:
    """Gives a token each time it is let."""

    def __init__(self) -> None:
        self.limits = Limits(context_length=8, sequence_length=16, batch_size=1)
        self.let = threading.Semaphore(0)
        self.running = 0

    def check_sampling(self, sampling: Sampling) -> None:
        if sampling.temperature == 0:
            raise SamplingNotCompiled("The graph draws tokens, and temperature 0 was asked for. Leave temperature out.")

    def warm_up(self) -> None: ...

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        self.running += 1
        try:
            while True:
                self.let.acquire()
                yield 7
        finally:
            self.running -= 1


@pytest.fixture
def model() -> SlowModel:
    return SlowModel()


@pytest.fixture
async def client(model: SlowModel, tmp_path: Path) -> AsyncIterator[Client]:
    write_tokenizer(tmp_path)
    metrics = WorkerMetrics(StartClock(Stage.SERVE, FirstLine.now()))
    generation = Generation(model, load_text(tmp_path, {}), metrics, max_waiting=2)
    application = OpenAIApi(generation, "small", Sampling(), Middleware(metrics)).application()
    async with TestClient(TestServer(application, handler_cancellation=True)) as client:
        yield client
    model.let.release(100)
    generation.close()


async def test_what_exceeds_the_queue_is_asked_to_retry_later(client: Client, model: SlowModel) -> None:
    tasks = [asyncio.create_task(client.post("/v1/completions", json=ASKED)) for _ in range(5)]
    refused = [await each for each in await first(tasks, 2)]
    assert [response.status for response in refused] == [429, 429]
    assert (await refused[0].json())["error"]["code"] == "queue_full"
    assert model.running == 1
    model.let.release(6)
    assert sorted([(await task).status for task in tasks]) == [200, 200, 200, 429, 429]


@pytest.fixture
def choosy(model: SlowModel) -> SlowModel:
    """Before `client`, which takes the limits over."""
    model.limits = replace(model.limits, shortest_prompt=2)
    return model


async def test_a_prompt_of_fewer_tokens_than_the_engine_answers_is_refused(choosy: SlowModel, client: Client) -> None:
    refused = await client.post("/v1/completions", json={**ASKED, "prompt": [5]})
    error = (await refused.json())["error"]
    assert (refused.status, error["code"], error["param"]) == (400, "prompt_too_short", "prompt")
    assert "has 1 token, and NxD Inference answers prompts of 2 tokens or more" in error["message"]
    choosy.let.release(3)
    assert (await client.post("/v1/completions", json=ASKED)).status == 200


async def first(tasks: "list[asyncio.Task[ClientResponse]]", count: int) -> "list[asyncio.Task[ClientResponse]]":
    done: set[asyncio.Task[ClientResponse]] = set()
    while len(done) < count:
        finished, _ = await asyncio.wait(
            set(tasks) - done, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_SECONDS
        )
        assert finished, "nothing came"
        done |= finished
    return list(done)


async def test_a_client_that_gives_up_lets_the_next_one_in(client: Client, model: SlowModel) -> None:
    leaving = asyncio.create_task(client.post("/v1/completions", json=ASKED))
    while model.running < 1:  # noqa: ASYNC110 - a thread of the model counts it, no event of this loop
        await asyncio.sleep(0)
    leaving.cancel()
    staying = asyncio.create_task(client.post("/v1/completions", json=ASKED))
    model.let.release(4)
    assert (await asyncio.wait_for(staying, PATIENCE_SECONDS)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_sampling_that_was_not_compiled_is_refused_before_an_answer_begins(
    client: Client, model: SlowModel, stream: bool
) -> None:
    response = await client.post("/v1/completions", json={**ASKED, "temperature": 0, "stream": stream})
    error = (await response.json())["error"]
    assert (response.status, error["type"], error["code"]) == (400, "invalid_request_error", "sampling_not_compiled")
    assert error["message"] == "The graph draws tokens, and temperature 0 was asked for. Leave temperature out."
    assert model.running == 0
