"""Answers from NxD Inference's Hugging Face adapter, token by token.

The adapter's `generate` returns when everything is generated and supports no streamer, but it calls its stopping
criteria after each token: they take the tokens, in a thread of their own. Requests that wait at the same time form a
batch.
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
from neuronmodel_worker.engines.nxdi.device_sampling import GREEDY, DeviceSampling
from neuronmodel_worker.engines.nxdi.neuron_failures import classify
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.sources import Folder

log = logging.getLogger(__name__)

GATHERING_SECONDS = 0.005
"""Requests that arrive within this time form one batch, if the batch size is more than one."""

LOGIT_FIELDS = (
    "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
    "sequence_bias", "remove_invalid_values",
)  # fmt: skip
"""The fields of a checkpoint's generation_config.json that are used. The others are for beams, caches, tokenizers and
other ways to generate, which the adapter does not support: one of them would fail each request."""

SHORTEST_PROMPT = 2
"""The length of the shortest prompt in tokens. The library gives padding the position 1, and takes the greatest
position of a line as that of its last token (`ModelWrapper.pad_inputs`, `torch.max` in models/model_base.py): for a
prompt of one token it would read the padding after it. In a bucket of one, without padding, it would read the cache of
the previous request."""


@dataclass(frozen=True)
class AnswerEnd:
    """The end of an answer; `error` is what ended it too early."""

    error: BaseException | None = None


@dataclass(eq=False)
class PendingAnswer:
    """One answer that is computed. `tokens` begin with the prompt."""

    tokens: list[int]
    sampling: Sampling
    generated: "queue.SimpleQueue[int | AnswerEnd]" = field(default_factory=queue.SimpleQueue)
    closed: bool = False
    """The caller has stopped."""
    full: bool = False
    known: "deque[int]" = field(default_factory=deque)
    """The tokens beyond the greatest length of a prompt, for an answer that continues in another batch."""
    sampler: Any = None
    """The sampler, where the graph returns logits."""

    def prompt(self, context_length: int) -> list[int]:
        """The tokens that the batch begins with; the rest is in `known`."""
        self.known = deque(self.tokens[context_length:])
        return self.tokens[:context_length]

    def take(self, token: int, sequence_length: int) -> int:
        """Take a computed token. Returns the token to continue with, which is another one if it is known. The batch
        continues until all of its answers are finished."""
        if self.known:
            return self.known.popleft()
        if not self.is_finished:
            self.tokens.append(token)
            self.generated.put(token)
            self.full = len(self.tokens) >= sequence_length
        return token

    @property
    def is_finished(self) -> bool:
        return self.closed or self.full

    def end(self, error: BaseException | None = None) -> None:
        self.generated.put(AnswerEnd(error))


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of a loaded model. `generation` are GenerationConfig's fields without those of sampling; `fills`
    says whether a batch is padded to its full size, which graphs of one fixed batch need."""

    limits: Limits
    source: Path
    generation: Mapping[str, Any]
    on_device: DeviceSampling | None
    skip_warmup: bool = False
    fills: bool = True
    equal_lengths: bool = False
    """Whether a batch has only prompts of the same length."""

    @cached_property
    def of_checkpoint(self) -> Any:
        """transformers' GenerationConfig of the checkpoint's own file, where it has one. Raises ConfigInvalid."""
        from transformers import GenerationConfig

        found, _ = read_generation_config(Folder(self.source))
        return GenerationConfig.from_dict(dict(found))

    @property
    def pad_token(self) -> int:
        """The pad token of the spec, or of the checkpoint, or 0; some checkpoints have -1 for none."""
        found = self.generation.get("pad_token_id", self.of_checkpoint.pad_token_id)
        return found if isinstance(found, int) and found >= 0 else 0


class LoadedNeuronModel:
    """A model that answers. One batch at a time is computed, in a thread that runs as long as requests wait."""

    def __init__(self, application: Application, settings: GenerationSettings) -> None:
        self.limits = settings.limits
        self._application = application
        self._settings = settings
        self._waiting: deque[PendingAnswer] = deque()
        self._lock = threading.Lock()
        self._running = False

    def check_sampling(self, sampling: Sampling) -> None:
        if self._settings.on_device:
            self._settings.on_device.check(sampling)

    def warm_up(self) -> None:
        """Call the library's warm-up, which only logs its errors; then, for a graph that returns logits, compute two
        tokens and check their logits. Raises LogitsNotFinite."""
        if self._settings.skip_warmup:
            return
        self._application.warmup()
        if not self._settings.on_device:
            self._check_logits()

    def _check_logits(self) -> None:
        from neuronmodel_worker.engines.sampling import CheckedGreedy

        row = PendingAnswer([0] * self.limits.shortest_prompt, Sampling(temperature=0.0), sampler=CheckedGreedy())
        for _ in zip(range(2), self._answer(row), strict=False):
            pass

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        return self._answer(PendingAnswer(list(prompt), sampling))

    def _answer(self, row: PendingAnswer) -> Iterator[int]:
        self._enqueue(row)
        try:
            while not isinstance(item := row.generated.get(), AnswerEnd):
                yield item
            if item.error:
                raise item.error
        finally:
            row.closed = True

    def _enqueue(self, row: PendingAnswer) -> None:
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
                failure = error if isinstance(error, WorkerFailure) else _as_failure(error)
                for row in rows:
                    row.end(failure)

    def _next_batch(self) -> list[PendingAnswer]:
        """The waiting answers that are sampled in the same way as the first one; empty if none waits, so that the
        thread ends."""
        if self.limits.batch_size > 1:
            time.sleep(GATHERING_SECONDS)
        with self._lock:
            waiting = [row for row in self._waiting if not row.closed]
            rows = [row for row in waiting if self._fits_batch(row, waiting[0])][: self.limits.batch_size]
            self._waiting = deque(row for row in waiting if row not in rows)
            self._running = bool(rows)
            return rows

    def _fits_batch(self, row: PendingAnswer, first: PendingAnswer) -> bool:
        """Whether two answers can be in one batch: a graph samples the whole batch in the same way; outside the graph
        each answer has its own sampler."""
        if self._settings.equal_lengths and len(row.tokens) != len(first.tokens):
            return False
        device = self._settings.on_device
        return device is None or device.values(row.sampling) == device.values(first.sampling)

    def _compute(self, rows: list[PendingAnswer]) -> None:
        from neuronx_distributed_inference.utils.hf_adapter import HuggingFaceGenerationAdapter

        batch = AnswerBatch(rows, self._settings)
        self._application.reset()
        # A new adapter for each batch, as in `inference_demo`: an adapter keeps the sampler of its first batch.
        adapter = HuggingFaceGenerationAdapter(self._application)
        batch.generate(adapter)
        for row in rows:
            self._end_or_continue(row)

    def _end_or_continue(self, row: PendingAnswer) -> None:
        """A batch ends when its longest line is full, including padding: shorter ones continue in the next batch."""
        if row.full:
            row.end()
        elif not row.closed:
            with self._lock:
                self._waiting.appendleft(row)


@dataclass
class AnswerBatch:
    """Answers that are computed together."""

    rows: list[PendingAnswer]
    settings: GenerationSettings

    def generate(self, adapter: Any) -> None:
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        batch = self

        class Taken(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
                """Replace the last token of `input_ids`, from which the next step is computed."""
                tokens = batch.take(input_ids[:, -1].tolist())
                input_ids[:, -1] = torch.tensor(tokens, dtype=input_ids.dtype)
                return torch.tensor(batch.finished(len(tokens)), dtype=torch.bool)

        inputs, mask = self.padded()
        config = self.generation_config(inputs.shape[1])
        adapter.generation_config = config  # transformers would replace our defaults by those of its own
        adapter.generate(
            inputs,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([Taken()]),
            **self.host_sampling(),
        )

    def take(self, tokens: list[int]) -> list[int]:
        """Take each line's new token. Returns the tokens to continue with; lines beyond the rows only pad the batch."""
        longest = self.settings.limits.sequence_length
        taken = [row.take(token, longest) for row, token in zip(self.rows, tokens, strict=False)]
        return taken + tokens[len(taken) :]

    def finished(self, lines: int) -> list[bool]:
        return [row.is_finished for row in self.rows] + [True] * (lines - len(self.rows))

    def padded(self) -> tuple[Any, Any]:
        """The tokens and the attention mask [B, T], padded on the right."""
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
        """The GenerationConfig for prompts of `length`. The caller decides which token ends an answer."""
        device = self.settings.on_device
        sampling = device.values(self.rows[0].sampling) if device else dict(GREEDY)
        config = with_logit_fields_of(self.settings.of_checkpoint)
        longest = max(self.settings.limits.sequence_length, length + 1)
        of_answers = {"eos_token_id": None, "max_new_tokens": None, "max_length": longest}
        of_sampling = {**sampling, "dynamic": bool(device and device.is_dynamic)}
        of_padding = {"pad_token_id": self.settings.pad_token}
        unknown = config.update(**{**self.settings.generation, **of_sampling, **of_padding, **of_answers})
        for name, value in unknown.items():
            setattr(config, name, value)
        return config

    def host_sampling(self) -> dict[str, Any]:
        """The arguments for sampling outside the graph. The library's own sampler would divide by the temperature a
        second time, after transformers: so a logits processor leaves one token possible, and the library takes the
        likeliest."""
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


def _as_failure(error: Exception) -> WorkerFailure:
    failure = classify(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def with_logit_fields_of(found: Any) -> Any:
    """A GenerationConfig with the LOGIT_FIELDS of `found`."""
    from transformers import GenerationConfig

    return GenerationConfig(
        **{name: value for name in LOGIT_FIELDS if (value := getattr(found, name, None)) is not None}
    )
