"""vLLM's command line on processors, its environment, and what its words mean."""

import os
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import Stage
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.prepared import PreparedModel
from neuronmodel_worker.serve.vllm.cpu.arguments import cpu_arguments
from neuronmodel_worker.serve.vllm.cpu.setup import CacheMemoryExhausted, CpuSetup, defaults
from tests.unit.worker.engines.models import shard, write_chat_model, write_model
from tests.unit.worker.workers import Place, returned

FLAGS = {"tp_degree": 2, "torch_dtype": "bfloat16", "batch_size": 3, "seq_len": 200}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StreamedPlan:
    source = tmp_path_factory.mktemp("source")
    write_model(source, hidden_size=128, num_attention_heads=4, num_key_value_heads=2)
    return shard(source, FLAGS)[0]


def arguments(plan: StreamedPlan, *extra: str, **flags: Any) -> list[str]:
    config = WorkerConfig(
        namespace="team", name="small", uid="u", spec_hash="h", neuron_config=FLAGS | flags, extra_args=extra
    )
    return cpu_arguments(config, plan, Path("/source"), 4711)


def value(given: list[str], name: str) -> str:
    assert given.count(name) == 1
    return given[given.index(name) + 1]


def test_they_follow_from_the_spec_and_the_user_s_own_come_last(plan: StreamedPlan) -> None:
    given = arguments(plan, "--seed", "1")
    assert given[:4] == ["serve", "/source", "--served-model-name", "small"]
    assert (value(given, "--max-model-len"), value(given, "--max-num-seqs")) == ("200", "3")
    assert (value(given, "--tensor-parallel-size"), value(given, "--dtype")) == ("2", "bfloat16")
    assert value(given, "--load-format") == "neuronmodel"
    assert "--no-enable-prefix-caching" in given
    assert given[-2:] == ["--seed", "1"]
    assert given.index("--enforce-eager") < given.index("--seed")


def test_the_cache_has_room_for_every_sequence_and_an_empty_block(plan: StreamedPlan) -> None:
    """2 layers, a key and a value of 32 elements of 2 bytes for a rank's one head, 2 blocks of 128 for a sequence."""
    assert value(arguments(plan), "--kv-cache-memory-bytes") == str((3 * 2 + 1) * 128 * 2 * 2 * 32 * 2)


def test_blocks_that_the_spec_names_are_vllm_s(plan: StreamedPlan) -> None:
    given = arguments(plan, is_prefix_caching=True, pa_block_size=32, pa_num_blocks=1000)
    assert "--enable-prefix-caching" in given
    assert value(given, "--block-size") == "32"
    assert value(given, "--kv-cache-memory-bytes") == str(1000 * 32 * 2 * 2 * 32 * 2)


def test_an_argument_that_clashes_is_refused_by_name(plan: StreamedPlan) -> None:
    with pytest.raises(FlagsRefused, match="--load-format is set already"):
        arguments(plan, "--load-format", "auto")


@pytest.fixture
def setup() -> CpuSetup:
    config = WorkerConfig(namespace="team", name="small", uid="u", spec_hash="h")
    return CpuSetup(Run(config, StartClock(Stage.SERVE, FirstLine.now())))


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: Available memory on node 0 (0.5/23.4 GiB) on kv cache allocation is less than requested memory "
        "for kv (4.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by "
        "other processes.",
        "ValueError: To serve at least one request with the models's max seq len (8192), (0.5 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (0.01 GiB).",
    ],
)
def test_too_little_memory_for_the_cache_is_said_in_our_words_and_in_its(setup: CpuSetup, line: str) -> None:
    failure = setup.failure(f"Traceback\n{line}\nRuntimeError: Engine core initialization failed.", raised=False)
    assert isinstance(failure, CacheMemoryExhausted)
    assert "lower spec.compile.batchSize or sequenceLength" in str(failure)
    assert "Engine core initialization failed" in str(failure)


def test_other_ends_have_no_name(setup: CpuSetup) -> None:
    assert setup.failure("KeyError: 'x'", raised=True) is None


def test_a_start_opens_what_was_prepared_and_gives_vllm_what_a_pod_may_use(place: Place) -> None:
    write_chat_model(place.source, hidden_size=64, num_attention_heads=2, num_key_value_heads=2)
    served: dict[str, Any] = {
        "server": "VLLM", "strategy": "ShardOnCompile", "neuronConfig": {"tp_degree": 2, "torch_dtype": "float32"},
    }  # fmt: skip
    result = place.prepare(**served).result
    assert result is not None
    config = WorkerConfig.model_validate(place.config(**{**returned(result.to_json()), **served}))
    job = Run(config, StartClock(Stage.SERVE, FirstLine.now()))
    launch = CpuSetup(job).launch(PreparedModel(job, Background()), place.source, 4711)
    assert launch.arguments[:2] == ["serve", str(place.source)]
    assert value(launch.arguments, "--tensor-parallel-size") == "2"
    assert launch.environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert launch.environment["PATH"] == os.environ["PATH"]


def test_what_vllm_cannot_split_is_refused_by_prepare(place: Place) -> None:
    ended = place.run("prepare", server="VLLM", neuronConfig={"tp_degree": 1, "torch_dtype": "float32"})
    assert ended.report.failure is not None
    assert (ended.report.failure.reason, ended.code) == ("FlagsRefused", exits.BAD_INPUT)
    assert "heads have 8 elements" in ended.report.failure.message


def test_threads_are_shared_by_the_ranks_as_far_as_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuronmodel_worker.serve.vllm.cpu.setup.usable_processors", lambda: 7)
    assert defaults({"tp_degree": 2})["OMP_NUM_THREADS"] == "3"
    assert defaults({"tp_degree": 8})["OMP_NUM_THREADS"] == "1"
