"""Bit for bit what NxD Inference makes: golden cases through both sinks, refusals before anything is written."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.stream import (
    ContentDigests,
    FileSink,
    RankTensor,
    Sizes,
    TensorSink,
    WrittenFile,
    rank_file_name,
    read_rank_files,
    run,
    write_rank_files,
)
from tests import golden_file
from tests.generated import write_checkpoint
from tests.paths import GOLDEN
from tests.unit.worker.sharding import assert_covered

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
@pytest.mark.parametrize("sizes", [Sizes(), Sizes(chunk_bytes=5000, held_bytes=9000)], ids=["whole", "pieces"])
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
    assert result.bytes_read <= plan.source_bytes
    if len(plan.ranks) == plan.layout.flags.tp_degree:
        assert result.bytes_read == plan.source_bytes
    for file in weights.iterdir():
        with safe_open(file, framework="numpy") as opened:
            assert set(opened.keys()) == set(case["shards"][file.name])


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_shards_that_are_sealed_rank_by_rank_are_the_same(path: Path, tmp_path: Path) -> None:
    """In two runs, the second for what the first did not make, with digests taken of all that is read."""
    case = json.loads(path.read_text())
    plan = make_plan(open_checkpoint(write_checkpoint(tmp_path / "source", case)), case["neuron_config"])
    sizes, sealed = Sizes(chunk_bytes=5000, held_bytes=9000, seal_bytes=1), dict[str, WrittenFile]()

    def seal(rank: int, file: WrittenFile) -> None:
        sealed[rank_file_name(rank)] = file

    indices = range(len(plan.ranks))
    for made in (indices[1::2], indices[::2]):
        observer = ContentDigests()
        run(plan, FileSink(tmp_path / "weights", seal=seal), sizes=sizes, rank_indices=made, observer=observer)
        assert_covered(plan, observer.pieces())
    tensors = read_rank_files(tmp_path / "weights", plan.ranks, sealed=sealed, full=True)
    assert described(plan.ranks, tensors) == case["shards"]
    files = {file.name: file for file in write_rank_files(tmp_path / "held", plan, tensors)}
    assert files == sealed


def misfits(case: dict[str, Any]) -> list[list[str]]:
    """For each rule that this case offends, what a sentence about it has to name."""
    flags, config, family = case["neuron_config"], case["hf_config"], case["family"]
    degree, query, key_value = flags["tp_degree"], config["num_attention_heads"], config["num_key_value_heads"]
    sparse = family in ("mixtral", "qwen3_moe")
    sizes = [
        config["vocab_size"],
        config["hidden_size"],
        config.get("moe_intermediate_size", config["intermediate_size"]),
    ]
    head_size = config["hidden_size"] // query
    rows = next(shape[0] for name, shape in case["tensors"] if name.endswith("q_proj.weight"))
    rules = {
        ("fused_qkv", "attention_bias"): family == "llama" and flags.get("fused_qkv") and config["attention_bias"],
        ("fused_qkv", family.capitalize()): family in ("mistral", "mixtral") and flags.get("fused_qkv"),
        ("vocab_parallel", "local_ranks_size"): family == "llama"
        and flags.get("vocab_parallel")
        and flags.get("local_ranks_size", degree) < degree,
        ("mlp_bias", str(config["intermediate_size"]), "Degrees that fit"): not sparse
        and config["mlp_bias"]
        and config["intermediate_size"] % degree,
        (f"{query} heads of {head_size}", str(rows)): family in ("qwen2", "mistral", "mixtral")
        and rows != query * head_size,
        ("tie_word_embeddings",): sparse and config["tie_word_embeddings"],
        tuple(str(size) for size in sizes if size % degree): sparse and any(size % degree for size in sizes),
        (f"{key_value} key/value heads", f"degree {degree}", "Degrees that fit"): query != key_value
        and degree % key_value
        and (key_value < degree or key_value % degree),
    }
    return [list(words) for words, offended in rules.items() if offended]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case["name"])
def test_what_nxd_inference_refuses_is_refused_in_a_sentence(case: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, case))
    with pytest.raises(LayoutRefused) as refusal:
        make_plan(checkpoint, case["neuron_config"])
    assert any(all(word in str(refusal.value) for word in words) for words in misfits(case)), refusal.value


def test_a_golden_file_is_made_of_the_files_that_were_written(tmp_path: Path) -> None:
    case, made = json.loads((GOLDEN / "llama" / "llama-tp4.json").read_text()), tmp_path / "made.json"
    made.write_text(json.dumps({**case, "shards": {}}))
    golden_file.write_source(made, tmp_path)
    flags = json.loads((tmp_path / "neuron_config.json").read_text())
    run(make_plan(open_checkpoint(tmp_path / "model"), flags), FileSink(tmp_path / "weights"))
    golden_file.add_shards(made, tmp_path / "weights")
    assert json.loads(made.read_text()) == case


def test_no_case_is_forgotten() -> None:
    assert len(CASES) >= 190
    assert len(REFUSALS) >= 55
