"""The arguments of `vllm serve` that are the same for every engine."""

from pathlib import Path
from typing import Final

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.engines.vllm_arguments import batch_size, sequence_length

HOST: Final = "127.0.0.1"


def first_arguments(config: WorkerConfig, source: Path, port: int) -> list[str]:
    """Returns the command and what it serves, under which name, where, and for how many tokens and requests."""
    flags = config.neuron_config
    return [
        "serve", str(source),
        *_named(config.served_name or config.name),
        "--host", HOST,
        "--port", str(port),
        "--tensor-parallel-size", str(flags.get("tp_degree", 1)),
        "--max-model-len", str(sequence_length(flags)),
        "--max-num-seqs", str(batch_size(flags)),
    ]  # fmt: skip


def last_arguments(config: WorkerConfig) -> list[str]:
    """Returns the user's own arguments, after which none follows: vLLM takes the last one of a name."""
    return ["--disable-uvicorn-access-log", *config.extra_args]


def _named(served_name: str) -> list[str]:
    """Joins flag and value with = if the value would be taken for a flag."""
    flag = "--served-model-name"
    return [f"{flag}={served_name}"] if served_name.startswith("-") else [flag, served_name]
