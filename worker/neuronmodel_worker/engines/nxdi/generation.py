"""Answers from NxD Inference's Hugging Face adapter, token by token.

`generate` there returns when all is done and tells no streamer anything, but asks its stopping criteria after each
token: they take the tokens out, in a thread of their own. What waits together is computed together.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from neuronmodel_worker.checkpoint import read_generation_config
from neuronmodel_worker.engines.interface import Limits, Sampling
from neuronmodel_worker.engines.nxdi.application import Application
from neuronmodel_worker.engines.nxdi.device_sampling import GREEDY, OnDevice
from neuronmodel_worker.engines.nxdi.neuron_failures import classified
from neuronmodel_worker.failures import WorkerFailure

log = logging.getLogger(__name__)

GATHERING_SECONDS = 0.005
"""What arrives within them is one batch, where there is room for more than one answer."""

OF_LOGITS = (
    "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
    "sequence_bias", "remove_invalid_values",
)  # fmt: skip
"""What of a checkpoint's generation_config.json is taken. The rest chooses beams, caches, tokenizers and other ways to
generate, which the adapter has not: one of them would fail each request."""

SHORTEST_PROMPT = 2
"""Tokens. The library gives padding the position 1, and takes the greatest of a line's positions for that of its last
token (`ModelWrapper.pad_inputs`, `torch.max` in models/model_base.py): of one token it reads the padding behind it. In
a bucket of one, where there is no padding, it reads the cache of the request before instead."""


@dataclass(frozen=True)
class AnswerEnd:
    """Of an answer; `error` is what ended it too early."""

    error: BaseException | None = None


@dataclass(eq=False)
class Answer:
    """One answer. `tokens` begin with the prompt."""

    tokens: list[int]
    sampling: Sampling
    told: "queue.SimpleQueue[int | AnswerEnd]" = field(default_factory=queue.SimpleQueue)
    closed: bool = False
    """Its caller asks for no more."""
    full: bool = False
    known: "deque[int]" = field(default_factory=deque)
    """What it has beyond a prompt's greatest length, where it goes on in another batch than it began in."""
    sampler: Any = None
    """Where the graph gives logits."""

    def prompt(self, context_length: int) -> list[int]:
        """What the batch begins with; the rest is known."""
        self.known = deque(self.tokens[context_length:])
        return self.tokens[:context_length]

    def take(self, token: int, sequence_length: int) -> int:
        """The token that stands: the one that was computed, unless another is known. A batch goes on, and asks, until
        all of its rows are finished."""
        if self.known:
            return self.known.popleft()
        if not self.is_finished:
            self.tokens.append(token)
            self.told.put(token)
            self.full = len(self.tokens) >= sequence_length
        return token

    @property
    def is_finished(self) -> bool:
        return self.closed or self.full

    def end(self, error: BaseException | None = None) -> None:
        self.told.put(AnswerEnd(error))


@dataclass(frozen=True)
class GenerationSettings:
    """`generation` are GenerationConfig's fields beside those of sampling; `fills` whether a batch is filled up to its
    size, which graphs of one fixed batch take as it is."""

    limits: Limits
    source: Path
    generation: Mapping[str, Any]
    on_device: OnDevice | None
    skip_warmup: bool = False
    fills: bool = True
    equal_lengths: bool = False
    """Whether answers of prompts of one length alone are computed together."""

    @cached_property
    def of_checkpoint(self) -> Any:
        """transformers' GenerationConfig of the checkpoint's own file, where it has one. Raises ConfigInvalid."""
        from transformers import GenerationConfig

        said, _ = read_generation_config(self.source)
        return GenerationConfig.from_dict(dict(said))

    @property
    def pad_token(self) -> int:
        """The spec's, else the checkpoint's, else 0; some checkpoints say -1 for none."""
        found = self.generation.get("pad_token_id", self.of_checkpoint.pad_token_id)
        return found if isinstance(found, int) and found >= 0 else 0


class LoadedNeuronModel:
    """One batch at a time is computed, in a thread that lives as long as there is something to compute."""

    def __init__(self, application: Application, settings: GenerationSettings) -> None:
        self.limits = settings.limits
        self._application = application
        self._settings = settings
        self._waiting: deque[Answer] = deque()
        self._lock = threading.Lock()
        self._running = False

    def check_sampling(self, sampling: Sampling) -> None:
        if self._settings.on_device:
            self._settings.on_device.check(sampling)

    def warm_up(self) -> None:
        """The library's own, which only logs what goes wrong in it; then, of a graph that gives logits, two tokens of
        which they are looked at. Raises LogitsNotFinite."""
        if self._settings.skip_warmup:
            return
        self._application.warmup()
        if not self._settings.on_device:
            self._check_logits()

    def _check_logits(self) -> None:
        from neuronmodel_worker.engines.sampling import CheckedGreedy

        row = Answer([0] * self.limits.shortest_prompt, Sampling(temperature=0.0), sampler=CheckedGreedy())
        for _ in zip(range(2), self._answer(row), strict=False):
            pass

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        return self._answer(Answer(list(prompt), sampling))

    def _answer(self, row: Answer) -> Iterator[int]:
        self._enqueue(row)
        try:
            while not isinstance(told := row.told.get(), AnswerEnd):
                yield told
            if told.error:
                raise told.error
        finally:
            row.closed = True

    def _enqueue(self, row: Answer) -> None:
        with self._lock:
            self._waiting.append(row)
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._run, name="neuron-batches", daemon=True).start()

    def _run(self) -> None:
        while rows := self._next_batch():
            try:
                self._compute(rows)
            except Exception as error:
                log.exception("a batch of %d failed", len(rows))
                failure = error if isinstance(error, WorkerFailure) else _classified(error)
                for row in rows:
                    row.end(failure)

    def _next_batch(self) -> list[Answer]:
        """Those that wait and are sampled alike, the first come first; empty: nothing waits, and the thread is to
        end."""
        if self.limits.batch_size > 1:
            time.sleep(GATHERING_SECONDS)
        with self._lock:
            waiting = [row for row in self._waiting if not row.closed]
            rows = [row for row in waiting if self._is_alike(row, waiting[0])][: self.limits.batch_size]
            self._waiting = deque(row for row in waiting if row not in rows)
            self._running = bool(rows)
            return rows

    def _is_alike(self, row: Answer, first: Answer) -> bool:
        """The graph samples all of a batch in one way; what is sampled here is sampled for itself."""
        if self._settings.equal_lengths and len(row.tokens) != len(first.tokens):
            return False
        device = self._settings.on_device
        return device is None or device.values(row.sampling) == device.values(first.sampling)

    def _compute(self, rows: list[Answer]) -> None:
        from neuronx_distributed_inference.utils.hf_adapter import HuggingFaceGenerationAdapter

        batch = AnswerBatch(rows, self._settings)
        self._application.reset()
        # A new adapter for each batch, as the command makes one: it keeps the sampler of its first.
        adapter = HuggingFaceGenerationAdapter(self._application)
        batch.generate(adapter)
        for row in rows:
            self._end_or_go_on(row)

    def _end_or_go_on(self, row: Answer) -> None:
        """A batch ends when its longest line is full, padding included: shorter ones go on in the next."""
        if row.full:
            row.end()
        elif not row.closed:
            with self._lock:
                self._waiting.appendleft(row)


@dataclass
class AnswerBatch:
    rows: list[Answer]
    settings: GenerationSettings

    def generate(self, adapter: Any) -> None:
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        batch = self

        class Taken(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
                """What it leaves at the end of `input_ids` is what the next step is computed from."""
                tokens = batch.take(input_ids[:, -1].tolist())
                input_ids[:, -1] = torch.tensor(tokens, dtype=input_ids.dtype)
                return torch.tensor(batch.finished(len(tokens)), dtype=torch.bool)

        inputs, mask = self.padded()
        config = self.generation_config(inputs.shape[1])
        adapter.generation_config = config  # of its own one, transformers fills in what equals a default in ours
        adapter.generate(
            inputs,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([Taken()]),
            **self.host_sampling(),
        )

    def take(self, tokens: list[int]) -> list[int]:
        """Each line's new token, and the one that stands; lines beyond the rows only fill the batch."""
        longest = self.settings.limits.sequence_length
        taken = [row.take(token, longest) for row, token in zip(self.rows, tokens, strict=False)]
        return taken + tokens[len(taken) :]

    def finished(self, lines: int) -> list[bool]:
        return [row.is_finished for row in self.rows] + [True] * (lines - len(self.rows))

    def padded(self) -> tuple[Any, Any]:
        """Tokens and attention mask [B, T], padded on the right."""
        import torch

        lines = [row.prompt(self.settings.limits.context_length) for row in self.rows]
        if self.settings.fills:
            lines += [lines[0]] * (self.settings.limits.batch_size - len(lines))
        length = max(map(len, lines))
        tokens_BT = torch.full((len(lines), length), self.settings.pad_token, dtype=torch.int64)  # noqa: N806
        mask_BT = torch.zeros((len(lines), length), dtype=torch.int64)  # noqa: N806
        for number, line in enumerate(lines):
            tokens_BT[number, : len(line)] = torch.tensor(line)
            mask_BT[number, : len(line)] = 1
        return tokens_BT, mask_BT

    def generation_config(self, length: int) -> Any:
        """Of prompts of `length`. Which token ends an answer is the caller's to judge."""
        device = self.settings.on_device
        sampling = device.values(self.rows[0].sampling) if device else dict(GREEDY)
        config = with_logits_of(self.settings.of_checkpoint)
        longest = max(self.settings.limits.sequence_length, length + 1)
        of_answers = {"eos_token_id": None, "max_new_tokens": None, "max_length": longest}
        of_sampling = {**sampling, "dynamic": bool(device and device.is_dynamic)}
        of_padding = {"pad_token_id": self.settings.pad_token}
        unknown = config.update(**{**self.settings.generation, **of_sampling, **of_padding, **of_answers})
        for name, value in unknown.items():
            setattr(config, name, value)
        return config

    def host_sampling(self) -> dict[str, Any]:
        """Where the graph gives logits, the library's own sampler would divide by the temperature a second time, after
        transformers has: so a processor of logits leaves one token possible, and the library takes the likeliest."""
        if self.settings.on_device:
            return {}
        import torch
        from transformers import LogitsProcessor, LogitsProcessorList

        from neuronmodel_worker.engines.sampling import Sampler

        rows = self.rows
        for row in rows:
            row.sampler = row.sampler or Sampler(row.sampling)

        class Chosen(LogitsProcessor):  # type: ignore[misc]
            def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
                chosen = torch.full_like(scores, float("-inf"))
                chosen[:, 0] = 0.0
                for number, row in enumerate(rows):
                    if not row.known and not row.is_finished:
                        chosen[number, 0] = float("-inf")
                        chosen[number, row.sampler.choose(scores[number].float())] = 0.0
                return chosen

        return {"logits_processor": LogitsProcessorList([Chosen()])}


def _classified(error: Exception) -> WorkerFailure:
    failure = classified(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def with_logits_of(found: Any) -> Any:
    """A GenerationConfig with OF_LOGITS of the one that was found."""
    from transformers import GenerationConfig

    return GenerationConfig(**{name: value for name in OF_LOGITS if (value := getattr(found, name, None)) is not None})
