"""Bit for bit what NxD Inference makes: golden cases through both sinks, refusals before anything is written."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.plan import make_plan
from neuronmodel_worker.stream import FileSink, RankTensor, Sizes, TensorSink, rank_file_name, read_rank_files, run
from tests.generated import write_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = sorted(path for path in GOLDEN.glob("*/*.json") if path.name != "errors.json")
REFUSALS = [case for path in sorted(GOLDEN.glob("*/errors.json")) for case in json.loads(path.read_text())]
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "I32": "int32"}

Shards = dict[str, dict[str, list[Any]]]


def described(ranks: range, tensors: list[dict[str, RankTensor]]) -> Shards:
    """Shards in a golden file's form."""
    return {
        rank_file_name(rank): {name: describe(tensor) for name, tensor in of_rank.items()}
        for rank, of_rank in zip(ranks, tensors, strict=True)
    }


def describe(tensor: RankTensor) -> list[Any]:
    digest = hashlib.sha256(tensor.data.tobytes()).hexdigest()[:24]
    return [DTYPES[tensor.dtype], list(tensor.shape), digest]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("sizes", [Sizes(), Sizes(chunk_bytes=1500, transposed_bytes=4000)], ids=["whole", "pieces"])
def test_shards_are_what_nxd_inference_writes(path: Path, sizes: Sizes, tmp_path: Path) -> None:
    case = json.loads(path.read_text())
    plan = make_plan(open_checkpoint(write_checkpoint(tmp_path / "source", case)), case["neuron_config"])
    memory = TensorSink()
    run(plan, memory, sizes=sizes)
    assert described(plan.ranks, memory.tensors) == case["shards"]

    weights = tmp_path / "weights"
    result = run(plan, FileSink(weights), sizes=sizes)
    sealed = {file.name: file for file in result.files}
    assert described(plan.ranks, read_rank_files(weights, plan.ranks, sealed=sealed, full=True)) == case["shards"]
    assert {file.name for file in weights.iterdir()} == set(case["shards"])
    assert result.bytes_read == plan.source_bytes
    for file in weights.iterdir():
        with safe_open(file, framework="numpy") as opened:
            assert set(opened.keys()) == set(case["shards"][file.name])


def words_of_the_misfit(case: dict[str, Any]) -> list[str]:
    """What a sentence about this refusal has to name."""
    flags, config = case["neuron_config"], case["hf_config"]
    degree, query, key_value = flags["tp_degree"], config["num_attention_heads"], config["num_key_value_heads"]
    if flags.get("fused_qkv") and config["attention_bias"]:
        return ["fused_qkv", "attention_bias"]
    if flags.get("vocab_parallel") and flags.get("local_ranks_size", degree) < degree:
        return ["vocab_parallel", str(flags["local_ranks_size"])]
    if config["mlp_bias"] and config["intermediate_size"] % degree:
        return ["mlp_bias", str(config["intermediate_size"]), str(degree)]
    assert query != key_value
    return [f"{key_value} key/value heads", f"degree {degree}", "Degrees that fit"]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case["name"])
def test_what_nxd_inference_refuses_is_refused_in_a_sentence(case: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, case))
    with pytest.raises(LayoutRefused) as refusal:
        make_plan(checkpoint, case["neuron_config"])
    for word in words_of_the_misfit(case):
        assert word in str(refusal.value)


def test_no_case_is_forgotten() -> None:
    assert len(CASES) >= 70
    assert len(REFUSALS) >= 12
