"""Random models, flags and chunks: the streaming executor against the rules written out on arrays."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.plan import Plan, make_plan
from neuronmodel_worker.stream import FileSink, RankTensor, Sizes, TensorSink, read_rank_files, run
from tests.generated import values, write_checkpoint
from tests.reference_layout import NUMPY, reference_shards

SIZES = st.builds(
    Sizes,
    chunk_bytes=st.sampled_from([1, 7, 64, 1000, 1 << 24]),
    held_bytes=st.sampled_from([1, 100, 1000, 1 << 27]),
    wide_bytes=st.sampled_from([1, 300, 1 << 26]),
    memory_bytes=st.sampled_from([1, 1 << 29]),
)
DTYPES = st.sampled_from(["bfloat16", "float16", "float32"])
SWITCHES = [
    "fused_qkv",
    "vocab_parallel",
    "sequence_parallel_enabled",
    "qkv_kernel_enabled",
    "qkv_nki_kernel_enabled",
    "mlp_kernel_enabled",
    "out_proj_kernel_enabled",
    "fused_rmsnorm_skip_gamma",
]


FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"]
SPARSE = ["mixtral", "qwen3_moe"]


@st.composite
def cases(draw: st.DrawFn, family: str) -> dict[str, Any]:
    key_value = draw(st.integers(1, 6))
    query = key_value * draw(st.integers(1, 4))
    size = draw(st.sampled_from([1, 2, 3, 4]))
    free = family in ("llama", "qwen3", "qwen3_moe")
    hidden = draw(st.sampled_from([query * size, 10, 16, 24])) if free else query * size
    degree = draw(st.integers(1, 12))
    if family in SPARSE:
        degree = draw(st.sampled_from([d for d in range(1, 13) if hidden % d == 0]))
    flags: dict[str, Any] = {"tp_degree": degree, "torch_dtype": draw(DTYPES)}
    flags |= {name: True for name in SWITCHES if draw(st.booleans())}
    flags["cast_type"] = draw(st.sampled_from(["config", "as-declared"]))
    # Most combinations that have no layout are left out: refusals have their own tests.
    if family in ("mistral", "mixtral"):
        flags.pop("fused_qkv", None)
    if not flags.get("vocab_parallel"):
        flags["start_rank_id"] = draw(st.integers(0, degree - 1))
        flags["local_ranks_size"] = draw(st.integers(1, degree - flags["start_rank_id"]))
    even = degree if family in SPARSE else 1
    wide = even * draw(st.integers(1, 40 // even))
    config: dict[str, Any] = {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": wide,
        "moe_intermediate_size": wide,
        "num_hidden_layers": draw(st.integers(1, 2)),
        "num_attention_heads": query,
        "num_key_value_heads": key_value,
        "head_dim": size,
        "vocab_size": even * draw(st.integers(1, 60 // even)),
        "tie_word_embeddings": family not in SPARSE and draw(st.booleans()),
        "attention_bias": draw(st.booleans()) and not (family == "llama" and flags.get("fused_qkv")),
        "mlp_bias": family not in SPARSE and wide % degree == 0 and draw(st.booleans()),
        "num_experts": (experts := draw(st.integers(1, 3))),
        "num_local_experts": experts,
    }
    tensors = decoder_tensors(config)
    dtype = draw(DTYPES)
    dtypes = {name: draw(DTYPES) for name, _ in tensors if "norm" in name and draw(st.booleans())}
    case = {"hf_config": config, "neuron_config": flags, "tensors": tensors, "dtype": dtype, "dtypes": dtypes}
    return {**case, "values": 2, "files": draw(st.integers(1, 3))}


def decoder_tensors(config: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """What a checkpoint of that configuration holds."""
    hidden, vocabulary, family = config["hidden_size"], config["vocab_size"], config["model_type"]
    found = [("model.embed_tokens.weight", [vocabulary, hidden]), ("model.norm.weight", [hidden])]
    if not config["tie_word_embeddings"]:
        found.append(("lm_head.weight", [vocabulary, hidden]))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in {**attention_shapes(config), **mlp_shapes(config)}.items():
            found.append((f"{prefix}{name}.weight", shape))
            if "self_attn" in name:
                biased = config["attention_bias"] or (family == "qwen2" and "o_proj" not in name)
            else:
                biased = config["mlp_bias"]
            if biased:
                found.append((f"{prefix}{name}.bias", shape[:1]))
        found += [(f"{prefix}{norm}_layernorm.weight", [hidden]) for norm in ("input", "post_attention")]
        if family.startswith("qwen3"):
            found += [(f"{prefix}self_attn.{which}_norm.weight", [config["head_dim"]]) for which in "qk"]
    return found


def attention_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    hidden, size = config["hidden_size"], config["head_dim"]
    heads = {w: config["num_attention_heads" if w == "q" else "num_key_value_heads"] * size for w in "qkv"}
    return {f"self_attn.{w}_proj": [heads[w], hidden] for w in "qkv"} | {"self_attn.o_proj": [hidden, heads["q"]]}


def mlp_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    hidden, wide, family = config["hidden_size"], config["intermediate_size"], config["model_type"]
    names = {"w1": [wide, hidden], "w3": [wide, hidden], "w2": [hidden, wide]}
    if family != "mixtral":
        names = {"gate_proj": [wide, hidden], "up_proj": [wide, hidden], "down_proj": [hidden, wide]}
    if family not in SPARSE:
        return {f"mlp.{name}": shape for name, shape in names.items()}
    module, count = "block_sparse_moe" if family == "mixtral" else "mlp", config["num_experts"]
    experts = {f"{module}.experts.{e}.{name}": shape for e in range(count) for name, shape in names.items()}
    return {f"{module}.gate": [count, hidden]} | experts


def source_arrays(case: dict[str, Any]) -> dict[str, NDArray[Any]]:
    found = {}
    for name, shape in case["tensors"]:
        dtype = case["dtypes"].get(name, case["dtype"])
        found[name] = values(name, shape, dtype, case["values"]).view(NUMPY[dtype])
    return found


def bits(tensors: list[dict[str, RankTensor]]) -> list[dict[str, tuple[tuple[int, ...], bytes]]]:
    return [{name: (t.shape, t.data.tobytes()) for name, t in rank.items()} for rank in tensors]


def both_sinks(plan: Plan, sizes: Sizes, weights: Path, threads: int) -> list[Any]:
    memory = TensorSink()
    run(plan, memory, sizes=sizes, threads=threads)
    result = run(plan, FileSink(weights), sizes=sizes, threads=threads)
    assert result.bytes_read <= plan.source_bytes
    if len(plan.ranks) == plan.layout.flags.tp_degree:
        assert result.bytes_read == plan.source_bytes
    sealed = {file.name: file for file in result.files}
    return [bits(memory.tensors), bits(read_rank_files(weights, plan.ranks, sealed=sealed, full=True))]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), sizes=SIZES)
def test_any_plan_streams_to_what_the_rules_say(family: str, data: st.DataObject, sizes: Sizes) -> None:
    case = data.draw(cases(family))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        checkpoint = open_checkpoint(write_checkpoint(directory / "source", case))
        try:
            plan = make_plan(checkpoint, case["neuron_config"])
        except LayoutRefused as refusal:
            event(f"refused: {str(refusal)[:24]}")
            return
        event("made")
        expected = [
            {name: (array.shape, array.tobytes()) for name, array in rank.items()}
            for rank in reference_shards(case["hf_config"], case["neuron_config"], source_arrays(case))
        ]
        for found in both_sinks(plan, sizes, directory / "weights", threads=2):
            assert found == expected


def test_bytes_written_are_foretold_by_the_plan() -> None:
    config: dict[str, Any] = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 7, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4, "vocab_size": 11}
    config |= {"tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False}
    case = {"hf_config": config, "tensors": decoder_tensors(config), "dtype": "float32"}
    with tempfile.TemporaryDirectory() as name:
        plan = make_plan(open_checkpoint(write_checkpoint(Path(name), case)), {"tp_degree": 2})
        sink = TensorSink()
        run(plan, sink)
    assert plan.output_bytes == sum(np.sum([t.data.nbytes for t in rank.values()]) for rank in sink.tensors)
