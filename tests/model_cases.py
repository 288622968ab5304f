"""Models, flags and checkpoints to lay out, in a golden file's form: drawn at random, or described by a config.json."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from neuronmodel_worker.checkpoint import DTYPE_BITS, Checkpoint, TensorSource
from neuronmodel_worker.sources import Folder, SourceFile
from tests import reference_layout
from tests.generated import DTYPES
from tests.nxdi_flags import NO_EFFECT, NO_EFFECT_TOGETHER, NO_LAYOUT, OFF, PARTNERS, UNKNOWN_EFFECT
from tests.reference_layout import DEFAULTS, DIVIDED_HEADS, SPARSE, refusals

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"]

TYPES = st.sampled_from(["bfloat16", "float16", "float32"])
# attn_block_cte_nki_kernel_enabled needs four others; attn_kernel_enabled has no effect.
SWITCHES = [*(name for name in reference_layout.SWITCHES if "cte" not in name), "attn_kernel_enabled"]
# So that a drawn set of switches is not nearly always one that transposes the output projection.
RARE = {name for name in SWITCHES if name.startswith(("attn_block", "attn_tkg"))}
CTE_KERNEL = {
    "attn_block_cte_nki_kernel_enabled": True,
    "qkv_kernel_enabled": True,
    "qkv_nki_kernel_enabled": True,
    "attn_kernel_enabled": True,
    "out_proj_kernel_enabled": True,
}


def one_in(number: int) -> st.SearchStrategy[bool]:
    """True that often; a failing case shrinks to False."""
    return st.integers(1, number).map(lambda drawn: drawn == number)


@st.composite
def cases(draw: st.DrawFn, family: str, misfits: bool = False) -> dict[str, Any]:
    """A case with a layout; with `misfits` one that may have none, for any of the reasons that there are."""
    model = draw(models(family))
    flags = draw(flag_sets(model, misfits))
    if misfits:
        draw(spoil(model, flags))
    tensors = decoder_tensors(model)
    if draw(one_in(2)):
        tensors += superfluous_tensors(model)
    free = [name for name, _ in tensors if misfits or ".experts." not in name]
    dtypes = draw(st.dictionaries(st.sampled_from(free), TYPES, max_size=4))
    if draw(one_in(3)):
        dtypes |= {name: "float32" for name, _ in tensors if "norm" in name}
    if misfits and draw(one_in(6)):
        tensors = draw(damaged(tensors))
    if draw(one_in(10)):
        tensors = [(name.removeprefix("model."), shape) for name, shape in tensors]
        dtypes = {name.removeprefix("model."): dtype for name, dtype in dtypes.items()}
    config = draw(written(model))
    case = {"hf_config": config, "neuron_config": flags, "tensors": tensors, "dtype": draw(TYPES), "dtypes": dtypes}
    if not misfits:
        assume(not refusals(case))
    return {**case, "values": 2, "files": draw(st.integers(1, 3))}


@st.composite
def models(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """Every field of a model, `size` of its heads included."""
    default = DEFAULTS[family].get("num_key_value_heads", 1)
    key_value = draw(st.one_of(st.integers(1, 6), st.just(default)))
    query = key_value * draw(st.integers(1, 4 if key_value < 8 else 1))
    size = draw(st.sampled_from([1, 2, 3, 4, 5]))
    if family == "qwen3" and query < 3 and draw(st.booleans()):
        size = 128
    free = family not in DIVIDED_HEADS and draw(st.booleans())
    wide = draw(st.sampled_from([*range(1, 41), 24, 36, 48, 72]))
    return {
        "model_type": family,
        "hidden_size": draw(st.sampled_from([10, 16, 24, 36, 48])) if free else query * size,
        "intermediate_size": wide,
        "moe_intermediate_size": wide,
        "num_hidden_layers": draw(st.integers(1, 2)),
        "num_attention_heads": query,
        "num_key_value_heads": key_value,
        "head_dim": size,
        "vocab_size": draw(st.sampled_from([*range(1, 61), 24, 36, 48, 72, 96])),
        "tie_word_embeddings": family not in SPARSE and draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": family not in SPARSE and draw(one_in(4)),
        "num_experts": (experts := draw(st.integers(2, 3))),
        "num_local_experts": experts,
        "num_experts_per_tok": draw(st.integers(2, experts)),
    }


@st.composite
def flag_sets(draw: st.DrawFn, model: Mapping[str, Any], misfits: bool) -> dict[str, Any]:
    """Switches, their aliases, no-effect fields, types and ranks; most of the degrees fit the model."""
    family = model["model_type"]
    flags: dict[str, Any] = {"tp_degree": (degree := draw(degrees(model)))}
    flags |= {name: True for name in SWITCHES if draw(one_in(10 if name in RARE else 3))}
    flags |= {name: False for name in draw(st.sets(st.sampled_from(SWITCHES), max_size=2)) if name not in flags}
    if draw(one_in(10)):
        flags |= CTE_KERNEL
    if draw(one_in(6)):
        needing = draw(st.sampled_from([*PARTNERS]))
        flags |= {needing: True, **dict.fromkeys(PARTNERS[needing], True)}
    if not misfits or draw(st.booleans()):
        make_kernels_whole(family, flags)
    if family in ("mistral", "mixtral") or (family == "llama" and model["attention_bias"]):
        flags["fused_qkv"] = misfits and draw(one_in(4))
    flags |= {name: NO_EFFECT[name] for name in draw(st.lists(st.sampled_from([*NO_EFFECT]), max_size=3))}
    flags |= {name: OFF[name] for name in draw(st.lists(st.sampled_from([*OFF]), max_size=3)) if name not in flags}
    if not draw(one_in(5)):
        flags["torch_dtype"] = draw(TYPES)
        flags["overrides_torch_dtype"] = draw(st.booleans())
    if draw(one_in(6)):
        flags |= draw(st.sampled_from(NO_EFFECT_TOGETHER))
    if draw(st.booleans()):
        flags["cast_type"] = draw(st.sampled_from(["config", "as-declared"]))
    if draw(st.booleans()):
        flags["world_size"] = degree
    if draw(one_in(2)) and (misfits or not (family == "llama" and flags.get("vocab_parallel"))):
        flags["start_rank_id"] = draw(st.integers(0, degree - 1))
        flags["local_ranks_size"] = draw(st.integers(1, degree - flags["start_rank_id"]))
    if degree == 1 and draw(st.booleans()):
        del flags["tp_degree"]
    return flags


def make_kernels_whole(family: str, flags: dict[str, Any]) -> None:
    """What the kernels of attention cannot do without, which hardly any draw has by chance."""
    block = "attn_block_tkg_nki_kernel_enabled"
    if flags.get(block) and not flags.get("qkv_nki_kernel_enabled"):
        flags["qkv_kernel_enabled"] = True
    if family == "qwen3_moe" and any(flags.get(name) for name in RARE):
        flags["attn_block_tkg_nki_kernel_cascaded_attention"] = True


@st.composite
def degrees(draw: st.DrawFn, model: Mapping[str, Any]) -> int:
    key_value, query = model["num_key_value_heads"], model["num_attention_heads"]
    heads = [d for d in range(1, 17) if d % key_value == 0 or key_value % d == 0 or key_value == query]
    sizes = (model["vocab_size"], model["hidden_size"], model["intermediate_size"])
    even = [d for d in heads if not any(size % d for size in sizes)]
    biased = [d for d in heads if model["intermediate_size"] % d == 0]
    fitting = even if model["model_type"] in SPARSE else biased if model["mlp_bias"] else heads
    return draw(st.sampled_from(fitting))


@st.composite
def written(draw: st.DrawFn, model: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model: some of what is a default left out, or null where that is the same."""
    config = {**model, **{name: draw(TYPES) for name in ("dtype", "torch_dtype") if draw(st.booleans())}}
    family = model["model_type"]
    divided = model["hidden_size"] // model["num_attention_heads"]
    absent: dict[str, Any] = dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias"), False)
    absent |= DEFAULTS[family]
    if family == "llama":
        absent |= {"num_key_value_heads": model["num_attention_heads"], "head_dim": divided}
    for name, value in absent.items():
        if config[name] == value and draw(st.booleans()):
            del config[name]
    if family == "mistral" or draw(one_in(4)):
        config["sliding_window"] = draw(st.sampled_from([None, 32, 64]))
        config["use_sliding_window"] = draw(st.booleans())
    if family in DIVIDED_HEADS and draw(st.booleans()):
        config["head_dim"] = draw(st.sampled_from([None, 1, 128]))
    if family != "qwen3_moe" and model["num_key_value_heads"] == model["num_attention_heads"] and draw(st.booleans()):
        config["num_key_value_heads"] = None
    return config


@st.composite
def spoil(draw: st.DrawFn, model: dict[str, Any], flags: dict[str, Any]) -> None:
    """Something about the model or the flags that has no layout, or happens to have one after all."""
    degree = flags.get("tp_degree", 1)
    what = draw(st.sampled_from(["flag", "value", "ranks", "degree", "heads", "size", "ties", "experts", "nothing"]))
    if what == "flag":
        flag, value = draw(st.sampled_from([*NO_LAYOUT.items(), *UNKNOWN_EFFECT.items()]))
        flags[flag] = value
    elif what == "value":
        flag, value = draw(st.sampled_from(WRONG_VALUES))
        flags[flag] = value
    elif what == "ranks":
        flags["start_rank_id"] = draw(st.integers(0, 2 * degree))
        flags["local_ranks_size"] = draw(st.integers(1, 2 * degree))
    elif what == "degree":
        flags |= {"tp_degree": draw(st.integers(1, 24)), "world_size": draw(st.sampled_from([None, degree]))}
        flags |= {"start_rank_id": 0, "local_ranks_size": None}
    elif what == "heads":
        model["num_attention_heads"], model["num_key_value_heads"] = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    elif what == "size":
        model["head_dim"] = draw(st.integers(1, 5))
    elif what == "ties":
        model["tie_word_embeddings"] = True
    elif what == "experts":
        model["num_experts_per_tok"] = draw(st.integers(1, 4))


WRONG_VALUES: list[tuple[str, Any]] = [
    ("tp_degree", 0),
    ("tp_degree", -4),
    ("tp_degree", "8"),
    ("tp_degree", 2.0),
    ("start_rank_id", -1),
    ("local_ranks_size", 0),
    ("world_size", 128),
    ("torch_dtype", "torch.bfloat16"),
    ("torch_dtype", "int8"),
    ("cast_type", "never"),
    ("fused_qkv", "true"),
    ("mlp_kernel_enabled", 1),
    ("attn_block_cte_nki_kernel_enabled", True),
]


@st.composite
def damaged(draw: st.DrawFn, tensors: list[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """Without one of them, or one with another shape."""
    at = draw(st.integers(0, len(tensors) - 1))
    name, shape = tensors[at]
    other = [] if draw(st.booleans()) else [(name, [shape[0] + 1, *shape[1:]])]
    return [*tensors[:at], *other, *tensors[at + 1 :]]


def superfluous_tensors(model: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Tensors that checkpoints hold in addition to those of the model."""
    layer = f"model.layers.{model['num_hidden_layers']}."
    found = [("model.layers.0.self_attn.rotary_emb.inv_freq", [3]), (f"{layer}input_layernorm.weight", [4])]
    if model["tie_word_embeddings"]:
        found.append(("lm_head.weight", [model["vocab_size"], model["hidden_size"]]))
    return found


def decoder_tensors(config: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """What a checkpoint of that configuration holds, which gives every field."""
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


def attention_shapes(config: Mapping[str, Any]) -> dict[str, list[int]]:
    hidden, size = config["hidden_size"], config["head_dim"]
    heads = {w: config["num_attention_heads" if w == "q" else "num_key_value_heads"] * size for w in "qkv"}
    return {f"self_attn.{w}_proj": [heads[w], hidden] for w in "qkv"} | {"self_attn.o_proj": [hidden, heads["q"]]}


def mlp_shapes(config: Mapping[str, Any]) -> dict[str, list[int]]:
    hidden, wide, family = config["hidden_size"], config["intermediate_size"], config["model_type"]
    names = {"w1": [wide, hidden], "w3": [wide, hidden], "w2": [hidden, wide]}
    if family != "mixtral":
        names = {"gate_proj": [wide, hidden], "up_proj": [wide, hidden], "down_proj": [hidden, wide]}
    if family not in SPARSE:
        return {f"mlp.{name}": shape for name, shape in names.items()}
    module, count = "block_sparse_moe" if family == "mixtral" else "mlp", config["num_experts"]
    experts = {f"{module}.experts.{e}.{name}": shape for e in range(count) for name, shape in names.items()}
    return {f"{module}.gate": [count, hidden]} | experts


def headers(case: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of a case as its headers would describe it, with no file behind."""
    path = Path("checkpoint")
    file = SourceFile(path / "model.safetensors", 1, 1, "0")
    tensors, offset = {}, 0
    for name, shape in case["tensors"]:
        dtype = DTYPES[case.get("dtypes", {}).get(name, case["dtype"])][0]
        nbytes = prod(shape) * DTYPE_BITS[dtype] // 8
        tensors[name] = TensorSource(name, dtype, tuple(shape), file, offset, nbytes)
        offset += nbytes
    return Checkpoint(Folder(path), case["hf_config"], MappingProxyType(tensors), (file,))
