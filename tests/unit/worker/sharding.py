"""A small Llama checkpoint to shard, and a process that shards it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.stream import FileSink, PieceDigest, Transferred, run
from tests.generated import write_checkpoint
from tests.model_cases import decoder_tensors

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}


def small_source(directory: Path, files: int = 1, **config: Any) -> Path:
    described = {**CONFIG, **config}
    case = {"hf_config": described, "tensors": decoder_tensors(described), "dtype": "bfloat16", "files": files}
    return write_checkpoint(directory, case)


def small_plan(source: Path, **flags: Any) -> StreamedPlan:
    return make_plan(open_checkpoint(source), {"tp_degree": 4, **flags})


def assert_covered(plan: StreamedPlan, pieces: Mapping[str, Sequence[PieceDigest]]) -> None:
    """Every byte of every tensor that the plan reads is in one piece, and each piece has its digest."""
    assert {name for name, of_tensor in pieces.items() if of_tensor} == {
        name for name, read in plan.reads.items() if read.source.nbytes
    }
    for name, of_tensor in pieces.items():
        source, end = plan.checkpoint.tensors[name], 0
        with source.file.path.open("rb") as file:
            file.seek(source.offset)
            for start, nbytes, digest in of_tensor:
                assert start == end, f"{name}: a piece begins at {start} and the one before ended at {end}"
                assert xxhash.xxh3_128(file.read(nbytes)).hexdigest() == digest
                end += nbytes
        assert end == source.nbytes


def shard_and_stop(source: Path, weights: Path) -> None:
    """Shard until some bytes are written, say so, and wait to be killed."""

    def stop(so_far: Transferred) -> None:
        if so_far.bytes_written > 10_000:
            print("writing", flush=True)
            sys.stdin.read()

    run(small_plan(source), FileSink(weights), stop)


if __name__ == "__main__":
    shard_and_stop(Path(sys.argv[1]), Path(sys.argv[2]))
