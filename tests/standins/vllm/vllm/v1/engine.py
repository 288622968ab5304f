"""The engine's process: loads the model, then computes answers side by side, one step of all at a time."""

import importlib
import logging
import os
import queue
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from vllm.config import VllmConfig
from vllm.plugins import load_general_plugins, platform

logger = logging.getLogger("vllm")


@dataclass
class Sequence:
    request_id: str
    prompt: list[int]
    max_tokens: int
    end_tokens: list[int]
    sampling: dict[str, float]
    """top_k, top_p and temperature, as the request has them."""
    tokens: list[int] = field(default_factory=list)


def run_engine_core(config: VllmConfig, pipe: Connection) -> None:
    """The first thing that the server hears is `ready`, or that it failed."""
    logging.basicConfig(level=logging.INFO, format="(EngineCore pid=%(process)d) %(levelname)s %(message)s")
    try:
        load_general_plugins()
        platform().check_and_update_config(config)
        module, _, name = config.parallel_config.worker_cls.rpartition(".")
        worker = getattr(importlib.import_module(module), name)(config)
        worker.load_model()
    except Exception:
        logger.exception("EngineCore failed to start.")
        pipe.send(("failed", None))
        raise
    pipe.send(("ready", None))
    EngineCore(config, worker, pipe).run()


class EngineCore:
    def __init__(self, config: VllmConfig, worker: Any, pipe: Connection) -> None:
        self._limits = config.model_config.max_model_len, config.scheduler_config.max_num_seqs
        self._worker = worker
        self._pipe = pipe
        self._waiting: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()
        self._running: dict[int, Sequence] = {}
        self._aborted: set[str] = set()

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        while self._admit():
            if "engine-dies" in os.environ.get("VLLM_STANDIN_FAIL", "").split(","):
                logger.error("EngineCore encountered a fatal error.")
                os._exit(1)
            for slot, token in self._worker.execute_model(self._running).items():
                self._add_token(slot, token)

    def _listen(self) -> None:
        """The server's going ends the engine."""
        while True:
            try:
                what, value = self._pipe.recv()
            except (EOFError, OSError):
                self._waiting.put(None)
                return
            if what == "add":
                self._waiting.put(Sequence(**value))
            else:
                self._aborted.add(value)

    def _admit(self) -> bool:
        """Waits where there is nothing to do; false at the end."""
        free = [slot for slot in range(self._limits[1]) if slot not in self._running]
        while free and (not self._running or not self._waiting.empty()):
            sequence = self._waiting.get()
            if sequence is None:
                return False
            self._running[free.pop(0)] = sequence
        return True

    def _add_token(self, slot: int, token: int) -> None:
        sequence = self._running[slot]
        sequence.tokens.append(token)
        full = len(sequence.prompt) + len(sequence.tokens) >= self._limits[0]
        reason = "stop" if token in sequence.end_tokens else None
        if reason is None and (full or len(sequence.tokens) >= sequence.max_tokens):
            reason = "length"
        if sequence.request_id in self._aborted:
            reason = "abort"
        self._pipe.send(("token", (sequence.request_id, token, reason)))
        if reason:
            del self._running[slot]
