"""The rules of NxD Inference's layout, written out directly on whole arrays: slow, obvious, sharing no code with the
worker. The casts are ml_dtypes' and numpy's."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NUMPY = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16), "float32": np.dtype(np.float32)}


def pad_rows(matrix: Array, rows: int) -> Array:
    return np.concatenate([matrix, np.zeros((rows - len(matrix), *matrix.shape[1:]), matrix.dtype)])


def up(number: int, multiple: int) -> int:
    return (number + multiple - 1) // multiple * multiple


def query_heads(heads: Array, key_value: int, degree: int) -> Array:
    """[heads, d, …] with the zero heads where they belong."""
    padded = up(len(heads), degree)
    if degree % key_value:
        return pad_rows(heads, padded)
    groups = np.split(heads, key_value)
    return np.concatenate([pad_rows(group, padded // key_value) for group in groups])


def key_value_heads(heads: Array, query: int, degree: int) -> Array:
    if degree % len(heads) == 0:
        return np.repeat(heads, degree // len(heads), axis=0)
    return pad_rows(heads, up(query, degree)) if query == len(heads) else heads


SPARSE = ("mixtral", "qwen3_moe")
FLOAT32_HEAD = ("qwen2", "mixtral", "qwen3_moe")


def head_size(config: Mapping[str, Any]) -> int:
    if config["model_type"] in ("qwen2", "mistral", "mixtral"):
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def promoted_product(weight: Array, gamma: Array) -> Array:
    kind = weight.dtype if weight.dtype == gamma.dtype else np.dtype(np.float32)
    return (weight.astype(np.float32) * gamma.astype(np.float32)).astype(kind)


def reference_shards(
    config: Mapping[str, Any], flags: Mapping[str, Any], tensors: Mapping[str, Array]
) -> list[dict[str, Array]]:
    degree = flags["tp_degree"]
    start = flags.get("start_rank_id", 0)
    ranks = range(start, start + flags.get("local_ranks_size", degree))
    return [
        {name: _cast(name, value, config["model_type"], flags) for name, value in shard.items()}
        for shard in (_rank(config, flags, tensors, rank, degree) for rank in ranks)
    ]


def _cast(name: str, value: Array, family: str, flags: Mapping[str, Any]) -> Array:
    if name.endswith(".rank"):
        return value
    float32 = "norm" in name or "router" in name
    float32 |= name == "lm_head.weight" and family in FLOAT32_HEAD
    float32 |= "expert_mlps" in name and family == "mixtral"
    as_declared = flags.get("cast_type") == "as-declared"
    return value.astype(np.float32 if as_declared and float32 else NUMPY[flags["torch_dtype"]])


def _rank(
    config: Mapping[str, Any], flags: Mapping[str, Any], t: Mapping[str, Array], rank: int, degree: int
) -> dict[str, Array]:
    def rows(matrix: Array) -> Array:
        return np.split(pad_rows(matrix, up(len(matrix), degree)), degree)[rank]

    def columns(matrix: Array) -> Array:
        return rows(matrix.T).T

    number = np.array([rank], np.int32)
    family = config["model_type"]
    vocab_parallel = flags.get("vocab_parallel", False) and family == "llama"
    embeddings = t["model.embed_tokens.weight"]
    head = embeddings if config["tie_word_embeddings"] else t["lm_head.weight"]
    out = {
        "embed_tokens.weight": rows(embeddings) if vocab_parallel else columns(embeddings),
        "lm_head.weight": rows(head),
        "norm.weight": t["model.norm.weight"],
        "rank_util.rank": number,
    }
    if vocab_parallel:
        out["embed_tokens.rank_util.rank"] = number
    for layer in range(config["num_hidden_layers"]):
        source = {k.removeprefix(f"model.layers.{layer}."): v for k, v in t.items() if f".layers.{layer}." in k}
        for name, value in _layer(config, flags, source, rows, columns, rank, degree).items():
            out[f"layers.{layer}.{name}"] = value
        if family != "mixtral":
            out[f"layers.{layer}.self_attn.rank_util.rank"] = number
        if family == "qwen3_moe":
            out[f"layers.{layer}.mlp.expert_mlps.spmd_rank.rank"] = number
    return out


def _layer(
    config: Mapping[str, Any],
    flags: Mapping[str, Any],
    t: Mapping[str, Array],
    rows: Any,
    columns: Any,
    rank: int,
    degree: int,
) -> dict[str, Array]:
    query, key_value = config["num_attention_heads"], config["num_key_value_heads"]
    size, family = head_size(config), config["model_type"]
    skip_gamma = flags.get("fused_rmsnorm_skip_gamma") and not flags.get("sequence_parallel_enabled")
    skip_gamma = skip_gamma and family == "llama"
    gamma = t["input_layernorm.weight"]
    out = {name: t[name] for name in ("input_layernorm.weight", "post_attention_layernorm.weight")}

    def heads_of_rank(which: str, flat: Array) -> Array:
        heads = flat.reshape(-1, size, *flat.shape[1:])
        placed = query_heads(heads, key_value, degree) if which == "q" else key_value_heads(heads, query, degree)
        own = np.split(placed, degree)[rank]
        return own.reshape(-1, *flat.shape[1:])

    biased = family == "qwen2" or (family == "llama" and config["attention_bias"])
    for kind in ("weight", "bias") if biased else ("weight",):
        parts = {}
        for which in "qkv":
            value = t[f"self_attn.{which}_proj.{kind}"]
            if skip_gamma and flags.get("qkv_kernel_enabled") and kind == "weight":
                value = promoted_product(value, gamma)
            parts[which] = heads_of_rank(which, value)
        if flags.get("fused_qkv"):
            fused = np.concatenate([p.astype(NUMPY[flags["torch_dtype"]]) for p in parts.values()])
            kernel = flags.get("qkv_kernel_enabled") or flags.get("qkv_nki_kernel_enabled")
            out[f"self_attn.qkv_proj.Wqkv.{kind}"] = fused.T if kernel and kind == "weight" else fused
        else:
            out.update({f"self_attn.qkv_proj.{which}_proj.{kind}": part for which, part in parts.items()})
    output = heads_of_rank("q", t["self_attn.o_proj.weight"].T).T
    out["self_attn.o_proj.o_proj.weight"] = output.T if flags.get("out_proj_kernel_enabled") else output
    if biased and family == "llama":
        out["self_attn.o_proj.o_proj.bias"] = t["self_attn.o_proj.bias"]
    if family.startswith("qwen3"):
        out |= {f"self_attn.{which}_layernorm.weight": t[f"self_attn.{which}_norm.weight"] for which in "qk"}
    if family in SPARSE:
        return out | _experts(t, rows, columns)
    kernel = flags.get("mlp_kernel_enabled")
    for which in ("gate", "up", "down"):
        value = t[f"mlp.{which}_proj.weight"]
        if skip_gamma and kernel and which != "down":
            value = promoted_product(value, gamma)
        part = columns(value) if which == "down" else rows(value)
        out[f"mlp.{which}_proj.weight"] = part.T if kernel else part
        if config["mlp_bias"]:
            bias = t[f"mlp.{which}_proj.bias"]
            out[f"mlp.{which}_proj.bias"] = bias if which == "down" else rows(bias)
    return out


def _experts(t: Mapping[str, Array], rows: Any, columns: Any) -> dict[str, Array]:
    mixtral = "block_sparse_moe.gate.weight" in t
    module = "block_sparse_moe" if mixtral else "mlp"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    numbers = range(len(t[f"{module}.gate.weight"]))

    def expert(number: int, name: str) -> Array:
        return t[f"{module}.experts.{number}.{name}.weight"]

    gate_ups = [np.concatenate([rows(expert(e, gate)).T, rows(expert(e, up)).T], axis=1) for e in numbers]
    return {
        "mlp.router.linear_router.weight": t[f"{module}.gate.weight"],
        "mlp.expert_mlps.mlp_op.gate_up_proj.weight": np.stack(gate_ups),
        "mlp.expert_mlps.mlp_op.down_proj.weight": np.stack([columns(expert(e, down)).T for e in numbers]),
    }
