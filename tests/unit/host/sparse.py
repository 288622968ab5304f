"""Checkpoints of true size that take no room: headers as they would be, and holes where the weights would be."""

import json
import os
import struct
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

LLAMA_405B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
}
FILE_BYTES = 5_000_000_000
"""What a file of a large checkpoint on the Hub holds at most; 191 make Llama 3.1 405B."""

# The flags of AWS's command for it that say something about shards.
FLAGS_405B: dict[str, Any] = {
    "tp_degree": 64,
    "torch_dtype": "bfloat16",
    "start_rank_id": 0,
    "local_ranks_size": 64,
    "batch_size": 1,
    "max_context_length": 2048,
    "seq_len": 2048,
    "fused_qkv": True,
    "sequence_parallel_enabled": True,
    "qkv_kernel_enabled": True,
    "attn_kernel_enabled": True,
    "mlp_kernel_enabled": True,
    "cc_pipeline_tiling_factor": 1,
    "save_sharded_checkpoint": True,
    "logical_nc_config": 2,
}


Named = tuple[str, list[int]]


def llama_tensors(config: dict[str, Any]) -> Iterator[Named]:
    """Every tensor of such a checkpoint, in the order in which they are used."""
    hidden, wide, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key_value = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        shapes = {
            "input_layernorm": [hidden],
            "self_attn.q_proj": [query, hidden],
            "self_attn.k_proj": [key_value, hidden],
            "self_attn.v_proj": [key_value, hidden],
            "self_attn.o_proj": [hidden, query],
            "post_attention_layernorm": [hidden],
            "mlp.gate_proj": [wide, hidden],
            "mlp.up_proj": [wide, hidden],
            "mlp.down_proj": [hidden, wide],
        }
        yield from ((f"model.layers.{layer}.{name}.weight", shape) for name, shape in shapes.items())
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [config["vocab_size"], hidden]


def write_sparse_checkpoint(directory: Path, config: dict[str, Any], file_bytes: int = FILE_BYTES) -> int:
    """BF16 tensors dealt to files one after the other. Returns the bytes of everything that is no weight."""
    directory.mkdir(parents=True)
    files = list(_dealt(llama_tensors(config), file_bytes))
    names = [f"model-{index + 1:05d}-of-{len(files):05d}.safetensors" for index in range(len(files))]
    weight_map = {tensor: name for name, tensors in zip(names, files, strict=True) for tensor, _ in tensors}
    texts = {"config.json": json.dumps(config), "model.safetensors.index.json": json.dumps({"weight_map": weight_map})}
    for name, text in texts.items():
        (directory / name).write_text(text)
    headers = sum(_write_sparse(directory / name, tensors) for name, tensors in zip(names, files, strict=True))
    return headers + sum(map(len, texts.values()))


def _dealt(tensors: Iterable[Named], file_bytes: int) -> Iterator[list[Named]]:
    held: list[Named] = []
    room = file_bytes
    for name, shape in tensors:
        nbytes = 2 * prod(shape)
        if held and nbytes > room:
            yield held
            held, room = [], file_bytes
        held.append((name, shape))
        room -= nbytes
    yield held


def _write_sparse(file: Path, tensors: list[Named]) -> int:
    header, end = {}, 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * prod(shape)]}
        end += 2 * prod(shape)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(file, 8 + len(text) + end)
    return 8 + len(text)
