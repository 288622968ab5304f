"""What the arguments say, as the plugin is given it."""

import argparse
import json
from dataclasses import dataclass, field
from typing import Any

# Of --block-size.
BLOCK_SIZES = (1, 8, 16, 32, 64, 128, 256)
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")


@dataclass
class ModelConfig:
    model: str
    served_model_name: str
    max_model_len: int
    dtype: str
    max_prompt_length: int | None = None


@dataclass
class CacheConfig:
    block_size: int | None
    enable_prefix_caching: bool
    num_gpu_blocks_override: int | None


@dataclass
class SchedulerConfig:
    max_num_seqs: int
    enable_chunked_prefill: bool = True
    max_num_batched_tokens: int = 8192
    scheduler_cls: str = ""


@dataclass
class ParallelConfig:
    tensor_parallel_size: int
    worker_cls: str = "auto"
    distributed_executor_backend: str | None = None

    @property
    def world_size(self) -> int:
        return self.tensor_parallel_size


@dataclass
class VllmConfig:
    model_config: ModelConfig
    cache_config: CacheConfig
    scheduler_config: SchedulerConfig
    parallel_config: ParallelConfig
    additional_config: dict[str, Any] = field(default_factory=dict)


def parser() -> argparse.ArgumentParser:
    """Exits with 2 for what vLLM does not know."""
    made = argparse.ArgumentParser(prog="vllm")
    serve = made.add_subparsers(dest="command", required=True).add_parser("serve", allow_abbrev=False)
    serve.add_argument("model_tag")
    serve.add_argument("--served-model-name")
    serve.add_argument("--host")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--disable-uvicorn-access-log", action="store_true")
    serve.add_argument("--dtype", choices=DTYPES, default="auto")
    serve.add_argument("--max-model-len", type=int, required=True)
    serve.add_argument("--max-num-seqs", type=int, default=256)
    serve.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    serve.add_argument("--block-size", type=int, choices=BLOCK_SIZES)
    serve.add_argument("--num-gpu-blocks-override", type=int)
    serve.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    serve.add_argument("--additional-config", type=json.loads, default={})
    return made


def make_config(given: argparse.Namespace) -> VllmConfig:
    return VllmConfig(
        ModelConfig(given.model_tag, given.served_model_name or given.model_tag, given.max_model_len, given.dtype),
        CacheConfig(given.block_size or 16, given.enable_prefix_caching, given.num_gpu_blocks_override),
        SchedulerConfig(given.max_num_seqs),
        ParallelConfig(given.tensor_parallel_size),
        given.additional_config,
    )
