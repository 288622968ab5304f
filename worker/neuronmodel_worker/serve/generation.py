"""Runs requests on a model that computes in threads: a batch at a time, with a bounded number of requests waiting."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from neuronmodel_worker.engines import LoadedModel, Sampling
from neuronmodel_worker.report.metrics import WorkerMetrics
from neuronmodel_worker.text import StopText, Text

FinishReason = Literal["stop", "length"]
MAX_WAITING = 64


class QueueFull(Exception):
    """Too many requests are waiting already. The message is for the client."""


@dataclass(frozen=True)
class GenerationRequest:
    """A tokenized prompt and how to answer it. With `max_tokens` None, generation ends when the sequence is full."""

    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()


@dataclass
class Completion:
    """The state of the answer to one request. `finish_reason` is set when it has ended."""

    request: GenerationRequest
    tokens: int = 0
    finish_reason: FinishReason | None = None
    arrived: float = field(default_factory=time.monotonic)


class Generation:
    """Hands requests to the model, as many at a time as its batch size."""

    def __init__(self, model: LoadedModel, text: Text, metrics: WorkerMetrics, max_waiting: int = MAX_WAITING) -> None:
        self.text = text
        self.limits = model.limits
        self._model = model
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._waiting = 0
        self._answering = 0
        self._turns = asyncio.Semaphore(model.limits.batch_size)
        self._threads = ThreadPoolExecutor(model.limits.batch_size, thread_name_prefix="generate")

    def check_sampling(self, sampling: Sampling) -> None:
        """Raises SamplingNotCompiled."""
        self._model.check_sampling(sampling)

    @property
    def busy(self) -> bool:
        """Whether an answer is being computed. Any thread may ask."""
        return self._answering > 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until the model can take one more request. Raises QueueFull."""
        if self._turns.locked() and self._waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._waiting} requests wait already, and no more than {self._max_waiting} may. Try again later."
            )
        began = time.monotonic()
        self._waiting += 1
        self._show_queue()
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
            self._show_queue()
        self._metrics.waited(time.monotonic() - began)
        self._answering += 1
        self._show_queue()
        try:
            yield
        finally:
            self._answering -= 1
            self._show_queue()
            self._turns.release()

    def _show_queue(self) -> None:
        self._metrics.queue(waiting=self._waiting, running=self._answering)

    async def pieces(self, answer: Completion) -> AsyncGenerator[str, None]:
        """Yields the text of the answer piece by piece. Call it during a `turn`, and close it when the client has
        left."""
        detokenizer, stops = self.text.detokenizer(answer.request.prompt), StopText(answer.request.stops)
        counted = self._metrics.answering(len(answer.request.prompt))
        tokens = self._tokens(answer.request)
        try:
            async for token in tokens:
                answer.tokens += 1
                counted.token(answer.arrived)
                if token in self.text.end_tokens:
                    answer.finish_reason = "stop"
                    break
                text, stopped = stops.push(detokenizer.push(token))
                if text:
                    yield text
                if stopped:
                    answer.finish_reason = "stop"
                    return
                if answer.tokens == answer.request.max_tokens:
                    break
            answer.finish_reason = answer.finish_reason or "length"
        finally:
            await tokens.aclose()
            counted.ended(answer.arrived, answer.finish_reason)
        text, stopped = stops.push(detokenizer.rest())
        if stopped:
            answer.finish_reason = "stop"
        if rest := text if stopped else text + stops.rest():
            yield rest

    async def _tokens(self, request: GenerationRequest) -> AsyncGenerator[int, None]:
        """Yields tokens, one step of the model at a time, each in a thread. Closing the generator stops the
        computation."""
        loop = asyncio.get_running_loop()
        tokens = iter(self._model.generate(request.prompt, request.sampling))
        step: asyncio.Future[int | None] | None = None
        try:
            while True:
                step = loop.run_in_executor(self._threads, next, tokens, None)
                token = await asyncio.shield(step)
                if token is None:
                    return
                yield token
        finally:
            if step is not None and not step.done():
                await asyncio.wait([step])
            tokens.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
