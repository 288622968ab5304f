"""Every field of NxD Inference 0.9's NeuronConfig and MoENeuronConfig, with its type.

The library warns of an unknown field and continues without it; here it is refused by its name.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.neuron_config.families import traits_of
from neuronmodel_worker.neuron_config.values import DTYPES, is_one_of, shown

Check = Callable[[object], bool]


@dataclass(frozen=True)
class FieldType:
    """The type of a field. `what` completes the sentence "has to be …"."""

    what: str
    accepts: Check


def _is_integer(value: object) -> bool:
    return type(value) is int


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _list_of(accepts: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(accepts, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


INTEGER = FieldType("an integer", _is_integer)
POSITIVE = FieldType("an integer of at least 1", lambda value: type(value) is int and value >= 1)
NOT_NEGATIVE = FieldType("an integer of at least 0", lambda value: type(value) is int and value >= 0)
NUMBER = FieldType("a number", _is_number)
SWITCH = FieldType("true or false", lambda value: isinstance(value, bool))
TEXT = FieldType("a string", _is_text)
DTYPE = FieldType(f"one of {', '.join(DTYPES)}", lambda value: value in DTYPES)
SIZES = FieldType("a list of integers, of at least one", lambda value: bool(value) and _list_of(_is_integer)(value))
BUCKETS = FieldType(
    "a list of integers or of pairs of them, of at least one",
    lambda given: bool(given) and _list_of(lambda value: _is_integer(value) or _list_of(_is_integer)(value))(given),
)
TEXTS = FieldType("a list of strings", _list_of(_is_text))
LIST = FieldType("a list", lambda value: isinstance(value, list))
ANYTHING = FieldType("anything", lambda value: True)
OBJECT = FieldType("an object", lambda value: isinstance(value, dict))
TREE = FieldType("an object or a list", lambda value: isinstance(value, (dict, list)))


def _one_of(*values: str) -> FieldType:
    return FieldType(f"one of {', '.join(values)}", lambda value: value in values)


def _fields(kind: FieldType, names: str) -> dict[str, FieldType]:
    return dict.fromkeys(names.split(), kind)


FIELDS: Mapping[str, FieldType] = {
    **_fields(
        POSITIVE,
        """
        batch_size seq_len n_active_tokens n_positions max_context_length max_length ctx_batch_size tkg_batch_size
        max_batch_size kv_cache_batch_size spec_batch_size pa_num_blocks pa_block_size tp_degree cp_degree
        mlp_cp_degree attention_dp_degree pp_degree ep_degree world_size local_ranks_size lm_head_pad_alignment_size
        cc_pipeline_tiling_factor seq_len_threshold_for_cc_tiling weight_gather_seq_len_threshold
        windowed_context_encoding_size scratchpad_page_size logical_nc_config logical_neuron_cores
        padded_hidden_size padded_intermediate_size
        """,
    ),
    **_fields(
        NOT_NEGATIVE,
        """
        max_new_tokens kv_cache_padding_size speculation_length medusa_speculation_length num_medusa_heads
        start_rank_id
        """,
    ),
    **_fields(
        SWITCH,
        """
        allow_input_truncation on_cpu output_logits vocab_parallel enable_cte_modular_flow layer_boundary_markers
        fused_qkv sequence_parallel_enabled is_continuous_batching disable_argmax_kernel async_mode enable_bucketing
        bucket_n_active_tokens quantized is_mxfp4_compute is_full_model_shuffled kv_cache_quant
        enable_fused_speculation enable_eagle_speculation eagle_rolling_buffer_kernel_enabled is_eagle3 is_eagle_draft
        enable_eagle_draft_input_norm is_medusa is_block_kv_layout is_prefix_caching save_sharded_checkpoint
        skip_sharding enable_ve_data_parallel qk_layernorm pre_rope_rmsnorm flash_decoding_enabled
        disable_kv_cache_tiling k_cache_transposed attn_kernel_enabled strided_context_parallel_kernel_enabled
        qkv_kernel_enabled qkv_nki_kernel_enabled qkv_cte_nki_kernel_fuse_rope qkv_kernel_nbsd_layout
        mlp_kernel_enabled mlp_tkg_nki_kernel_enabled fused_rmsnorm_skip_gamma mlp_kernel_fuse_residual_add
        qkv_kernel_fuse_residual_add quantized_mlp_kernel_enabled out_proj_kernel_enabled attn_tkg_nki_kernel_enabled
        attn_tkg_builtin_kernel_enabled attn_block_tkg_nki_kernel_enabled attn_block_tkg_nki_kernel_cache_update
        attn_block_tkg_nki_kernel_cascaded_attention attn_block_tkg_nki_kernel_use_online_softmax
        attn_block_tkg_nki_kernel_disable_gpsimd_sb2sb attn_block_cte_nki_kernel_enabled
        rmsnorm_quantize_kernel_enabled moe_fused_nki_kernel_enabled router_topk_nki_kernel_enabled
        expert_mlp_nki_kernel_enabled shared_mlp_nki_kernel_enabled lm_head_pad enable_spill_reload_dge
        apply_seq_ids_mask skip_warmup enable_output_completion_notifications disable_numeric_cc_token switch_cc
        overrides_torch_dtype
        """,
    ),
    **_fields(
        TEXT,
        """
        attn_cls quantized_checkpoints_path quantization_type quantization_dtype quantization_scale_dtype
        activation_quantization_type target ep_dispatch_cc_option
        """,
    ),
    **_fields(SIZES, "context_encoding_buckets prefix_buckets token_generation_buckets token_generation_batches"),
    **_fields(TEXTS, "modules_to_not_convert draft_model_modules_to_not_convert weights_to_skip_layout_optimization"),
    **_fields(
        OBJECT,
        """
        on_device_sampling_config chunked_prefill_config kv_quant_config tensor_replacement_config
        tensor_capture_config lora_config
        """,
    ),
    **_fields(DTYPE, "torch_dtype rpl_reduce_dtype attention_dtype"),
    "padding_side": _one_of("right", "left"),
    "cast_type": _one_of("config", "as-declared"),
    "buckets": BUCKETS,
    # No public source says which values these take.
    **_fields(ANYTHING, "quantization_block_size quantization_block_axis dma_order_config"),
    "token_tree_config": TREE,
    "medusa_tree": LIST,
    "quantize_clamp_bound": NUMBER,
}

MOE_FIELDS: Mapping[str, FieldType] = {
    **_fields(
        SWITCH,
        """
        use_index_calc_kernel moe_mask_padded_tokens early_expert_affinity_modulation fused_shared_experts
        shared_experts_sequence_parallel_enabled return_expert_index return_router_logits
        transpose_shared_experts_weights disable_normalize_top_k_affinities glu_mlp
        """,
    ),
    **_fields(
        NUMBER,
        """
        hidden_act_scaling_factor hidden_act_bias gate_clamp_upper_limit gate_clamp_lower_limit up_clamp_upper_limit
        up_clamp_lower_limit capacity_factor
        """,
    ),
    **_fields(POSITIVE, "moe_tp_degree moe_ep_degree"),
    **_fields(OBJECT, "hybrid_sharding_config blockwise_matmul_config router_config"),
    "glu_type": TEXT,
}

SAMPLING_FIELDS: Mapping[str, FieldType] = {
    **_fields(SWITCH, "do_sample dynamic deterministic top_k_kernel_enabled"),
    **_fields(POSITIVE, "global_topk sampling_dp_degree"),
    "top_k": INTEGER,
    "top_p": NUMBER,
    "temperature": NUMBER,
}

# The values with which a field of MOE_FIELDS counts as absent; `inference_demo` gives some of them to every model.
MOE_DEFAULTS: tuple[object, ...] = (False, {})
MOE_DEFAULTS_OF: Mapping[str, tuple[object, ...]] = {
    "moe_tp_degree": (1,),
    "moe_ep_degree": (1,),
    "glu_type": ("glu",),
    "glu_mlp": (True,),
    "hidden_act_scaling_factor": (1, 1.0),
    "hidden_act_bias": (0, 0.0),
}

NO_FIELD = frozenset({"normalize_top_k_affinities"})
"""Names that people use, and that are no fields of NeuronConfig: they are warned of where shards are laid out, and not
given to the library."""


def check_fields(fields: Mapping[str, object], model_type: str) -> None:
    """Check names and types; `None` is an absent field. Raises FlagsRefused."""
    for name, value in fields.items():
        kind = FIELDS.get(name) or MOE_FIELDS.get(name)
        if kind is None and name in NO_FIELD:
            continue
        if kind is None:
            raise FlagsRefused(_unknown(name, (*FIELDS, *MOE_FIELDS), "NxD Inference's NeuronConfig has no field"))
        if value is None:
            continue
        _check_type(name, value, kind)
        if traits_of(model_type).is_dense and name in MOE_FIELDS and not is_left_out(name, value):
            raise FlagsRefused(
                f"The field {shown(name, value)} is of models with experts, and this is a {model_type}: NxD Inference "
                "would pay no heed to it. Remove it."
            )
    sampling = fields.get("on_device_sampling_config")
    for name, value in (sampling if isinstance(sampling, dict) else {}).items():
        kind = SAMPLING_FIELDS.get(name)
        if kind is None:
            raise FlagsRefused(_unknown(name, SAMPLING_FIELDS, "NxD Inference's OnDeviceSamplingConfig has no field"))
        if value is not None:
            _check_type(f"on_device_sampling_config.{name}", value, kind)


def is_left_out(name: str, value: object) -> bool:
    """Whether a field with this value counts as absent for a model without experts."""
    return name in NO_FIELD or (
        name in MOE_FIELDS and is_one_of(value, (None, *MOE_DEFAULTS_OF.get(name, MOE_DEFAULTS)))
    )


def _check_type(name: str, value: object, kind: FieldType) -> None:
    if not kind.accepts(value):
        raise FlagsRefused(f"The field {shown(name, value)} has to be {kind.what}.")


def _unknown(name: str, known: Mapping[str, object] | tuple[str, ...], what: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Perhaps {near[0]} is meant." if near else ""
    return f"{what} {name[:100]!r}, and would go on without it.{hint} Remove it, or name one that there is."
