"""A small Llama checkpoint to shard, and a process that shards it."""

import sys
from pathlib import Path
from typing import Any

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.plan import Plan, make_plan
from neuronmodel_worker.stream import FileSink, Transferred, run
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


def small_plan(source: Path, **flags: Any) -> Plan:
    return make_plan(open_checkpoint(source), {"tp_degree": 4, **flags})


def shard_and_stop(source: Path, weights: Path) -> None:
    """Shard until some bytes are written, say so, and wait to be killed."""

    def stop(so_far: Transferred) -> None:
        if so_far.bytes_written > 10_000:
            print("writing", flush=True)
            sys.stdin.read()

    run(small_plan(source), FileSink(weights), stop)


if __name__ == "__main__":
    shard_and_stop(Path(sys.argv[1]), Path(sys.argv[2]))
