"""Random models, flags and chunks: the streaming executor against the rules written out on arrays."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan import Plan, make_plan
from neuronmodel_worker.stream import FileSink, RankTensor, Sizes, TensorSink, read_rank_files, run
from tests.generated import DTYPES, values, write_checkpoint
from tests.model_cases import FAMILIES, cases, decoder_tensors
from tests.reference_layout import NUMPY, reference_shards

SAFETENSORS = {NUMPY[name]: dtype for name, (dtype, _) in DTYPES.items()} | {np.dtype(np.int32): "I32"}

SIZES = st.builds(
    Sizes,
    chunk_bytes=st.sampled_from([1, 7, 64, 1000, 1 << 24]),
    held_bytes=st.sampled_from([1, 100, 1000, 1 << 27]),
    wide_bytes=st.sampled_from([1, 300, 1 << 26]),
    memory_bytes=st.sampled_from([1, 1 << 29]),
)


def source_arrays(case: dict[str, Any]) -> dict[str, NDArray[Any]]:
    found = {}
    for name, shape in case["tensors"]:
        dtype = case["dtypes"].get(name, case["dtype"])
        found[name] = values(name, shape, dtype, case["values"]).view(NUMPY[dtype])
    return found


def bits(tensors: list[dict[str, RankTensor]]) -> list[dict[str, tuple[str, tuple[int, ...], bytes]]]:
    return [{name: (t.dtype, t.shape, t.data.tobytes()) for name, t in rank.items()} for rank in tensors]


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
        plan = make_plan(checkpoint, case["neuron_config"])
        expected = [
            {name: (SAFETENSORS[array.dtype], array.shape, array.tobytes()) for name, array in rank.items()}
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
