"""A real vLLM behind the worker's port: requests go through as they are, and its end is the worker's."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from neuronmodel_api.report import State
from neuronmodel_worker.report.vllm_metrics import VllmMetrics
from tests.unit.worker.serve.vllm.test_process import lives
from tests.unit.worker.workers import Worker
from tests.vllm.places import LENGTH, VllmPlace, client, descendants
from tests.waiting import PATIENCE_SECONDS, until

GREET: list[Any] = [{"role": "user", "content": "Hello, how are you?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]},
    },
}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
FURTHER = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--max-logprobs=7"]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("key") / "key"
    file.write_text("first\n")
    return file


@pytest.fixture(scope="module")
def worker(smollm: VllmPlace, key: Path) -> Iterator[Worker]:
    with smollm.serving(strategy="ShardOnCompile", apiKeyFile=str(key), extraArgs=FURTHER) as worker:
        yield worker


def test_our_plugin_is_in_each_of_its_processes(worker: Worker, smollm: VllmPlace) -> None:
    started = descendants(worker.process.pid).values()
    assert {name for name in ("VLLM::EngineCore", "VLLM::Worker") for line in started if line.startswith(name)} == {
        "VLLM::EngineCore",
        "VLLM::Worker",
    }
    assert "with load format `neuronmodel`" in smollm.log().read_text()


def test_the_spec_and_further_arguments_reach_it(worker: Worker) -> None:
    (model,) = client(worker, "first").models.list().data
    assert model.id == "small"
    assert model.model_dump()["max_model_len"] == LENGTH
    asked: dict[str, Any] = {"model": "small", "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    found = client(worker, "first").completions.create(logprobs=7, **asked).choices[0].logprobs
    assert found is not None
    assert found.top_logprobs is not None
    assert len(found.top_logprobs[0]) == 7
    with pytest.raises(BadRequestError, match="logprobs"):
        client(worker, "first").completions.create(logprobs=8, **asked)


def test_a_stream_is_the_whole_answer_in_pieces(worker: Worker) -> None:
    asked: dict[str, Any] = {"model": "small", "messages": GREET, "max_completion_tokens": 30, "temperature": 0}
    whole = client(worker, "first").chat.completions.create(**asked)
    pieces = list(
        client(worker, "first").chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
    )
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == whole.choices[0].message.content
    assert pieces[-1].usage is not None
    assert whole.usage is not None
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_tools_are_called(worker: Worker) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = client(worker, "first").chat.completions.create(
        model="small", messages=GREET, tools=[WEATHER], tool_choice=named, max_completion_tokens=120, temperature=0
    )
    calls = answer.choices[0].message.tool_calls
    assert calls, answer
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments)["city"] in ("Paris", "Oslo")


def test_answers_have_the_structure_that_is_asked_for(worker: Worker) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    answer = client(worker, "first").chat.completions.create(
        model="small", messages=GREET, response_format=wanted, max_completion_tokens=40, temperature=0
    )
    assert json.loads(answer.choices[0].message.content or "")["city"] in ("Paris", "Oslo")


def test_errors_are_vllm_s(worker: Worker) -> None:
    with pytest.raises(NotFoundError):
        client(worker, "first").completions.create(model="large", prompt="Hello")
    with pytest.raises(BadRequestError, match="context length"):
        client(worker, "first").completions.create(model="small", prompt=[1] * (LENGTH + 1))


def test_metrics_are_passed_on_after_ours(worker: Worker) -> None:
    asked = client(worker, "first").completions.create(model="small", prompt="Hello", max_tokens=3)
    assert asked.usage
    metrics = worker.admin("/metrics").text
    assert 'neuronmodel_start_phase_seconds{phase="ServerImported",stage="Serve"}' in metrics
    assert "neuronmodel_generated_tokens_total" in metrics
    counted = [line for line in metrics.splitlines() if line.startswith("vllm:generation_tokens_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in counted) >= 3


def test_our_names_for_vllm_are_its_own(worker: Worker) -> None:
    """With its types and labels: those under which the worker's own server shows its figures."""
    client(worker, "first").completions.create(model="small", prompt="Hello", max_tokens=3)
    theirs = {family.name: family for family in text_string_to_metric_families(worker.admin("/metrics").text)}
    registry = CollectorRegistry()
    VllmMetrics(registry, "small").ended("length")
    for family in registry.collect():
        assert family.name in theirs
        assert theirs[family.name].type == family.type
        (labels, *_) = [sample.labels for sample in theirs[family.name].samples if sample.labels]
        (ours, *_) = [sample.labels for sample in family.samples]
        assert ours.keys() - {"le"} == labels.keys() - {"le"}


def test_twenty_requests_at_once_are_answered_as_one_is(worker: Worker) -> None:
    def ask(number: int) -> str:
        asked = client(worker, "first").completions.create(
            model="small", prompt="The capital of France is", max_tokens=8, temperature=0, user=str(number)
        )
        return asked.choices[0].text

    alone = ask(0)
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(20)))
    assert len(found) == 20
    assert {text[: len(" Paris")] for text in found} == {alone[: len(" Paris")]}


def test_nobody_gets_by_with_another_key_and_a_new_one_counts_at_once(worker: Worker, key: Path) -> None:
    with pytest.raises(AuthenticationError):
        client(worker, "second").models.list()
    key.write_text("second\n")

    def is_taken() -> bool:
        try:
            return bool(client(worker, "second").models.list().data)
        except AuthenticationError:
            return False

    worker.until(is_taken)
    with pytest.raises(AuthenticationError):
        client(worker, "first").models.list()
    key.write_text("first\n")
    worker.until(lambda: httpx.get(f"{worker.url}/models", headers={"Authorization": "Bearer first"}).is_success)
    (inside,) = {line.split("--port ")[1].split()[0] for line in _serving(worker)}
    url = f"http://127.0.0.1:{inside}/v1/models"
    assert httpx.get(url, headers={"Authorization": "Bearer first"}, timeout=PATIENCE_SECONDS).status_code == 401


def _serving(worker: Worker) -> list[str]:
    return [line for line in descendants(worker.process.pid).values() if "--port " in line]


def test_sigterm_finishes_the_answer_under_way(worker: Worker) -> None:
    """The last test of this worker."""
    asked: dict[str, Any] = {"model": "small", "prompt": "Hello", "max_tokens": 100, "temperature": 0}
    whole = client(worker, "first").completions.create(**asked).choices[0].text
    stream = iter(client(worker, "first").completions.create(stream=True, **asked))
    pieces = [next(stream).choices[0].text]
    started = list(descendants(worker.process.pid))
    worker.process.send_signal(signal.SIGTERM)
    pieces += [event.choices[0].text for event in stream if event.choices]
    ended = worker.wait()
    assert "".join(pieces) == whole
    assert (ended.code, ended.report.state) == (0, State.SUCCEEDED)
    until(lambda: not any(map(lives, started)), "vLLM's processes to go")


KILLED = ("serve", "VLLM::EngineCore", "VLLM::Worker")


@pytest.mark.parametrize("name", KILLED)
def test_the_worker_ends_with_whichever_process_is_killed_and_says_so(tiny: VllmPlace, name: str) -> None:
    with tiny.serving(strategy="ShardOnCompile") as worker:
        started = descendants(worker.process.pid)
        victim = next(number for number, line in sorted(started.items(), reverse=True) if name in line)
        os.kill(victim, signal.SIGKILL)
        ended = worker.wait()
    assert ended.report.failure is not None
    assert ended.report.failure.reason == "ServerEnded"
    until(lambda: not any(map(lives, started)), "vLLM's processes to go")
