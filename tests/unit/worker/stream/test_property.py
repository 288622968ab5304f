"""Random models, flags and chunks: the streaming executor against the rules written out on arrays."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuronmodel_worker.checkpoint import header_digest, open_checkpoint
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.stream import (
    ContentDigests,
    FileSink,
    RankTensor,
    Sizes,
    TensorSink,
    WrittenFile,
    check_content,
    rank_file_name,
    read_rank_files,
    run,
    write_rank_files,
)
from tests.generated import DTYPES, values, write_checkpoint
from tests.model_cases import FAMILIES, cases, decoder_tensors
from tests.reference_layout import NUMPY, reference_shards
from tests.unit.worker.sharding import assert_covered

SAFETENSORS = {NUMPY[name]: dtype for name, (dtype, _) in DTYPES.items()} | {np.dtype(np.int32): "I32"}

METADATA = {"key": "a set of its own"}

SIZES = st.builds(
    Sizes,
    chunk_bytes=st.sampled_from([1, 7, 64, 1000, 1 << 24]),
    held_bytes=st.sampled_from([1, 100, 1000, 1 << 27]),
    wide_bytes=st.sampled_from([1, 300, 1 << 26]),
    memory_bytes=st.sampled_from([1, 1 << 29]),
    seal_bytes=st.sampled_from([1, 3000, 1 << 33]),
)


def source_arrays(case: dict[str, Any]) -> dict[str, NDArray[Any]]:
    found = {}
    for name, shape in case["tensors"]:
        dtype = case["dtypes"].get(name, case["dtype"])
        found[name] = values(name, shape, dtype, case["values"]).view(NUMPY[dtype])
    return found


def bits(tensors: list[dict[str, RankTensor]]) -> list[dict[str, tuple[str, tuple[int, ...], bytes]]]:
    return [{name: (t.dtype, t.shape, t.data.tobytes()) for name, t in rank.items()} for rank in tensors]


def sealed_apart(plan: StreamedPlan, sizes: Sizes, weights: Path, made: list[int]) -> Any:
    """Some ranks in one run and the others in another, as after a run that died; each sealed alone with an observer."""
    sealed: dict[str, WrittenFile] = {}

    def seal(rank: int, file: WrittenFile) -> None:
        assert (weights / file.name).stat().st_size == file.nbytes
        assert file.header == header_digest(weights / rank_file_name(rank))
        sealed[file.name] = file

    for ranks in (made, [index for index in range(len(plan.ranks)) if index not in made]):
        observer, sink = ContentDigests(), FileSink(weights, seal=seal, metadata=METADATA)
        before = len(sealed)
        result = run(plan, sink, sizes=sizes, threads=2, rank_indices=ranks, observer=observer)
        assert {file.name for file in result.files} == {rank_file_name(plan.ranks[index]) for index in ranks}
        assert len(sealed) == before + len(ranks)
        assert_covered(plan, observer.pieces())
        assert check_content(plan.checkpoint, observer.pieces(), plan.reads) is None
        assert result.bytes_read <= sum(read.source.nbytes for read in plan.reads.values())
    return bits(read_rank_files(weights, plan.ranks, sealed=sealed, full=True))


def held_and_written(plan: StreamedPlan, sizes: Sizes, weights: Path) -> dict[str, bytes]:
    memory = TensorSink()
    run(plan, memory, sizes=sizes, threads=2)
    write_rank_files(weights, plan, memory.tensors, metadata=METADATA)
    return {path.name: path.read_bytes() for path in weights.iterdir()}


def both_sinks(plan: StreamedPlan, sizes: Sizes, weights: Path, threads: int) -> list[Any]:
    memory = TensorSink()
    run(plan, memory, sizes=sizes, threads=threads)
    result = run(plan, FileSink(weights), sizes=sizes, threads=threads)
    assert result.bytes_read <= plan.source_bytes
    if len(plan.ranks) == plan.layout.flags.tp_degree:
        assert result.bytes_read == plan.source_bytes
    sealed = {file.name: file for file in result.files}
    return [bits(memory.tensors), bits(read_rank_files(weights, plan.ranks, sealed=sealed, full=True))]


@contextmanager
def drawn(case: dict[str, Any]) -> Iterator[tuple[StreamedPlan, Any, Path]]:
    """The plan of a case, what every rank has to hold, and a folder for it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plan = make_plan(open_checkpoint(write_checkpoint(directory / "source", case)), case["neuron_config"])
        ranks = reference_shards(case["hf_config"], case["neuron_config"], source_arrays(case))
        yield (
            plan,
            [{n: (SAFETENSORS[a.dtype], a.shape, a.tobytes()) for n, a in rank.items()} for rank in ranks],
            directory,
        )


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), sizes=SIZES)
def test_any_plan_streams_to_what_the_rules_say(family: str, data: st.DataObject, sizes: Sizes) -> None:
    with drawn(data.draw(cases(family))) as (plan, expected, directory):
        for found in both_sinks(plan, sizes, directory / "weights", threads=2):
            assert found == expected


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), sizes=SIZES)
def test_any_plan_is_sealed_rank_by_rank_to_the_same(family: str, data: st.DataObject, sizes: Sizes) -> None:
    with drawn(data.draw(cases(family))) as (plan, expected, directory):
        made = data.draw(st.lists(st.integers(0, len(plan.ranks) - 1), unique=True))
        assert sealed_apart(plan, sizes, directory / "apart", made) == expected
        apart = {path.name: path.read_bytes() for path in (directory / "apart").iterdir()}
        assert held_and_written(plan, sizes, directory / "held") == apart


def test_bytes_written_are_predicted_by_the_plan() -> None:
    config: dict[str, Any] = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 7, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 4, "vocab_size": 11}
    config |= {"tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False}
    case = {"hf_config": config, "tensors": decoder_tensors(config), "dtype": "float32"}
    with tempfile.TemporaryDirectory() as name:
        plan = make_plan(open_checkpoint(write_checkpoint(Path(name), case)), {"tp_degree": 2})
        sink = TensorSink()
        run(plan, sink)
    assert plan.output_bytes == sum(np.sum([t.data.nbytes for t in rank.values()]) for rank in sink.tensors)
