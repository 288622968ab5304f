"""The rules of NxD Inference's layout, written out directly on whole arrays: slow, obvious, sharing no code with the
worker. The casts are ml_dtypes' and numpy's."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.nxdi_flags import NO_EFFECT, NO_EFFECT_TOGETHER, NO_LAYOUT, OFF, PARTNERS, QWEN3_MOE_NO_LAYOUT

Array = NDArray[Any]
NUMPY = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16), "float32": np.dtype(np.float32)}

SPARSE = ("mixtral", "qwen3_moe")
FLOAT32_HEAD = ("qwen2", "mixtral", "qwen3_moe")
DIVIDED_HEADS = ("qwen2", "mistral", "mixtral")

# Of fields that config.json leaves out; other sizes are always given in the cases.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8},
    "mixtral": {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_moe": {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8},
}

SWITCHES = (
    "fused_qkv",
    "vocab_parallel",
    "sequence_parallel_enabled",
    "fused_rmsnorm_skip_gamma",
    "qkv_kernel_enabled",
    "qkv_nki_kernel_enabled",
    "mlp_kernel_enabled",
    "mlp_tkg_nki_kernel_enabled",
    "out_proj_kernel_enabled",
    "attn_block_tkg_nki_kernel_enabled",
    "attn_tkg_nki_kernel_enabled",
    "attn_tkg_builtin_kernel_enabled",
    "attn_block_cte_nki_kernel_enabled",
)
MLP_KERNELS = ("mlp_kernel_enabled", "mlp_tkg_nki_kernel_enabled")
QKV_KERNELS = ("qkv_kernel_enabled", "qkv_nki_kernel_enabled")
OUTPUT_KERNELS = (
    "out_proj_kernel_enabled",
    "attn_block_tkg_nki_kernel_enabled",
    "attn_tkg_nki_kernel_enabled",
    "attn_tkg_builtin_kernel_enabled",
)
CHOICES = ("tp_degree", "torch_dtype", "cast_type", "start_rank_id", "local_ranks_size", "world_size")


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with what it leaves out; `size` is the head size in force."""
    family = config["model_type"]
    full = {**DEFAULTS[family], **config}
    for switch in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        full[switch] = bool(config.get(switch))
    full["num_key_value_heads"] = full.get("num_key_value_heads") or full["num_attention_heads"]
    full["head_dim"] = full.get("head_dim")
    divided = full["hidden_size"] // full["num_attention_heads"]
    full["size"] = divided if family in DIVIDED_HEADS or full["head_dim"] is None else full["head_dim"]
    full["wide"] = full["moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size"]
    full["experts"] = full.get("num_local_experts" if family == "mixtral" else "num_experts", 0)
    return full


def dtype_of(config: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    if flags.get("overrides_torch_dtype") is False and (config.get("dtype") or config.get("torch_dtype")):
        return str(config.get("dtype") or config.get("torch_dtype"))
    return str(flags.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "bfloat16")


def number(flags: Mapping[str, Any], name: str, default: int) -> int:
    value = flags.get(name)
    return default if value is None else int(value)


def any_of(flags: Mapping[str, Any], names: Sequence[str]) -> bool:
    return any(flags.get(name) for name in names)


def needed(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor that the model takes from its checkpoint."""
    c, family = resolved(config), config["model_type"]
    hidden, vocabulary, wide, size = c["hidden_size"], c["vocab_size"], c["wide"], c["size"]
    rows = {"q": c["num_attention_heads"] * size, "k": c["num_key_value_heads"] * size}
    rows["v"] = rows["k"]
    found: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (vocabulary, hidden), "norm.weight": (hidden,)}
    if not c["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocabulary, hidden)
    for layer in range(c["num_hidden_layers"]):
        at = f"layers.{layer}."
        found |= {f"{at}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        found |= {f"{at}self_attn.{which}_proj.weight": (rows[which], hidden) for which in "qkv"}
        found[f"{at}self_attn.o_proj.weight"] = (hidden, rows["q"])
        if family == "qwen2" or (family == "llama" and c["attention_bias"]):
            found |= {f"{at}self_attn.{which}_proj.bias": (rows[which],) for which in "qkv"}
        if family == "llama" and c["attention_bias"]:
            found[f"{at}self_attn.o_proj.bias"] = (hidden,)
        if family.startswith("qwen3"):
            found |= {f"{at}self_attn.{which}_norm.weight": (size,) for which in "qk"}
        if family not in SPARSE:
            found |= _mlp(f"{at}mlp.", ("gate_proj", "up_proj", "down_proj"), hidden, wide)
            if c["mlp_bias"]:
                found |= {f"{at}mlp.{which}_proj.bias": (wide,) for which in ("gate", "up")}
                found[f"{at}mlp.down_proj.bias"] = (hidden,)
            continue
        module = f"{at}block_sparse_moe." if family == "mixtral" else f"{at}mlp."
        names = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        found[f"{module}gate.weight"] = (c["experts"], hidden)
        for expert in range(c["experts"]):
            found |= _mlp(f"{module}experts.{expert}.", names, hidden, wide)
    return found


def _mlp(at: str, names: tuple[str, str, str], hidden: int, wide: int) -> dict[str, tuple[int, ...]]:
    gate, up, down = (f"{at}{name}.weight" for name in names)
    return {gate: (wide, hidden), up: (wide, hidden), down: (hidden, wide)}


def refusals(case: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """For each rule that is offended, the words that a sentence about it has to hold; none: shards are made."""
    config, flags, shapes = case["hf_config"], case["neuron_config"], dict(case["tensors"])
    found = _refused_flags(config, flags)
    if found:
        return found
    c, family, degree = resolved(config), config["model_type"], number(flags, "tp_degree", 1)
    query, key_value, size = c["num_attention_heads"], c["num_key_value_heads"], c["size"]
    if dtype_of(config, flags) not in NUMPY:
        return [(dtype_of(config, flags),)]
    local, fused = number(flags, "local_ranks_size", degree), flags.get("fused_qkv")
    sizes = {"vocab_size": c["vocab_size"], "hidden_size": c["hidden_size"], "intermediate_size": c["wide"]}
    uneven = [str(value) for value in sizes.values() if value % degree]
    rules: dict[tuple[str, ...], Any] = {
        ("head_dim",): family == "qwen3_moe" and c["head_dim"] is None,
        (f"{query} query heads", f"{key_value} key/value heads"): query % key_value,
        (f"{key_value} key/value heads", f"degree {degree}", "Degrees that fit"): query != key_value
        and degree % key_value
        and (key_value < degree or key_value % degree),
        ("tie_word_embeddings",): family in SPARSE and c["tie_word_embeddings"],
        (*uneven, f"degree {degree}", "Degrees that fit"): family in SPARSE and uneven,
        ("fused_qkv", "attention_bias"): family == "llama" and fused and c["attention_bias"],
        ("vocab_parallel", str(degree), str(local)): family == "llama"
        and flags.get("vocab_parallel")
        and local < degree,
        ("fused_qkv", family.capitalize()): family in ("mistral", "mixtral") and fused,
        ("mlp_bias", str(c["wide"]), f"degree {degree}", "Degrees that fit"): family not in SPARSE
        and c["mlp_bias"]
        and c["wide"] % degree,
        ("nothing for a head",): not size,
    }
    found = library_refusals(c, flags) + [words for words, offended in rules.items() if offended]
    held = {name.removeprefix("model."): tuple(shape) for name, shape in shapes.items()}
    for name, shape in needed(config).items():
        if name not in held:
            found.append((name,))
        elif held[name] != shape:
            found.append((name, str(list(held[name])), str(list(shape))))
    types: dict[str, set[str]] = {}
    for name in shapes:
        if ".experts." in name:
            layer = name.removeprefix("model.").split(".")[1]
            types.setdefault(layer, set()).add(case.get("dtypes", {}).get(name, case["dtype"]))
    found += [("experts", "one type") for layer, of_layer in types.items() if len(of_layer) > 1]
    first = held.get("layers.0.self_attn.q_proj.weight", ())
    if family in DIVIDED_HEADS and first[:1] not in ((), (query * size,)):
        found.append((f"{first[0]} rows", f"{query} heads of {size}"))
    return found


def _refused_flags(config: Mapping[str, Any], flags: Mapping[str, Any]) -> list[tuple[str, ...]]:
    family = config["model_type"]
    wide = resolved(config)["wide"]
    narrow = type(flags.get("moe_tp_degree", 1)) is int and wide // flags.get("moe_tp_degree", 1) % 128
    together = {name for fields in NO_EFFECT_TOGETHER for name in fields}
    known = {*NO_EFFECT, *PARTNERS, *together, *SWITCHES, *CHOICES, *QWEN3_MOE_NO_LAYOUT}
    without = {*NO_LAYOUT, *(QWEN3_MOE_NO_LAYOUT if family == "qwen3_moe" else ())}
    found: list[tuple[str, ...]] = []
    for name, value in flags.items():
        harmless = name == "moe_fused_nki_kernel_enabled" and narrow
        harmless |= value is None or value is False or (name in OFF and value == OFF[name])
        if (name in without or name not in known) and not harmless:
            found.append((f"{name}=",))
        elif name in SWITCHES and not isinstance(value, bool | None):
            found.append((f"{name}=", "true or false"))
    attention = flags.get("attention_dtype")
    other = flags.get("overrides_torch_dtype") is False or attention != flags.get("torch_dtype")
    if flags.get("cast_type") == "as-declared" and attention is not None and other:
        found.append(("attention_dtype=",))
    numbers = {name: flags.get(name) for name in ("tp_degree", "start_rank_id", "local_ranks_size")}
    for name, value in numbers.items():
        least = 0 if name == "start_rank_id" else 1
        if value is not None and (type(value) is not int or value < least):
            found.append((f"{name}=", f"at least {least}"))
    if found:
        return found
    degree = number(flags, "tp_degree", 1)
    start = number(flags, "start_rank_id", 0)
    rules: dict[tuple[str, ...], Any] = {
        ("torch_dtype=", *NUMPY): flags.get("torch_dtype") not in (None, *NUMPY),
        ("cast_type=", "as-declared"): flags.get("cast_type") not in (None, "config", "as-declared"),
        ("world_size=", f"tp_degree={degree}"): flags.get("world_size") not in (None, degree),
        ("start_rank_id=", "local_ranks_size=", f"tp_degree={degree}"): start
        + number(flags, "local_ranks_size", degree)
        > degree,
    }
    return [words for words, offended in rules.items() if offended]


def library_refusals(config: Mapping[str, Any], flags: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What `NeuronConfig.__init__` asserts, in its order, and a model's own checks; of fields that have a layout."""
    given = {name: value for name, value in flags.items() if value is not None}
    on = {name for name, value in given.items() if value or isinstance(value, dict)}
    block = "attn_block_tkg_nki_kernel_enabled"
    cascaded, update = (
        f"{block.removesuffix('_enabled')}_cascaded_attention",
        f"{block.removesuffix('_enabled')}_cache_update",
    )
    without_qkv_kernel = block in on and not on & set(QKV_KERNELS)
    old = sorted(on & {"attn_tkg_nki_kernel_enabled", "attn_tkg_builtin_kernel_enabled"})
    kernel = block if block in on else old[0] if old else ""
    sequence = given.get("seq_len", 128)
    context, longest = given.get("max_context_length", sequence), given.get("max_length", sequence)
    batch = given.get("tkg_batch_size", given.get("batch_size", 1))
    degree, query = given.get("tp_degree", 1), config["num_attention_heads"]
    key_value = config["num_key_value_heads"]
    cte = ("qkv_kernel_enabled", "qkv_nki_kernel_enabled", "out_proj_kernel_enabled")
    missing = [name for name in cte if name not in on]
    rules: dict[tuple[str, ...], Any] = {
        ("attention_dtype=", "cast_type"): given.get("attention_dtype", given.get("torch_dtype", "bfloat16"))
        != given.get("torch_dtype", "bfloat16")
        and given.get("cast_type") != "as-declared",
        (f"max_context_length={context}", str(longest)): context > longest,
        ("context_encoding_buckets", str(context)): max(given.get("context_encoding_buckets", [0])) > context,
        ("token_generation_buckets", str(longest)): max(given.get("token_generation_buckets", [0])) > longest,
        ("token_generation_batches", str(batch)): max(given.get("token_generation_batches", [0])) > batch,
        ("tensor_capture_config", "on_device_sampling_config"): "tensor_capture_config" in on
        and not on & {"output_logits", "on_device_sampling_config"},
        (
            "qkv_cte_nki_kernel_fuse_rope",
            *[name for name in QKV_KERNELS if name not in on],
        ): "qkv_cte_nki_kernel_fuse_rope" in on and not set(QKV_KERNELS) <= on,
        (block, *QKV_KERNELS): without_qkv_kernel,
        (cascaded, block): cascaded in on and not kernel,
        (update, block): update in on and not kernel,
        ("attn_block_cte_nki_kernel_enabled", *missing): "attn_block_cte_nki_kernel_enabled" in on and missing,
        ("attn_block_cte_nki_kernel_enabled", "attn_kernel_enabled"): "attn_block_cte_nki_kernel_enabled" in on
        and given.get("attn_kernel_enabled") is False,
        ("_tkg_", "flash_decoding_enabled"): kernel and "flash_decoding_enabled" in on,
        ("k_cache_transposed", "flash_decoding_enabled"): {"k_cache_transposed", "flash_decoding_enabled"} <= on,
        ("k_cache_transposed", "is_block_kv_layout"): {"k_cache_transposed", "is_block_kv_layout"} <= on,
        ("is_prefix_caching", "speculation_length"): {"is_prefix_caching", "speculation_length"} <= on,
        ("is_block_kv_layout", "is_prefix_caching"): "is_block_kv_layout" in on and "is_prefix_caching" not in on,
        ("token_generation_batches", "do not go together"): "token_generation_batches" in on
        and on & {"speculation_length", "is_prefix_caching", "is_block_kv_layout", "token_tree_config"},
        (cascaded, "Qwen3-MoE"): config["model_type"] == "qwen3_moe" and kernel and cascaded not in on,
        ("flash_decoding_enabled", str(key_value)): config["model_type"] == "llama"
        and "flash_decoding_enabled" in on
        and min(degree, query) % key_value,
    }
    family, window = (
        config["model_type"],
        config.get("sliding_window", 4096 if config["model_type"] == "mistral" else None),
    )
    if family.startswith("qwen") and not config.get("use_sliding_window"):
        window = None
    asked = given.get("windowed_context_encoding_size")
    rules[("windowed_context_encoding_size", str(window))] = None not in (asked, window) and asked != window
    if family in ("qwen2", "qwen3") and config.get("max_window_layers", 28) >= config["num_hidden_layers"]:
        window = None
    rules[("sliding_window", str(window))] = family != "mistral" and window is not None and window < sequence
    if config["model_type"] in SPARSE:
        chosen = config["num_experts_per_tok"]
        rules[("num_experts_per_tok", str(chosen))] = chosen > config["experts"] or chosen == 1
    return [words for words, offended in rules.items() if offended]


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


def promoted_product(weight: Array, gamma: Array) -> Array:
    kind = weight.dtype if weight.dtype == gamma.dtype else np.dtype(np.float32)
    return (weight.astype(np.float32) * gamma.astype(np.float32)).astype(kind)


def reference_shards(
    config: Mapping[str, Any], flags: Mapping[str, Any], tensors: Mapping[str, Array]
) -> list[dict[str, Array]]:
    """One dictionary a rank. `config` and `flags` as a user writes them: what is absent has its default."""
    degree = number(flags, "tp_degree", 1)
    start = number(flags, "start_rank_id", 0)
    ranks = range(start, start + number(flags, "local_ranks_size", degree))
    full, dtype = resolved(config), dtype_of(config, flags)
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    return [
        {name: _cast(name, value, full, flags, dtype) for name, value in shard.items()}
        for shard in (_rank(full, {**flags, "torch_dtype": dtype}, bare, rank, degree) for rank in ranks)
    ]


def _cast(name: str, value: Array, config: Mapping[str, Any], flags: Mapping[str, Any], dtype: str) -> Array:
    family = config["model_type"]
    if name.endswith(".rank"):
        return value
    float32 = "norm" in name or "router" in name
    float32 |= name == "lm_head.weight" and family in FLOAT32_HEAD
    float32 |= "expert_mlps" in name and family == "mixtral"
    as_declared = flags.get("cast_type") == "as-declared"
    return value.astype(np.float32 if as_declared and float32 else NUMPY[dtype])


def _rank(
    config: Mapping[str, Any], flags: Mapping[str, Any], t: Mapping[str, Array], rank: int, degree: int
) -> dict[str, Array]:
    def rows(matrix: Array) -> Array:
        return np.split(pad_rows(matrix, up(len(matrix), degree)), degree)[rank]

    def columns(matrix: Array) -> Array:
        return rows(matrix.T).T

    own_number = np.array([rank], np.int32)
    family = config["model_type"]
    vocab_parallel = flags.get("vocab_parallel", False) and family == "llama"
    embeddings = t["embed_tokens.weight"]
    head = embeddings if config["tie_word_embeddings"] else t["lm_head.weight"]
    out = {
        "embed_tokens.weight": rows(embeddings) if vocab_parallel else columns(embeddings),
        "lm_head.weight": rows(head),
        "norm.weight": t["norm.weight"],
        "rank_util.rank": own_number,
    }
    if vocab_parallel:
        out["embed_tokens.rank_util.rank"] = own_number
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        source = {k.removeprefix(at): v for k, v in t.items() if k.startswith(at)}
        for name, value in _layer(config, flags, source, rows, columns, rank, degree).items():
            out[f"layers.{layer}.{name}"] = value
        if family != "mixtral":
            out[f"layers.{layer}.self_attn.rank_util.rank"] = own_number
        if family == "qwen3_moe":
            out[f"layers.{layer}.mlp.expert_mlps.spmd_rank.rank"] = own_number
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
    size, family = config["size"], config["model_type"]
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
            kernel = any_of(flags, QKV_KERNELS)
            out[f"self_attn.qkv_proj.Wqkv.{kind}"] = fused.T if kernel and kind == "weight" else fused
        else:
            out.update({f"self_attn.qkv_proj.{which}_proj.{kind}": part for which, part in parts.items()})
    output = heads_of_rank("q", t["self_attn.o_proj.weight"].T).T
    out["self_attn.o_proj.o_proj.weight"] = output.T if any_of(flags, OUTPUT_KERNELS) else output
    if biased and family == "llama":
        out["self_attn.o_proj.o_proj.bias"] = t["self_attn.o_proj.bias"]
    if family.startswith("qwen3"):
        out |= {f"self_attn.{which}_layernorm.weight": t[f"self_attn.{which}_norm.weight"] for which in "qk"}
    if family in SPARSE:
        return out | _experts(t, rows, columns)
    for which in ("gate", "up", "down"):
        value = t[f"mlp.{which}_proj.weight"]
        if skip_gamma and any_of(flags, MLP_KERNELS) and which != "down":
            value = promoted_product(value, gamma)
        part = columns(value) if which == "down" else rows(value)
        out[f"mlp.{which}_proj.weight"] = part.T if any_of(flags, MLP_KERNELS) else part
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
