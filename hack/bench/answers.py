"""What sealing behind costs the answers that are computed meanwhile: a worker that serves on the CPU is asked one
question after the other while it writes its shards, and as many when it is done."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from hack.bench.cases import plain
from hack.bench.checkpoints import Model, ensure_checkpoint
from hack.bench.commands import PROGRAM
from hack.bench.contenders.task import volume_next_to
from hack.bench.failures import BenchFailed
from hack.bench.quiet import Filler, Patience, evict, wait_for_idle_disk
from hack.bench.statistics import Ratio, median, ratio_of
from neuronmodel_api.config import Engine, Seal, Strategy, WorkerConfig
from neuronmodel_api.report import Report, SealingState, parse_report

NAME = "answers"
ROUNDS = 5
TOKENS = 8
PROMPT = [3, 1, 4, 1]
VOCABULARY = 256
DEGREE = 2
SECONDS = 300
POLL_SECONDS = 0.02
MODEL = Model(
    hidden=2048,
    intermediate=8192,
    layers=4,
    query_heads=32,
    key_value_heads=8,
    vocabulary=VOCABULARY,
    head_size=64,
    finite=True,
)
"""Llama 3.2 1B with a quarter of its layers and few words."""
QUICK_MODEL = replace(MODEL, layers=2)


class SealedTooSoon(BenchFailed):
    def __init__(self) -> None:
        super().__init__("The shards were sealed before an answer was: this disk is too fast, or answers are too slow.")


@dataclass(frozen=True)
class Round:
    """Seconds of every answer that lay wholly within the sealing, and of as many after it; and what was sealed."""

    sealing: tuple[float, ...]
    after: tuple[float, ...]
    sealed_bytes: int
    sealed_seconds: float

    @property
    def ratio(self) -> float:
        return mean(self.sealing) / mean(self.after)


@dataclass(frozen=True)
class AnswerTimes:
    """Of a model of so many bytes, on the machine that `machine` describes."""

    source_bytes: int
    rounds: tuple[Round, ...]
    machine: Mapping[str, str] = field(default_factory=dict)
    tokens: int = TOKENS
    """Of an answer."""

    @property
    def title(self) -> str:
        rounds = self.rounds
        seconds = median([mean(each.after) for each in rounds]), median([mean(each.sealing) for each in rounds])
        gigabytes, sealed = rounds[0].sealed_bytes / 1e9, median([each.sealed_seconds for each in rounds])
        return (
            f"a Llama of {self.source_bytes / 1e9:.1f} GB served by the CPU engine, tp {DEGREE}, {self.tokens} tokens"
            f" an answer, one answer after the other: {seconds[0]:.2f} s each, and {seconds[1]:.2f} s while"
            f" {gigabytes:.1f} GB were sealed in {sealed:.1f} s"
        )

    @property
    def ratio(self) -> Ratio:
        return ratio_of([each.ratio for each in self.rounds])


def mean(seconds: Sequence[float]) -> float:
    return sum(seconds) / len(seconds)


def time_answers(
    scratch: Path, rounds: int, filler: Filler, patience: Patience, keep: bool, model: Model = MODEL
) -> AnswerTimes:
    """Answers of TOKENS tokens, or of fewer where shards are sealed before one is computed. Raises BenchFailed."""
    tokens = TOKENS
    while True:
        try:
            return _time_answers(scratch, rounds, filler, patience, keep, model, tokens)
        except SealedTooSoon as too_soon:
            if tokens == 1:
                raise
            tokens //= 2
            print(f"  {too_soon} Once more, with {tokens} tokens an answer.", flush=True)


def _time_answers(
    scratch: Path, rounds: int, filler: Filler, patience: Patience, keep: bool, model: Model, tokens: int
) -> AnswerTimes:
    source = scratch / f"{NAME}-{model.nbytes}"
    place = Place(source, volume_next_to(source), scratch / "output", tokens)
    print(f"\nAnswers while shards are sealed behind: {model.nbytes / 1e9:.1f} GB", flush=True)
    ensure_checkpoint(source, model)
    write_tokenizer(source)
    done = []
    try:
        shutil.rmtree(place.volume, ignore_errors=True)
        place.prepare()
        for number in range(min(rounds, ROUNDS)):
            evict(source.glob("*.safetensors"))
            filler.fill(patience.fill)
            wait_for_idle_disk(scratch, patience.idle)
            done.append(place.round())
            print(f"  round {number + 1}: {summary(done[-1])}", flush=True)
    finally:
        for folder in (place.output, place.volume, *([] if keep else [source])):
            shutil.rmtree(folder, ignore_errors=True)
    return AnswerTimes(model.nbytes, tuple(done), tokens=tokens)


def summary(one: Round) -> str:
    return (
        f"{len(one.sealing)} answers of {mean(one.sealing):.2f} s while {one.sealed_bytes / 1e9:.1f} GB were sealed in"
        f" {one.sealed_seconds:.1f} s, {mean(one.after):.2f} s each afterwards"
    )


def write_tokenizer(directory: Path) -> None:
    """A token a word, and no token that ends an answer: each is as long as it was asked to be."""
    words = {str(number): number for number in range(VOCABULARY)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "0"},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


@dataclass(frozen=True)
class Place:
    """A checkpoint, an artifacts volume with its compiled model, and a folder for what else a worker leaves."""

    source: Path
    volume: Path
    output: Path
    tokens: int
    """Of an answer."""

    def config(self, **settings: Any) -> WorkerConfig:
        return WorkerConfig(
            namespace="bench",
            name="bench",
            uid="bench",
            spec_hash="",
            engine=Engine.CPU,
            source_path=str(self.source),
            artifacts_path=str(self.volume),
            scratch_path=str(self.output / "scratch"),
            neuron_config=dict(plain(DEGREE)),
            serving_port=free_port(),
            admin_port=free_port(),
            shutdown_seconds=1,
            **settings,
        )

    def prepare(self) -> None:
        """The compiled model alone."""
        with self._started("prepare", self.config(strategy=Strategy.SHARD_ON_LOAD)) as worker:
            if worker.process.wait(SECONDS):
                raise BenchFailed(worker.why())

    def round(self) -> Round:
        for folder in ("shards", "staging"):
            shutil.rmtree(self.volume / folder, ignore_errors=True)
        config = self.config(strategy=Strategy.SHARD_ON_COMPILE, seal=Seal.BEHIND)
        with self._started("serve", config) as worker:
            worker.until(SealingState.WRITING)
            worker.answer()  # the first one may be slower for reasons of its own
            sealing = []
            while worker.state() is SealingState.WRITING:
                sealing.append(worker.answer())
            if not sealing[1:]:
                raise SealedTooSoon
            worker.until(SealingState.SEALED)
            after = [worker.answer() for _ in sealing[1:]]
            sealed = worker.status().sealing
        assert sealed
        assert sealed.started_at
        assert sealed.ended_at
        seconds = (sealed.ended_at - sealed.started_at).total_seconds()
        return Round(tuple(sealing[:-1]), tuple(after), sealed.total, seconds)

    @contextmanager
    def _started(self, command: str, config: WorkerConfig) -> Iterator["Worker"]:
        self.output.mkdir(exist_ok=True)
        settings, log = self.output / "config.json", self.output / "log"
        settings.write_text(json.dumps(config.to_json()))
        with log.open("w") as file:
            process = subprocess.Popen([PROGRAM, command, "--config", settings], stdout=file, stderr=file)
        try:
            yield Worker(process, config, log, self.tokens)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@dataclass(frozen=True)
class Worker:
    process: "subprocess.Popen[bytes]"
    config: WorkerConfig
    log: Path
    tokens: int
    """Of an answer."""

    def answer(self) -> float:
        """The seconds of one."""
        asked = {"model": self.config.name, "prompt": PROMPT, "max_tokens": self.tokens, "temperature": 0}
        began = time.monotonic()
        content = self._ask(self.config.serving_port, "POST", "/v1/completions", json.dumps(asked))
        seconds = time.monotonic() - began
        if (made := json.loads(content)["usage"]["completion_tokens"]) != self.tokens:
            raise BenchFailed(f"An answer was to have {self.tokens} tokens and has {made}.")
        return seconds

    def status(self) -> Report:
        return parse_report(self._ask(self.config.admin_port, "GET", "/status"))

    def state(self) -> SealingState | None:
        sealing = self.status().sealing
        if sealing and sealing.state is SealingState.FAILED:
            raise BenchFailed(sealing.message)
        return sealing.state if sealing else None

    def until(self, state: SealingState) -> None:
        """Until its sealing is there, or further."""
        deadline, states = time.monotonic() + SECONDS, list(SealingState)
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise BenchFailed(self.why())
            try:
                found = self.state()
                if found and states.index(found) >= states.index(state):
                    return
            except OSError:
                pass  # its port is not open yet
            time.sleep(POLL_SECONDS)
        raise BenchFailed(f"The worker's sealing is not {state} after {SECONDS} seconds.")

    def why(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()[-12:]
        return "\n  ".join([f"The worker ended with exit code {self.process.returncode} and printed:", *lines])

    @staticmethod
    def _ask(port: int, method: str, path: str, body: str | None = None) -> bytes:
        """Raises OSError, or BenchFailed for a refusal."""
        connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise BenchFailed(f"{path} answered {response.status}: {content.decode(errors='replace')[:300]}")
        return content


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
