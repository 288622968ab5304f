"""Starts of a real vLLM that fail: the report says why, in its words or in ours."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.engines.models import edit_config
from tests.unit.worker.workers import Ended
from tests.vllm.places import VllmPlace


def failure(ended: Ended) -> tuple[str, str]:
    assert ended.report.failure is not None
    return ended.report.failure.reason, ended.report.failure.message


def test_an_argument_that_it_does_not_know(tiny: VllmPlace) -> None:
    reason, message = failure(tiny.start_and_wait(strategy="ShardOnLoad", extraArgs=["--no-such-thing"]))
    assert reason == "ServerEnded"
    assert "unrecognized arguments: --no-such-thing" in message


def test_an_argument_that_clashes_is_refused_before_it_runs(tiny: VllmPlace) -> None:
    reason, message = failure(tiny.start_and_wait(strategy="ShardOnLoad", extraArgs=["--max-model-len=9"]))
    assert reason == "FlagsRefused"
    assert "spec.compile.sequenceLength" in message


@pytest.mark.parametrize("before", ["VLLM_CPU_KVCACHE_SPACE=100000"])
def test_too_little_memory_for_the_cache(tiny: VllmPlace, before: str) -> None:
    reason, message = failure(tiny.start_and_wait(strategy="ShardOnLoad", before=before))
    assert reason == "HostMemoryExhausted"
    assert "spec.compile.batchSize" in message


def test_another_model_than_was_prepared(tiny: VllmPlace) -> None:
    overrides = json.dumps({"num_hidden_layers": 1})
    ended = tiny.start_and_wait(strategy="ShardOnCompile", extraArgs=["--hf-overrides", overrides])
    reason, message = failure(ended)
    assert reason == "ServerNotHooked"
    assert "no place for layers.1." in message


def test_a_model_that_it_does_not_know(tiny: VllmPlace, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny.source, source)
    edit_config(source, architectures=["NoSuchModelForCausalLM"])
    place = VllmPlace(tmp_path, source, tiny.settings, environment=tiny.environment)
    reason, message = failure(place.start_and_wait(strategy="ShardOnLoad"))
    assert reason in ("ServerEnded", "ServerNotHooked")
    assert "NoSuchModelForCausalLM" in message or "parameter" in message


def test_a_damaged_shard_is_reported_by_the_process_that_reads_it(tiny: VllmPlace) -> None:
    changes: dict[str, Any] = {"strategy": "ShardOnCompile", "verification": "Full"}
    result = tiny.prepare(**changes).result
    assert result is not None
    assert result.shards_key is not None
    shard = next((tiny.artifacts / "shards" / result.shards_key / "weights").glob("tp1_*"))
    sealed = shard.read_bytes()
    shard.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    try:
        assert failure(tiny.start_and_wait(**changes))[0] == "ArtifactDamaged"
    finally:
        shard.write_bytes(sealed)
