"""A NeuronModel served by vLLM, in real processes on stand-ins: the same answers, phases, failures and end."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openai import APIError, AuthenticationError, BadRequestError, NotFoundError, OpenAI
from pydantic.alias_generators import to_camel

from neuronmodel_api import exits
from neuronmodel_api.report import Report, State
from neuronmodel_api.sources import NETWORK_SOURCES
from tests.standins.hub import Hub
from tests.standins.s3 import S3
from tests.unit.worker.engines.models import write_chat_model
from tests.unit.worker.scratch_cache.test_start import copied
from tests.unit.worker.serve.vllm.vllm_standin import DEVICES, standin_environment
from tests.unit.worker.sources.buckets import BUCKET, PREFIX, source_of, write_keys
from tests.unit.worker.workers import Ended, Place, Worker, returned
from tests.waiting import PATIENCE_SECONDS, until

GREET: list[Any] = [{"role": "user", "content": "Hello, how are you?"}]
PROMPTS = ("Hello", "The capital of France", "naïve façade")
GRAPH = {"tp_degree": 3, "torch_dtype": "float32", "seq_len": 128, "max_context_length": 100}
WHAT_IS_PREPARED = ("strategy", "weights", *(to_camel(kind.CONFIG_FIELD) for kind in NETWORK_SOURCES))
FLAGS = GRAPH | {
    "batch_size": 2, "ctx_batch_size": 1, "is_continuous_batching": True, "logical_nc_config": 2,
    "on_device_sampling_config": {"do_sample": False, "top_k": 1},
}  # fmt: skip


def _environment(process: int) -> bytes:
    """Nothing for a process that has gone."""
    with suppress(OSError):
        return Path(f"/proc/{process}/environ").read_bytes()
    return b""


@dataclass
class NeuronPlace(Place):
    """Where what was prepared once is served by vLLM, again and again."""

    prepared: dict[str, Report] = field(default_factory=dict)

    def prepare(self, **changes: Any) -> Report:
        """In a process that finds the stand-ins."""
        key = repr([changes.get(name) for name in WHAT_IS_PREPARED])
        if key not in self.prepared:
            with self.started("prepare", **changes) as worker:
                exit_failure = worker.wait()
            assert exit_failure.code == 0, exit_failure.stderr
            self.prepared[key] = exit_failure.report
        return self.prepared[key]

    def calls(self, event: str) -> list[dict[str, Any]]:
        """What the stand-ins were called with."""
        file = self.root / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if call["event"] == event]

    def processes(self) -> list[int]:
        """Workers, their `vllm` and its children: all have this place in their environment."""
        marker = f"NEURON_STANDIN_LOG={self.root}".encode()
        numbers = [int(directory.name) for directory in Path("/proc").glob("[0-9]*")]
        return [number for number in numbers if marker in _environment(number)]

    def forget(self) -> None:
        """What a worker that was killed has started follows it a moment later."""
        until(lambda: not self.processes(), "the processes of a former worker to end", poll=0.05)
        for name in ("calls.jsonl", "failures", "scratch"):
            path = self.root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeuronPlace]:
    root = tmp_path_factory.mktemp("neuron")
    source = root / "source"
    source.mkdir()
    write_chat_model(source)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in standin_environment(root).items():
            patch.setenv(name, value)
        yield NeuronPlace(root, source, {"engine": "Neuron", "server": "VLLM", "neuronConfig": FLAGS})


@pytest.fixture
def place(shared: NeuronPlace) -> NeuronPlace:
    shared.forget()
    return shared


@pytest.fixture(scope="module")
def expected(shared: NeuronPlace) -> dict[str, str]:
    """The CPU engine's answers."""
    root = shared.root / "cpu"
    root.mkdir()
    with Place(root, shared.source).serving(neuronConfig=GRAPH) as worker:
        return answers(worker)


def client(worker: Worker, key: str = "first") -> OpenAI:
    return OpenAI(base_url=worker.url, api_key=key, max_retries=0)


def answers(worker: Worker) -> dict[str, str]:
    """Greedy ones, several at once and a chat."""
    texts: dict[str, str] = {}

    def ask(prompt: str) -> None:
        asked = client(worker).completions.create(model="small", prompt=prompt, max_tokens=20, temperature=0)
        texts[prompt] = asked.choices[0].text

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chat = client(worker).chat.completions.create(
        model="small", messages=GREET, max_completion_tokens=20, temperature=0
    )
    texts["chat"] = chat.choices[0].message.content or ""
    return texts


def phases(report: Report) -> list[str]:
    return [phase.name for phase in report.phases]


def reason(exit_failure: Ended) -> str:
    assert exit_failure.report.failure is not None, exit_failure.stderr
    return exit_failure.report.failure.reason


def test_a_repository_of_the_hub_is_served(place: NeuronPlace, expected: dict[str, str]) -> None:
    with Hub() as hub:
        hub.add_repository("team/small", place.source)
        source = {"repository": "team/small", "endpoint": hub.endpoint}
        with place.serving(strategy="ShardOnLoad", sourcePath=None, hubSource=source) as worker:
            assert answers(worker) == expected
        assert not hub.requests.leaks


def test_a_bucket_is_served(place: NeuronPlace, expected: dict[str, str], tmp_path: Path) -> None:
    with S3() as s3:
        s3.add_bucket(BUCKET, place.source, PREFIX)
        source = source_of(s3, write_keys(s3.add_key(), tmp_path / "keys"))
        with place.serving(strategy="ShardOnLoad", sourcePath=None, s3Source=source) as worker:
            assert answers(worker) == expected


def test_the_library_shards_a_repository_from_whole_files(place: NeuronPlace, expected: dict[str, str]) -> None:
    with Hub() as hub:
        hub.add_repository("team/small", place.source)
        source = {"repository": "team/small", "endpoint": hub.endpoint}
        native: dict[str, Any] = {"sourcePath": None, "hubSource": source}
        with place.serving(strategy="ShardOnLoad", weights="Native", **native) as worker:
            assert answers(worker) == expected
            assert "SourceFetched" in phases(worker.status())
    (folder,) = (place.root / "scratch/tier/folder").iterdir()
    assert [call["arguments"]["model_tag"] for call in place.calls("vllm")] == [str(folder)]


@pytest.mark.parametrize(("strategy", "way"), [("ShardOnCompile", "Read"), ("ShardOnLoad", "Sharded")])
def test_answers_are_those_of_the_cpu_engine(
    place: NeuronPlace, expected: dict[str, str], strategy: str, way: str
) -> None:
    with place.serving(strategy=strategy) as worker:
        assert answers(worker) == expected
        report = worker.status()
    assert report.ready_at is not None
    of_vllm = ["ServerImported", "GraphLoaded", way, "DeviceLoaded", "WarmedUp", "ServerStarted"]
    assert phases(report)[-6:] == of_vllm
    assert timedelta(milliseconds=sum(p.milliseconds for p in report.phases)) == report.ready_at - report.started_at
    assert next(p.bytes for p in report.phases if p.name == way)
    assert report.tier == ("Artifacts" if way == "Read" else "Source")
    assert report.devices is not None
    assert report.devices.count == DEVICES
    assert place.calls("load_weights") == []  # the library's own
    assert place.calls("recompile") == []


@pytest.mark.parametrize("strategy", ["ShardOnCompile", "ShardOnLoad"])
def test_native_weights_are_the_library_s_own_business(
    place: NeuronPlace, expected: dict[str, str], strategy: str
) -> None:
    with place.serving(strategy=strategy, weights="Native") as worker:
        assert answers(worker) == expected
        report = worker.status()
    assert phases(report)[-5:] == ["ServerImported", "GraphLoaded", "DeviceLoaded", "WarmedUp", "ServerStarted"]
    assert [call["from_files"] for call in place.calls("load_weights")] == [strategy == "ShardOnCompile"]
    assert place.calls("recompile") == []


def test_requests_go_through_and_sigterm_finishes_the_one_under_way(place: NeuronPlace, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("first\n")
    with place.serving(strategy="ShardOnCompile", apiKeyFile=str(tmp_path / "key")) as worker:
        _requests_go_through(worker, place)
        _sigterm_finishes_the_answer_under_way(worker, place)


def _requests_go_through(serving: Worker, place: NeuronPlace) -> None:
    with pytest.raises(AuthenticationError, match="API key is missing or wrong"):
        client(serving, "second").models.list()
    assert len(client(serving).models.list().data) == 1
    asked: dict[str, Any] = {"model": "small", "messages": GREET, "max_completion_tokens": 30, "temperature": 0}
    whole = client(serving).chat.completions.create(**asked)
    pieces = list(client(serving).chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == whole.choices[0].message.content
    assert pieces[-1].usage == whole.usage
    with pytest.raises(NotFoundError):
        client(serving).completions.create(model="large", prompt="Hello")
    with pytest.raises(BadRequestError, match="too long"):
        client(serving).completions.create(model="small", prompt=[1] * 101)
    assert client(serving).completions.create(model="small", prompt=[1] * 100, max_tokens=1).usage

    # A stream is counted when it has ended here, which its client may see before.
    usage_counter = 'neuronmodel_requests_total{endpoint="/v1/chat/completions",status="200"} 2.0'
    serving.until(lambda: usage_counter in serving.admin("/metrics").text)
    metrics = serving.admin("/metrics").text
    assert 'neuronmodel_start_phase_seconds{phase="ServerImported",stage="Serve"}' in metrics
    assert 'vllm:generation_tokens_total{engine="0"}' in metrics
    arguments = place.calls("vllm")[0]["arguments"]
    assert arguments["host"] == "127.0.0.1"
    inside = f"http://127.0.0.1:{arguments['port']}/v1/models"
    assert httpx.get(inside, timeout=PATIENCE_SECONDS).status_code == 401  # others in the pod come by our port


def _sigterm_finishes_the_answer_under_way(serving: Worker, place: NeuronPlace) -> None:
    asked: dict[str, Any] = {"model": "small", "prompt": "Hello", "max_tokens": 100, "temperature": 0}
    whole = client(serving).completions.create(**asked).choices[0].text
    stream = iter(client(serving).completions.create(stream=True, **asked))
    pieces = [next(stream).choices[0].text]
    assert len(place.processes()) > 1  # vLLM's in addition to the worker
    serving.process.send_signal(signal.SIGTERM)
    pieces += [event.choices[0].text for event in stream]
    exit_failure = serving.wait()
    assert "".join(pieces) == whole
    assert (exit_failure.code, exit_failure.report.state) == (0, State.SUCCEEDED)
    assert place.processes() == []


def start_and_wait(place: NeuronPlace, **changes: Any) -> Ended:
    result = place.prepare(**changes).result
    assert result is not None
    with place.started("serve", **{**returned(result.to_json()), **changes}) as worker:
        return worker.wait()


@pytest.mark.parametrize("fails", ["engine-dies", "api-dies"])
def test_the_worker_ends_with_vllm_and_says_why(
    place: NeuronPlace, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setenv("VLLM_STANDIN_FAIL", fails)
    with place.serving(strategy="ShardOnCompile") as worker:
        with pytest.raises(APIError):
            client(worker).completions.create(model="small", prompt="Hello")
        exit_failure = worker.wait()
    assert reason(exit_failure) == "ServerEnded"
    assert exit_failure.report.failure is not None
    fragment = "EngineDeadError" if fails == "engine-dies" else "a server that ends by itself"
    assert fragment in exit_failure.report.failure.message
    assert exit_failure.code == exits.TRANSIENT
    assert place.processes() == []


def test_an_argument_that_vllm_does_not_know_ends_the_start_with_its_own_words(place: NeuronPlace) -> None:
    ended = start_and_wait(place, strategy="ShardOnLoad", extraArgs=["--no-such-thing"])
    assert reason(ended) == "ServerEnded"
    assert ended.report.failure is not None
    assert "unrecognized arguments: --no-such-thing" in ended.report.failure.message


def test_devices_that_are_held_are_waited_for(
    place: NeuronPlace, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "cores-busy:1")
    with place.serving(strategy="ShardOnCompile") as worker:
        assert answers(worker)["Hello"] == expected["Hello"]
        report = worker.status()
    assert phases(report).count("DevicesAwaited") == 1
    assert phases(report).count("Read") == phases(report).count("DeviceLoaded") == 1
    assert report.ready_at is not None
    assert timedelta(milliseconds=sum(p.milliseconds for p in report.phases)) == report.ready_at - report.started_at
    assert len(place.calls("vllm")) == 2
    assert place.calls("recompile") == []


def test_devices_are_not_waited_for_longer_than_a_start_may_take(
    place: NeuronPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "cores-busy")
    exit_failure = start_and_wait(place, strategy="ShardOnCompile", startTimeoutSeconds=1)
    assert reason(exit_failure) == "DevicesInUse"
    assert exit_failure.code == exits.TRANSIENT


def test_a_failure_of_the_devices_is_reported_by_its_name(place: NeuronPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "neff-version")
    assert reason(start_and_wait(place, strategy="ShardOnCompile")) == "NeuronVersionMismatch"
    assert place.calls("recompile") == []


def test_a_damaged_shard_is_reported_and_nothing_is_compiled(place: NeuronPlace) -> None:
    changes = {"strategy": "ShardOnCompile", "verification": "Full"}
    result = place.prepare(**changes).result
    assert result is not None
    assert result.shards_key is not None
    shard = next((place.artifacts / "shards" / result.shards_key / "weights").glob("tp1_*"))
    compiled = place.calls("compile")
    sealed, stat = shard.read_bytes(), shard.stat()
    shard.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    try:
        with place.started("serve", **{**returned(result.to_json()), **changes}) as worker:
            exit_failure = worker.wait()
    finally:
        shard.write_bytes(sealed)
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (reason(exit_failure), exit_failure.code) == ("ArtifactDamaged", exits.ARTIFACT_DAMAGED)
    assert place.calls("recompile") == []
    assert place.calls("compile") == compiled


def test_a_copy_on_scratch_is_made_and_read(place: NeuronPlace) -> None:
    changes: dict[str, Any] = {"strategy": "ShardOnCompile", "scratchTier": True}
    with place.serving(**changes) as worker:
        assert worker.status().tier == "Artifacts"
        worker.until(lambda: copied(place))  # under its own name: a worker that ends gives up a copy that is half made
    with place.serving(**changes) as worker:
        assert worker.status().tier == "Scratch"
