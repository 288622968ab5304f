"""The server's process: /health, /metrics and the OpenAI-style API, by the engine in another process."""

import asyncio
import json
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from neuronmodel_worker.text import Text, load_text
from vllm.config import VllmConfig
from vllm.v1.engine import run_engine_core

Event = tuple[int, str | None]


def fails(how: str) -> bool:
    return how in os.environ.get("VLLM_STANDIN_FAIL", "").split(",")


@dataclass
class Server:
    config: VllmConfig
    engine: Any
    pipe: Any
    text: Text
    answers: dict[str, "asyncio.Queue[Event]"] = field(default_factory=dict)
    tokens: int = 0

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._authorized])
        application.add_routes(
            [
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/v1/models", self.models),
                web.post("/v1/completions", self.complete),
                web.post("/v1/chat/completions", self.chat),
            ]
        )
        return application

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Any) -> web.StreamResponse:
        key = os.environ.get("VLLM_API_KEY")
        if key and request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if fails("no-health") or not self.engine.is_alive() else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        metrics = (
            f'# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{{engine="0"}} {self.tokens}\n'
        )
        return web.Response(text=metrics)

    async def models(self, _: web.Request) -> web.Response:
        model = self.config.model_config
        card = {
            "id": model.served_model_name,
            "object": "model",
            "owned_by": "vllm",
            "max_model_len": model.max_model_len,
        }
        return web.json_response({"object": "list", "data": [card]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        prompt = asked["prompt"] if isinstance(asked["prompt"], list) else self.text.encode(asked["prompt"])
        return await self._reply(request, asked, prompt, asked.get("max_tokens", 16), "text_completion")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        most = asked.get("max_completion_tokens") or asked.get("max_tokens") or 1 << 30
        prompt = self.text.encode_chat(asked["messages"])
        return await self._reply(request, asked, prompt, most, "chat.completion")

    async def _reply(
        self, request: web.Request, asked: dict[str, Any], prompt: list[int], max_tokens: int, kind: str
    ) -> web.StreamResponse:
        model = self.config.model_config
        if asked["model"] != model.served_model_name:
            return _error(404, f"The model `{asked['model']}` does not exist.", "NotFoundError")
        if len(prompt) > (model.max_prompt_length or model.max_model_len - 1):
            return _error(400, f"The prompt of {len(prompt)} tokens is too long.", "BadRequestError")
        if fails("api-dies"):
            sys.stderr.write("a server that ends by itself\n")
            os._exit(7)
        async with aclosing(self._generate(asked, prompt, max_tokens)) as pieces:
            if asked.get("stream"):
                return await self._stream(request, asked, prompt, pieces, kind)
            whole = [piece async for piece in pieces]
        text, reason, count = "".join(piece for piece, _ in whole), whole[-1][1], len(whole)
        choice = {"message": {"role": "assistant", "content": text}} if kind == "chat.completion" else {"text": text}
        return web.json_response(
            {
                **self._envelope(kind),
                "choices": [{"index": 0, **choice, "finish_reason": reason}],
                "usage": _usage(len(prompt), count),
            }
        )

    async def _stream(
        self, request: web.Request, asked: dict[str, Any], prompt: list[int], pieces: Any, kind: str
    ) -> web.StreamResponse:
        chat = kind == "chat.completion"
        envelope = self._envelope("chat.completion.chunk" if chat else kind)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)

        async def send(event: dict[str, Any]) -> None:
            await response.write(f"data: {json.dumps({**envelope, **event})}\n\n".encode())

        if chat:
            await send({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        count = 0
        async for piece, reason in pieces:
            choice = {"delta": {"content": piece}} if chat else {"text": piece}
            await send({"choices": [{"index": 0, **choice, "finish_reason": reason}]})
            count += 1
        if (asked.get("stream_options") or {}).get("include_usage"):
            await send({"choices": [], "usage": _usage(len(prompt), count)})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _generate(
        self, asked: dict[str, Any], prompt: list[int], max_tokens: int
    ) -> AsyncGenerator[tuple[str, str | None], None]:
        """Who stops listening lets the engine stop."""
        request_id = secrets.token_hex(4)
        queue = self.answers.setdefault(request_id, asyncio.Queue())
        sampling = {
            "top_k": asked.get("top_k", -1),
            "top_p": asked.get("top_p", 1.0),
            "temperature": asked.get("temperature", 1.0),
        }
        self.pipe.send(
            (
                "add",
                {
                    "request_id": request_id, "prompt": prompt, "max_tokens": max_tokens,
                    "end_tokens": sorted(self.text.end_tokens), "sampling": sampling,
                },
            )
        )  # fmt: skip
        detokenizer, reason = self.text.detokenizer(prompt), None
        try:
            while reason is None:
                token, reason = await queue.get()
                self.tokens += 1
                piece = "" if reason == "stop" else detokenizer.push(token)
                yield piece + (detokenizer.rest() if reason else ""), reason
        finally:
            del self.answers[request_id]
            if reason is None:
                self.pipe.send(("abort", request_id))

    def _envelope(self, kind: str) -> dict[str, Any]:
        name = self.config.model_config.served_model_name
        return {"id": secrets.token_hex(8), "object": kind, "created": int(time.time()), "model": name}

    def hear(self) -> None:
        """Of tokens; the engine's end ends the server."""
        try:
            _, (request_id, token, reason) = self.pipe.recv()
        except (EOFError, OSError):
            sys.stderr.write("(APIServer) ERROR the engine is dead: EngineDeadError\n")
            os._exit(1)
        if queue := self.answers.get(request_id):
            queue.put_nowait((token, reason))


def run_server(config: VllmConfig, host: str, port: int) -> None:
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    engine = context.Process(target=run_engine_core, args=(config, theirs), daemon=True)
    engine.start()
    theirs.close()
    text = load_text(Path(config.model_config.model), {})
    try:
        what, _ = pipe.recv()
    except EOFError:
        what = "failed"
    if what != "ready":
        engine.join(5)
        raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
    asyncio.run(_serve(Server(config, engine, pipe, text), host, port))
    pipe.close()
    engine.join(5)


async def _serve(server: Server, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, (lambda: None) if fails("ignores-sigterm") else stop.set)
    loop.add_reader(server.pipe.fileno(), server.hear)
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    await stop.wait()
    loop.remove_reader(server.pipe.fileno())
    await runner.cleanup()


def _usage(prompt: int, count: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}


def _error(status: int, message: str, kind: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": kind, "param": None, "code": status}}, status=status
    )
