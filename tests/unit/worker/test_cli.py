"""prepare, serve and cleanup as processes: what they leave, how they end, and what they say of it."""

import json
import shutil
import signal
import socket
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openai import AuthenticationError, OpenAI

from neuronmodel_api import exits
from neuronmodel_api.report import Report, State
from neuronmodel_worker.engines import Sampling
from neuronmodel_worker.serve.serve import default_sampling
from tests.unit.worker.engines.models import edit_config, write_chat_model
from tests.unit.worker.workers import Place, Worker, returned
from tests.waiting import PATIENCE_SECONDS

GREET = [{"role": "user", "content": "Hello, how are you?"}]


LINGERS = """
from neuronmodel_worker.serve import listener
listener.LINGER_SECONDS = 15.0
"""
"""However long a question takes that comes right after SIGTERM."""
NOTHING_IS_SEALED = """
import threading
from neuronmodel_worker.store.staging import Staging
Staging.seal = lambda *_: threading.Event().wait()
"""


@pytest.fixture
def place(place: Place) -> Place:
    """Where workers begin as users' do, with their imports."""
    place.forks = False
    return place


def phases(report: Report) -> list[str]:
    return [phase.name for phase in report.phases]


def ask(worker: Worker, tokens: int = 12) -> str:
    client = OpenAI(base_url=worker.url, api_key="none", max_retries=0)
    answer = client.completions.create(model="small", prompt="Hello", max_tokens=tokens, temperature=0)
    return answer.choices[0].text


def test_both_strategies_answer_alike_and_account_for_every_millisecond(place: Place) -> None:
    answers = {}
    for strategy, way in (("ShardOnCompile", "Read"), ("ShardOnLoad", "Sharded")):
        with place.serving(strategy=strategy) as worker:
            answers[strategy] = ask(worker)
            report = worker.status()
        assert report.ready_at is not None
        assert way in phases(report)
        assert timedelta(milliseconds=sum(p.milliseconds for p in report.phases)) == report.ready_at - report.started_at
        assert next(p.bytes for p in report.phases if p.name == way)
    assert answers["ShardOnCompile"] == answers["ShardOnLoad"] != ""


def test_what_is_there_is_not_built_again(place: Place) -> None:
    first, second = place.prepare(), place.prepare()
    assert first.result is not None
    assert second.result is not None
    assert {"Compiled", "Sharded", "Sealed"} <= set(phases(first))
    assert not {"Compiled", "Sharded", "Sealed"} & set(phases(second))
    assert (first.result.cache, second.result.cache) == ("Miss", "Hit")
    assert returned(first.result.to_json()) == returned(second.result.to_json())


def test_another_strategy_compiles_nothing(place: Place) -> None:
    place.prepare(strategy="ShardOnLoad")
    report = place.prepare(strategy="ShardOnCompile")
    assert "Sharded" in phases(report)
    assert "Compiled" not in phases(report)


def test_prepare_that_was_killed_is_made_good_by_the_next(place: Place) -> None:
    with place.started("prepare", before=NOTHING_IS_SEALED) as worker:
        worker.until(lambda: any((place.artifacts / "staging").glob("*/")))
        worker.process.kill()
        worker.process.communicate()
    report = place.prepare()
    assert report.result is not None
    assert not any(path.is_dir() for path in (place.artifacts / "staging").iterdir())
    with place.serving() as worker:
        assert ask(worker)


def test_a_damaged_shard_is_rebuilt(place: Place) -> None:
    first = place.prepare().result
    assert first is not None
    shard = next((place.artifacts / "shards").glob("*/weights/tp1_*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    ended = place.run("serve", **returned(first.to_json()))
    assert ended.code == exits.ARTIFACT_DAMAGED
    assert ended.report.failure is not None
    assert ended.report.failure.reason == "ArtifactDamaged"
    again = place.prepare()
    assert again.result is not None
    assert again.result.missed is not None
    assert "damaged" in again.result.missed
    assert "Compiled" not in phases(again)


@pytest.mark.parametrize(
    ("removed", "why"),
    [
        (("compiled", "shards", "quarantine", "staging", "refs", "leases"), "the volume is new"),
        (("shards",), "it was removed, or the volume is another one"),
    ],
)
def test_what_is_not_there_is_missing_and_not_damaged(place: Place, removed: tuple[str, ...], why: str) -> None:
    first = place.prepare().result
    assert first is not None
    for name in removed:
        shutil.rmtree(place.artifacts / name, ignore_errors=True)
    ended = place.run("serve", **returned(first.to_json()))
    assert ended.code in exits.PREPARE_AGAIN
    assert ended.report.failure is not None
    assert ended.report.failure.reason == "ArtifactsMissing"
    assert (
        ended.report.failure.message
        == f"What was prepared is not in {place.artifacts}: {why}. It has to be built again."
    )
    again = place.prepare().result
    assert again is not None
    assert (why == "the volume is new") == ("the volume is new" in (again.missed or ""))


@pytest.mark.parametrize(("key", "what"), [("compiledKey", "compiled model"), ("shardsKey", "set of shards")])
def test_what_was_prepared_under_another_key_is_not_served(place: Place, key: str, what: str) -> None:
    result = place.prepare().result
    assert result is not None
    other = place.prepare(neuronConfig={"tp_degree": 1, "torch_dtype": "float32", "seq_len": 64}).result
    assert other is not None
    ended = place.run("serve", **{**returned(result.to_json()), key: other.to_json()[key]})
    assert ended.code == exits.ARTIFACT_DAMAGED
    assert ended.report.failure is not None
    assert ended.report.failure.reason == "ArtifactsOutdated"
    assert what in ended.report.failure.message


def test_a_source_that_changed_after_prepare_is_not_served(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    edit_config(place.source, rms_norm_eps=1e-3)
    ended = place.run("serve", **returned(result.to_json()))
    assert ended.code == exits.SOURCE_CHANGED
    assert ended.report.failure is not None
    assert ended.report.failure.reason == "SourceChanged"


def test_bad_input_is_reported_in_the_users_words(place: Place) -> None:
    (place.source / "config.json").unlink()
    ended = place.run("prepare", sourceDisplay="claim models, path small")
    assert ended.code == exits.BAD_INPUT
    assert ended.report.failure is not None
    assert (ended.report.failure.reason, ended.report.failure.final) == ("ConfigMissing", True)
    assert ended.report.failure.message.startswith("claim models, path small holds no config.json")
    assert "Traceback" not in ended.stderr


def test_the_neuron_engine_is_missed_by_name(place: Place) -> None:
    ended = place.run("prepare", engine="Neuron")
    assert ended.code == exits.NO_ENGINE
    assert ended.report.failure is not None
    assert "no Neuron engine" in ended.report.failure.message


def test_a_worker_without_configuration_says_so(place: Place) -> None:
    ended = place.run("prepare", namespace=None)
    assert ended.code == exits.USAGE
    assert ended.report.failure is not None
    assert "at namespace" in ended.report.failure.message


def test_a_prepare_that_is_asked_to_stop_leaves_nothing_staged(place: Place) -> None:
    """Of a model whose shards are written for longer than a signal takes to arrive."""
    shutil.rmtree(place.source)
    write_chat_model(place.source, hidden_size=1152, intermediate_size=4608, num_hidden_layers=12)
    with place.started("prepare") as worker:
        worker.until(lambda: any((place.artifacts / "staging").glob("shards*/weights/*")))
        worker.process.send_signal(signal.SIGTERM)
        ended = worker.wait()
    assert ended.code == 128 + signal.SIGTERM
    assert ended.report.failure is not None
    assert (ended.report.state, ended.report.failure.reason) == (State.FAILED, "Terminated")
    assert not any(path.is_dir() for path in (place.artifacts / "staging").glob("*"))
    assert not any((place.artifacts / "shards").glob("*"))


def test_sigterm_finishes_the_answer_under_way(place: Place) -> None:
    with place.serving() as worker:
        whole = ask(worker, tokens=100)
        client = OpenAI(base_url=worker.url, api_key="none", max_retries=0)
        asked: dict[str, Any] = {"model": "small", "prompt": "Hello", "max_tokens": 100, "temperature": 0}
        stream = iter(client.completions.create(stream=True, **asked))
        pieces = [next(stream).choices[0].text]
        worker.process.send_signal(signal.SIGTERM)
        pieces += [event.choices[0].text for event in stream]
        ended = worker.wait()
    assert "".join(pieces) == whole
    assert ended.code == 0
    assert ended.report.state is State.SUCCEEDED
    assert ended.report.ready_at is not None


def test_requests_that_come_right_after_sigterm_are_answered(place: Place) -> None:
    with place.serving(before=LINGERS) as worker:
        worker.process.send_signal(signal.SIGTERM)
        worker.until(lambda: worker.admin("/readyz").status_code == 503)
        assert ask(worker)
        assert worker.wait().code == 0


def test_an_api_key_is_asked_for_and_read_again(place: Place, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first\n")
    with place.serving(apiKeyFile=str(key)) as worker:

        def models(given: str) -> int:
            return len(OpenAI(base_url=worker.url, api_key=given, max_retries=0).models.list().data)

        assert models("first") == 1
        with pytest.raises(AuthenticationError, match="API key is missing or wrong"):
            models("second")
        assert httpx.get(f"{worker.url}/models", timeout=PATIENCE_SECONDS).json()["error"]["code"] == "invalid_api_key"
        replaced = tmp_path / "replaced"
        replaced.write_text("second")
        replaced.rename(key)
        assert models("second") == 1
        with pytest.raises(AuthenticationError):
            models("first")


def test_an_answer_needs_no_more_than_the_batch_at_once(place: Place) -> None:
    flags = {"tp_degree": 3, "torch_dtype": "float32", "seq_len": 128, "batch_size": 2}
    with place.serving(neuronConfig=flags) as worker:
        alone = ask(worker, tokens=30)
        answers: list[str] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(worker, tokens=30))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [alone] * 5


def test_cleanup_removes_what_nobody_else_needs(place: Place) -> None:
    place.prepare()
    place.prepare(name="other", uid="uid-2", strategy="ShardOnLoad")
    assert place.run("cleanup", sourcePath=None).code == 0
    assert not any((place.artifacts / "shards").iterdir())
    assert any((place.artifacts / "compiled").iterdir())
    assert place.run("cleanup", sourcePath=None, name="other", uid="another").code == 0
    assert not any((place.artifacts / "compiled").iterdir())


def test_a_changed_flag_moves_the_models_references(place: Place) -> None:
    place.prepare()
    flags = {"tp_degree": 1, "torch_dtype": "float32", "seq_len": 128}
    result = place.prepare(neuronConfig=flags).result
    assert result is not None
    referred = {path.parent.name for path in (place.artifacts / "refs").glob("*/*")}
    assert referred == {result.compiled_key, result.shards_key}


def test_without_an_operator_serve_finds_what_prepare_made(place: Place) -> None:
    place.prepare()
    with place.started("serve") as worker:
        worker.until_ready()
        assert ask(worker)


def test_a_source_without_a_tokenizer_is_reported(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (place.source / name).unlink(missing_ok=True)
    ended = place.run("serve", **returned(result.to_json()))
    assert ended.report.failure is not None
    assert ended.report.failure.reason == "TokenizerInvalid"


def test_a_taken_port_is_reported(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        ended = place.run("serve", **returned(result.to_json()), servingPort=taken.getsockname()[1])
    assert ended.report.failure is not None
    assert ended.report.failure.reason == "PortTaken"


def test_the_last_report_fits_a_termination_message(place: Place) -> None:
    shutil.rmtree(place.source)
    ended = place.run("prepare", sourceDisplay="x" * 200)
    assert len(json.dumps(ended.report.to_json())) < 4096


@pytest.mark.parametrize(
    ("device", "sampling"),
    [
        (None, Sampling()),
        ({}, Sampling(temperature=0.0)),
        ({"top_k": 50, "temperature": 0.7}, Sampling(temperature=0.0)),
        ({"do_sample": True}, Sampling(top_k=1)),
        ({"do_sample": True, "top_k": 50, "top_p": 0.9}, Sampling(top_p=0.9, top_k=50)),
        ({"do_sample": True, "top_k": -1}, Sampling(top_k=256)),
        ({"do_sample": True, "top_k": -1, "global_topk": 64}, Sampling(top_k=64)),
    ],
)
def test_a_request_that_says_nothing_is_answered_as_the_device_would(
    device: dict[str, Any] | None, sampling: Sampling
) -> None:
    assert default_sampling({} if device is None else {"on_device_sampling_config": device}) == sampling
