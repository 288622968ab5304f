"""Combinations of fields that NxD Inference itself refuses, with an assertion or an error that names no field.

`shard`, `plan`, `prepare` and `from-command` all refuse them by this one table. Combinations that the library builds
and then answers wrongly, or that a server cannot run, are in `engines.nxdi.flag_checks`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from neuronmodel_worker.failures import CombinationRefused
from neuronmodel_worker.neuron_config.derived import IMPLIED, QUANTIZES_MLP, derived
from neuronmodel_worker.neuron_config.families import ExpertCounts, traits_of
from neuronmodel_worker.neuron_config.values import DEFAULT_DTYPE, DEFAULT_SEQUENCE_LENGTH, DTYPES, is_on, shown

QKV_KERNELS: Final = ("qkv_kernel_enabled", "qkv_nki_kernel_enabled")
ATTENTION_KERNEL: Final = "attn_block_tkg_nki_kernel_enabled"
CASCADED: Final = "attn_block_tkg_nki_kernel_cascaded_attention"

# For a field that is on: groups of fields, of each of which one has to be on or set too.
NEEDS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "quantized": (("quantized_checkpoints_path",),),
    "is_full_model_shuffled": (("is_mxfp4_compute", "is_eagle_draft"),),
    "is_block_kv_layout": (("is_prefix_caching",),),
    "qkv_cte_nki_kernel_fuse_rope": (("qkv_kernel_enabled",), ("qkv_nki_kernel_enabled",)),
    "attn_block_tkg_nki_kernel_cache_update": ((ATTENTION_KERNEL,),),
    CASCADED: ((ATTENTION_KERNEL,),),
    "attn_block_cte_nki_kernel_enabled": (
        ("qkv_kernel_enabled",),
        ("qkv_nki_kernel_enabled",),
        ("out_proj_kernel_enabled",),
    ),
    "rmsnorm_quantize_kernel_enabled": (("quantized_mlp_kernel_enabled",),),
}
EXCLUDES: Final[tuple[tuple[str, str], ...]] = (
    ("is_medusa", "async_mode"),
    ("quantized_mlp_kernel_enabled", "activation_quantization_type"),
    ("mlp_kernel_enabled", "activation_quantization_type"),
    ("k_cache_transposed", "flash_decoding_enabled"),
    ("k_cache_transposed", "is_block_kv_layout"),
    (ATTENTION_KERNEL, "flash_decoding_enabled"),
    ("is_prefix_caching", "speculation_length"),
    *(
        ("token_generation_batches", feature)
        for feature in (
            "speculation_length", "enable_fused_speculation", "is_medusa", "token_tree_config",
            "is_prefix_caching", "is_block_kv_layout",
        )
    ),
)  # fmt: skip
LLAMA_ATTENTION: Final = "NeuronLlamaAttention"
QUANTIZED: Final = ("quantized", *QUANTIZES_MLP)
NOT_WITH_CHUNKED_ATTENTION: Final = (
    "flash_decoding_enabled", "attn_tkg_builtin_kernel_enabled", "attn_tkg_nki_kernel_enabled", "is_prefix_caching",
)  # fmt: skip
DISPATCHES: Final = ("AR_AG", "RS_AG", "AG_AR")
# The names in transformers' ACT2FN, and those of NxD's experts.
ACTIVATIONS: Final = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu", "relu2", "relu6",
    "sigmoid", "silu", "swish", "tanh", "xielu",
)  # fmt: skip
ACTIVATIONS_OF_EXPERTS: Final = ("gelu", "leaky_relu", "relu", "sigmoid", "silu", "tanh")
BLOCK_STRATEGIES: Final = ("HI_LO", "PING_PONG")


def refuse_combinations(given: Mapping[str, Any], model: Mapping[str, object], family: str) -> None:
    """Raises CombinationRefused for the first combination that NxD Inference does not build. `given` are NeuronConfig's
    fields, each of its type; `model` is config.json."""
    for sentence in refusals(given, model, family):
        raise CombinationRefused(sentence)


def refusals(given: Mapping[str, Any], model: Mapping[str, object], family: str) -> Iterator[str]:
    """A sentence for each combination that NxD Inference does not build. `model` is empty where config.json is not
    known: then nothing is refused because of its defaults."""
    fields = _GivenFields(given)
    yield from _length_refusals(fields)
    yield from _bucket_refusals(fields)
    yield from _partner_refusals(fields)
    yield from _parallelism_refusals(fields)
    yield from _type_refusals(fields)
    yield from _family_refusals(fields, model, family)


class _GivenFields:
    """The fields as they were given, and as the library derives them."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}
        self.derived = derived(given)

    def is_on(self, name: str) -> bool:
        return is_on(self.derived, name)

    def number(self, name: str, default: int) -> int:
        """An integer field, or the default; types are checked elsewhere."""
        value = self.derived.get(name)
        return value if type(value) is int else default

    def shown(self, name: str) -> str:
        """The field and its value for a sentence; where another field turns `name` on, that one."""
        if not is_on(self.given, name):
            implying = (each for each, implied in IMPLIED.items() if implied == name and is_on(self.given, each))
            name = next(implying, name)
        return shown(name, self.given.get(name))

    @property
    def sequence(self) -> int:
        return self.number("seq_len", DEFAULT_SEQUENCE_LENGTH)

    @property
    def longest(self) -> int:
        return self.number("max_length", self.sequence)

    @property
    def context(self) -> int:
        return self.number("max_context_length", self.sequence)

    @property
    def batch(self) -> int:
        """The batch of the graph that generates tokens."""
        return self.number("tkg_batch_size", self.number("batch_size", 1))


def _length_refusals(fields: _GivenFields) -> Iterator[str]:
    if fields.context > fields.longest:
        limit = "max_length" if fields.longest < fields.sequence else "seq_len"
        yield (
            f"max_context_length={fields.context} is more than {limit}={fields.longest}: a prompt is a part of its "
            f"sequence. Lower max_context_length, or raise {limit}."
        )


def _bucket_refusals(fields: _GivenFields) -> Iterator[str]:
    limits = {
        "context_encoding_buckets": ("max_context_length", fields.context),
        "token_generation_buckets": ("max_length", fields.longest),
        "token_generation_batches": ("tkg_batch_size", fields.batch),
    }
    for name, (of, limit) in limits.items():
        if (largest := _largest(fields.given.get(name))) > limit:
            yield f"{fields.shown(name)} has one of {largest}, more than {of}={limit}. Remove it."


def _largest(buckets: object) -> int:
    numbers = [each for each in buckets if type(each) is int] if isinstance(buckets, list) else []
    return max(numbers, default=0)


def _partner_refusals(fields: _GivenFields) -> Iterator[str]:
    # The library checks this before it turns the switch on for the kernel's older names, which need no partner.
    if is_on(fields.given, ATTENTION_KERNEL) and not any(map(fields.is_on, QKV_KERNELS)):
        yield _needs(fields, ATTENTION_KERNEL, [QKV_KERNELS])
    for name, needs in NEEDS.items():
        missing = [partners for partners in needs if not any(map(fields.is_on, partners))]
        if missing and fields.is_on(name):
            yield _needs(fields, name, missing)
    if fields.is_on("attn_block_cte_nki_kernel_enabled") and fields.given.get("attn_kernel_enabled") is False:
        yield (
            "attn_block_cte_nki_kernel_enabled=True turns attn_kernel_enabled on, which is set to false. Remove one of "
            "them."
        )
    if fields.is_on("chunked_prefill_config"):
        yield "NxD Inference does not read prompts in chunks yet. Remove chunked_prefill_config."
    captures = fields.is_on("tensor_capture_config") and not is_on(fields.given, "output_logits")
    if captures and not fields.is_on("on_device_sampling_config"):
        yield _needs(fields, "tensor_capture_config", [("on_device_sampling_config",)])
    for one, other in EXCLUDES:
        if fields.is_on(one) and fields.is_on(other):
            yield f"{fields.shown(one)} and {fields.shown(other)} do not go together. Remove one of them."


def _needs(fields: _GivenFields, name: str, missing: Sequence[tuple[str, ...]]) -> str:
    partners = ", ".join(" or ".join(each) for each in missing)
    return (
        f"{fields.shown(name)} needs {partners} as well. Set {'it' if len(missing) == 1 else 'them'}, or remove {name}."
    )


def _parallelism_refusals(fields: _GivenFields) -> Iterator[str]:
    degree, cp, dp = (fields.number(name, 1) for name in ("tp_degree", "cp_degree", "attention_dp_degree"))
    for name, part in (("cp_degree", cp), ("attention_dp_degree", dp)):
        if degree % part:
            yield f"tp_degree={degree} is not a multiple of {name}={part}. Change one of them."
    if fields.number("mlp_cp_degree", 1) > 1 and not fields.is_on("sequence_parallel_enabled"):
        yield f"{fields.shown('mlp_cp_degree')} needs sequence_parallel_enabled as well. Set it."
    if fields.is_on("strided_context_parallel_kernel_enabled") and cp == 1:
        yield "strided_context_parallel_kernel_enabled=True needs a cp_degree above 1. Set it, or remove the kernel."
    if dp > 1 and not fields.is_on("is_continuous_batching"):
        yield f"attention_dp_degree={dp} needs is_continuous_batching as well. Set it."
    if fields.batch % dp:
        yield f"attention_dp_degree={dp} has to divide the batch of {fields.batch}. Change one of them."
    updates = fields.is_on("attn_block_tkg_nki_kernel_cache_update")
    if dp > 1 and updates and not fields.is_on(CASCADED):
        yield (
            f"attn_block_tkg_nki_kernel_cache_update=True with attention_dp_degree={dp} needs {CASCADED} as well. Set "
            "it, or remove one of them."
        )
    if cp > 1 and dp > 1 and cp % dp:
        yield f"cp_degree={cp} is not a multiple of attention_dp_degree={dp}. Change one of them."
    dispatch = fields.given.get("ep_dispatch_cc_option", DISPATCHES[0])
    if dispatch not in DISPATCHES:
        yield f"{fields.shown('ep_dispatch_cc_option')} has to be one of {', '.join(DISPATCHES)}."
    if dispatch == "RS_AG" and degree > fields.batch:
        yield (
            f"ep_dispatch_cc_option='RS_AG' needs a batch of at least tp_degree={degree}, and it is {fields.batch}. "
            "Remove it."
        )


def _type_refusals(fields: _GivenFields) -> Iterator[str]:
    quantized = [name for name in QUANTIZED if fields.is_on(name)]
    kernels = [name for name in QKV_KERNELS if fields.is_on(name)]
    if quantized and kernels and not fields.is_on("modules_to_not_convert"):
        yield (
            f"{fields.shown(quantized[0])} with {fields.shown(kernels[0])} needs modules_to_not_convert as well. "
            f"Set it, or remove {kernels[0]}."
        )
    attention, model = fields.given.get("attention_dtype"), fields.given.get("torch_dtype", DEFAULT_DTYPE)
    if attention is not None and attention != model and fields.given.get("cast_type") != "as-declared":
        yield (
            f"attention_dtype={attention} is not torch_dtype={model}, and everything is cast to the latter. Set "
            "cast_type=as-declared, or remove attention_dtype."
        )


def _family_refusals(fields: _GivenFields, model: Mapping[str, object], family: str) -> Iterator[str]:
    yield from _window_refusals(fields, model, family)
    yield from _chunked_attention_refusals(fields, model)
    experts = traits_of(family).experts
    activation, known = model.get("hidden_act", "silu"), ACTIVATIONS_OF_EXPERTS if experts else ACTIVATIONS
    if isinstance(activation, str) and activation not in known:
        yield (
            f"config.json gives hidden_act {activation[:40]!r}, and NxD Inference computes {', '.join(known)} alone. "
            "Use another checkpoint."
        )
    if family == "qwen3_moe" and fields.is_on(ATTENTION_KERNEL) and not fields.is_on(CASCADED):
        yield (
            f"{fields.shown(ATTENTION_KERNEL)} needs {CASCADED} as well in a Qwen3-MoE model. Set it, or remove the "
            "kernel."
        )
    if family == "llama" and fields.given.get("attn_cls", LLAMA_ATTENTION) != LLAMA_ATTENTION:
        yield f"{fields.shown('attn_cls')} is no attention of a Llama model's. Remove it."
    if family == "llama" and fields.is_on("flash_decoding_enabled"):
        yield from _flash_decoding_refusals(fields, model)
    if experts:
        yield from _expert_refusals(fields, model, experts)
        yield from _expert_field_refusals(fields, family)


def _window_refusals(fields: _GivenFields, model: Mapping[str, object], family: str) -> Iterator[str]:
    """Refusals by `sliding_window`, which transformers reads as follows: Mistral's default is 4096, and Qwen's has an
    effect with `use_sliding_window` only."""
    asked = fields.given.get("windowed_context_encoding_size")
    if not model:
        return  # without config.json its defaults are not known either
    rule = traits_of(family).window
    window = model.get("sliding_window", None if rule.has_switch else rule.default)
    if rule.has_switch and model.get("use_sliding_window") is not True:
        window = None
    if asked is not None and window is not None and asked != window:
        yield (
            f"windowed_context_encoding_size={asked} is not config.json's sliding_window, {window}. Set it to the "
            "same, or remove it."
        )


def _chunked_attention_refusals(fields: _GivenFields, model: Mapping[str, object]) -> Iterator[str]:
    chunk = model.get("attention_chunk_size")
    if type(chunk) is not int or chunk >= fields.sequence:
        return
    with_other_values = {
        "padding_side": fields.given.get("padding_side") == "left",
        "attention_dp_degree": fields.number("attention_dp_degree", 1) > 1,
    }
    asked = {name: is_on(fields.given, name) for name in NOT_WITH_CHUNKED_ATTENTION} | with_other_values
    for name, is_asked in asked.items():
        if is_asked:
            yield (
                f"{fields.shown(name)} does not go with attention in chunks, and config.json gives "
                f"attention_chunk_size {chunk}, less than seq_len={fields.sequence}. Remove it."
            )


def _flash_decoding_refusals(fields: _GivenFields, model: Mapping[str, object]) -> Iterator[str]:
    query = model.get("num_attention_heads")
    key_value = model.get("num_key_value_heads") or query
    if type(query) is not int or type(key_value) is not int or query < 1 or key_value < 1:
        return  # the layout refuses them
    sharing = min(fields.number("tp_degree", 1), query)
    if sharing % key_value:
        yield (
            f"flash_decoding_enabled=True divides {sharing} ranks among {key_value} key/value heads, and that leaves a "
            "rest. Change tp_degree, or remove it."
        )


def _expert_refusals(fields: _GivenFields, model: Mapping[str, object], experts: ExpertCounts) -> Iterator[str]:
    """Refusals by the experts of a token. Their affinities are scaled to a sum of 1, whatever
    `disable_normalize_top_k_affinities` is, and the library needs two or more for that."""
    count = model.get(experts.field, experts.experts)
    of_a_token = model.get("num_experts_per_tok", experts.of_a_token)
    if type(count) is not int or type(of_a_token) is not int:
        return  # the layout refuses them
    if not 2 <= of_a_token <= count:
        yield (
            f"config.json gives num_experts_per_tok {of_a_token}, and NxD Inference builds a mixture of {count} "
            f"experts where a token takes from 2 to {count} of them. Use a checkpoint whose tokens do."
        )


def _expert_field_refusals(fields: _GivenFields, family: str) -> Iterator[str]:
    if fields.given.get("glu_mlp") is False:
        yield "glu_mlp=False is no mixture of experts that NxD Inference builds. Remove it."
    blocks = fields.given.get("blockwise_matmul_config")
    strategy = blocks.get("block_sharding_strategy") if isinstance(blocks, Mapping) else None
    if isinstance(strategy, str) and strategy not in BLOCK_STRATEGIES:
        yield (
            f"{shown('blockwise_matmul_config.block_sharding_strategy', strategy)} has to be one of "
            f"{', '.join(BLOCK_STRATEGIES)}."
        )
    router = fields.given.get("router_config")
    for name, value in (router if isinstance(router, Mapping) else {}).items():
        if name not in ("act_fn", "dtype"):
            yield f"{shown(f'router_config.{name}', value)} is no member of a router's configuration. Remove it."
        elif name == "dtype" and value not in (None, *DTYPES):
            yield f"{shown('router_config.dtype', value)} has to be one of {', '.join(DTYPES)}."
    if family == "qwen3_moe" and fields.given.get("glu_type", "glu") not in ("glu", "swiglu"):
        yield f"{fields.shown('glu_type')} has to be glu or swiglu."
