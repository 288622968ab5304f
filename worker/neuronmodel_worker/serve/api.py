"""The model's HTTP API in OpenAI's format: /v1/completions, /v1/chat/completions and /v1/models."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from pydantic import ValidationError

from neuronmodel_worker.engines import Sampling, SamplingNotCompiled
from neuronmodel_worker.serve.generation import Completion, Generation, GenerationRequest, QueueFull
from neuronmodel_worker.serve.middleware import Middleware, OpenAIError
from neuronmodel_worker.serve.requests import (
    DEFAULT_COMPLETION_TOKENS,
    ChatRequest,
    CompletionRequest,
    Request,
)
from neuronmodel_worker.text import PromptRefused

AnyRequest = TypeVar("AnyRequest", bound=Request)


@dataclass(frozen=True)
class WireFormat:
    """How one kind of completion is encoded as JSON: its object types, and the functions that build a choice."""

    id_prefix: str
    whole: str
    piece: str
    choice: Callable[[str, str | None], dict[str, Any]]
    delta: Callable[[str, str | None], dict[str, Any]]
    opening: Callable[[], dict[str, Any]] | None = None


def _text_choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _message_choice(text: str, reason: str | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}


def _delta_choice(text: str, reason: str | None) -> dict[str, Any]:
    delta = {"content": text} if text else {}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _opening_choice() -> dict[str, Any]:
    return {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}


COMPLETION = WireFormat("cmpl", "text_completion", "text_completion", _text_choice, _text_choice)
CHAT = WireFormat(
    "chatcmpl", "chat.completion", "chat.completion.chunk", _message_choice, _delta_choice, _opening_choice
)


@dataclass
class OpenAIApi:
    """The routes of the API, on top of one `Generation`. `defaults` apply to sampling fields that a request leaves
    out."""

    generation: Generation
    served_name: str
    defaults: Sampling
    middleware: Middleware
    created: int = field(default_factory=lambda: int(time.time()))

    def application(self) -> web.Application:
        application = self.middleware.application()
        application.add_routes(
            [
                web.post("/v1/completions", self.complete),
                web.post("/v1/chat/completions", self.chat),
                web.get("/v1/models", self.models),
                web.get("/v1/models/{name:.+}", self.model),
            ]
        )
        return application

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card()]})

    async def model(self, request: web.Request) -> web.Response:
        self._check_name(request.match_info["name"])
        return web.json_response(self._card())

    def _card(self) -> dict[str, Any]:
        length = self.generation.limits.sequence_length
        return {
            "id": self.served_name, "object": "model", "created": self.created, "owned_by": "neuronmodel",
            "max_model_len": length,
        }  # fmt: skip

    def _check_name(self, name: str) -> None:
        if name != self.served_name:
            message = f"There is no model {name!r} here; this server answers as {self.served_name!r}."
            raise OpenAIError(404, message, code="model_not_found", param="model")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await self._parse(request, CompletionRequest)
        if isinstance(asked.prompt, str):
            tokens = await self._encoded("prompt", self.generation.text.encode, asked.prompt)
        else:
            tokens = [token for token in asked.prompt if isinstance(token, int)]
        max_tokens = asked.max_answer_tokens or DEFAULT_COMPLETION_TOKENS
        return await self._reply(request, asked, tokens, max_tokens, COMPLETION)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = await self._parse(request, ChatRequest)
        text = self.generation.text
        messages = [message.for_template(in_parts=text.takes_parts) for message in asked.messages]
        prompt = await self._encoded("messages", text.encode_chat, messages)
        return await self._reply(request, asked, prompt, asked.max_answer_tokens, CHAT)

    async def _encoded(self, param: str, encode: Callable[[Any], list[int]], what: Any) -> list[int]:
        """Tokenizes in a thread: a prompt of several megabytes takes seconds, and other requests are answered
        meanwhile.

        Raises OpenAIError for a prompt that is too long or that the tokenizer refuses.
        """
        if refused := self.generation.text.too_long(what, self.generation.limits.context_length):
            raise OpenAIError(400, refused, param=param, code="context_length_exceeded")
        try:
            return await asyncio.to_thread(encode, what)
        except PromptRefused as error:
            raise OpenAIError(400, str(error), param=param) from error

    async def _parse(self, request: web.Request, kind: type[AnyRequest]) -> AnyRequest:
        try:
            asked = kind.model_validate_json(await request.read())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or None
            what = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                what = "this server does not know the field"
            raise OpenAIError(400, f"{place}: {what}." if place else f"{what}.", param=place) from error
        self._check_name(asked.model)
        return asked

    async def _reply(
        self, request: web.Request, asked: Request, prompt: list[int], max_tokens: int | None, wire: WireFormat
    ) -> web.StreamResponse:
        self._check_prompt(prompt, "messages" if isinstance(asked, ChatRequest) else "prompt")
        self._check_answer_limits(asked, prompt)
        sampling = asked.sampling(self.defaults)
        self._check_sampling(sampling)
        answer = Completion(GenerationRequest(prompt, sampling, max_tokens, asked.stops))
        async with self._turn():
            if asked.stream:
                return await self._stream(request, answer, wire, asked.reports_usage)
            text = "".join([piece async for piece in self.generation.pieces(answer)])
        return web.json_response(
            {
                **self._envelope(wire.id_prefix, wire.whole),
                "choices": [wire.choice(text, answer.finish_reason)],
                "usage": _usage(answer),
            }
        )

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with self.generation.turn():
                yield
        except QueueFull as error:
            raise OpenAIError(429, str(error), "rate_limit_error", "queue_full") from error

    def _check_sampling(self, sampling: Sampling) -> None:
        """Checks the sampling parameters before the first byte is sent: a stream that has begun can no longer be
        refused."""
        try:
            self.generation.check_sampling(sampling)
        except SamplingNotCompiled as error:
            raise OpenAIError(400, str(error), code="sampling_not_compiled") from error

    def _check_prompt(self, prompt: list[int], param: str) -> None:
        limits, size = self.generation.limits, len(prompt)
        if not prompt:
            raise OpenAIError(400, "The prompt is empty.", param=param)
        if what := self.generation.text.outside(prompt):
            raise OpenAIError(400, what, param=param, code="token_outside_vocabulary")
        if size < limits.shortest_prompt:
            raise OpenAIError(
                400,
                f"The prompt has {size} token, and NxD Inference answers prompts of {limits.shortest_prompt} tokens or "
                "more: it would take the position of a padding token for that of the prompt's. Write a longer one.",
                param=param,
                code="prompt_too_short",
            )
        if size > limits.context_length:
            raise OpenAIError(
                400,
                f"The prompt has {size:,} tokens, and this model takes at most {limits.context_length:,} "
                f"({limits.sequence_length:,} with the answer). Shorten it.",
                code="context_length_exceeded",
            )

    def _check_answer_limits(self, asked: Request, prompt: list[int]) -> None:
        """Refuses a limit above the sequence length: it is a mistake, and would generate until the sequence is full. A
        lower limit is accepted even where the prompt leaves less space than that, since clients use one limit for
        prompts of any length."""
        longest = self.generation.limits.sequence_length
        for name, limit in asked.answer_limits.items():
            if limit > longest:
                raise OpenAIError(
                    400,
                    f"{name} is {limit:,}, and a sequence of this model has at most {longest:,} tokens, with the "
                    f"prompt's {len(prompt):,}. Ask for at most {max(1, longest - len(prompt)):,}, or leave it out.",
                    param=name,
                    code="context_length_exceeded",
                )

    async def _stream(
        self, request: web.Request, answer: Completion, wire: WireFormat, with_usage: bool
    ) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        self.middleware.close_if_draining(response)
        await response.prepare(request)
        envelope = self._envelope(wire.id_prefix, wire.piece)
        extra: dict[str, Any] = {"usage": None} if with_usage else {}
        async with contextlib.aclosing(self._events(answer, wire)) as choices:
            async for choice in choices:
                await _send(response, {**envelope, "choices": [choice], **extra})
        if with_usage:
            await _send(response, {**envelope, "choices": [], "usage": _usage(answer)})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _events(self, answer: Completion, wire: WireFormat) -> AsyncGenerator[dict[str, Any], None]:
        if wire.opening:
            yield wire.opening()
        async with contextlib.aclosing(self.generation.pieces(answer)) as pieces:
            async for piece in pieces:
                yield wire.delta(piece, None)
        yield wire.delta("", answer.finish_reason)

    def _envelope(self, prefix: str, kind: str) -> dict[str, Any]:
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.served_name,
        }


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode())


def _usage(answer: Completion) -> dict[str, int]:
    prompt = len(answer.request.prompt)
    return {"prompt_tokens": prompt, "completion_tokens": answer.tokens, "total_tokens": prompt + answer.tokens}
