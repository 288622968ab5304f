"""What each field of NeuronConfig does to shards: it changes them in a known way, leaves them alone, or is refused.

A field on none of the lists is refused by name, because a layout that may be wrong is worse than none. A refused field
at its default counts as absent.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from neuronmodel_worker.failures import FlagWithoutLayout, LayoutRefused
from neuronmodel_worker.neuron_config.fields import NO_FIELD
from neuronmodel_worker.neuron_config.values import is_one_of, names_of, shown

SWITCHES = names_of(
    """
    fused_qkv vocab_parallel sequence_parallel_enabled fused_rmsnorm_skip_gamma
    qkv_kernel_enabled qkv_nki_kernel_enabled mlp_kernel_enabled mlp_tkg_nki_kernel_enabled
    out_proj_kernel_enabled attn_block_tkg_nki_kernel_enabled attn_tkg_nki_kernel_enabled
    attn_tkg_builtin_kernel_enabled attn_block_cte_nki_kernel_enabled
    """
)
CHOICES = names_of("tp_degree world_size torch_dtype overrides_torch_dtype cast_type start_rank_id local_ranks_size")

NEUTRAL = names_of(
    """
    attn_kernel_enabled cc_pipeline_tiling_factor logical_nc_config async_mode is_continuous_batching
    kv_cache_quant k_cache_transposed is_prefix_caching output_logits lm_head_pad lm_head_pad_alignment_size
    qk_layernorm mlp_kernel_fuse_residual_add qkv_kernel_fuse_residual_add qkv_kernel_nbsd_layout rpl_reduce_dtype
    speculation_length scratchpad_page_size weights_to_skip_layout_optimization skip_warmup save_sharded_checkpoint
    skip_sharding on_device_sampling_config disable_argmax_kernel
    batch_size padding_side allow_input_truncation seq_len n_active_tokens n_positions on_cpu max_context_length
    max_new_tokens max_length ctx_batch_size tkg_batch_size max_batch_size kv_cache_batch_size kv_cache_padding_size
    enable_bucketing buckets bucket_n_active_tokens context_encoding_buckets prefix_buckets token_generation_buckets
    token_generation_batches spec_batch_size windowed_context_encoding_size pa_num_blocks
    enable_cte_modular_flow layer_boundary_markers weight_gather_seq_len_threshold attn_cls
    quantization_type quantization_dtype is_mxfp4_compute modules_to_not_convert eagle_rolling_buffer_kernel_enabled
    is_eagle3 enable_eagle_draft_input_norm medusa_speculation_length num_medusa_heads
    enable_ve_data_parallel pre_rope_rmsnorm flash_decoding_enabled disable_kv_cache_tiling
    attn_block_tkg_nki_kernel_use_online_softmax attn_block_tkg_nki_kernel_disable_gpsimd_sb2sb quantize_clamp_bound
    router_topk_nki_kernel_enabled expert_mlp_nki_kernel_enabled shared_mlp_nki_kernel_enabled
    seq_len_threshold_for_cc_tiling target enable_spill_reload_dge apply_seq_ids_mask
    enable_output_completion_notifications padded_intermediate_size disable_numeric_cc_token switch_cc
    ep_dispatch_cc_option
    hidden_act_scaling_factor hidden_act_bias gate_clamp_upper_limit gate_clamp_lower_limit up_clamp_upper_limit
    up_clamp_lower_limit use_index_calc_kernel moe_mask_padded_tokens early_expert_affinity_modulation
    fused_shared_experts shared_experts_sequence_parallel_enabled return_expert_index return_router_logits
    moe_tp_degree transpose_shared_experts_weights blockwise_matmul_config router_config
    disable_normalize_top_k_affinities moe_ep_degree moe_fused_nki_kernel_enabled
    is_block_kv_layout pa_block_size qkv_cte_nki_kernel_fuse_rope attn_block_tkg_nki_kernel_cascaded_attention
    attn_block_tkg_nki_kernel_cache_update kv_quant_config attention_dtype logical_neuron_cores capacity_factor
    tensor_capture_config quantization_block_size quantization_block_axis quantization_scale_dtype glu_type
    draft_model_modules_to_not_convert token_tree_config medusa_tree dma_order_config hybrid_sharding_config
    is_full_model_shuffled glu_mlp
    """
)

# Fields that change the layout and have none here, with the values that mean "off".
WITHOUT_LAYOUT: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("cp_degree", "mlp_cp_degree", "attention_dp_degree", "pp_degree", "ep_degree"), (None, 1)),
    "lora_config": (None, False),
    "activation_quantization_type": (None, False),
    "quantized": (None, False),
    "quantized_checkpoints_path": (None, ""),
    "quantized_mlp_kernel_enabled": (None, False),
    "is_medusa": (None, False),
    "enable_fused_speculation": (None, False),
    "enable_eagle_speculation": (None, False),
    "is_eagle_draft": (None, False),
    "padded_hidden_size": (None,),
}

# Those of them that need a second model: NxD Inference's own sharding does not help.
NEEDS_SECOND_MODEL = names_of("is_medusa enable_fused_speculation enable_eagle_speculation is_eagle_draft")

EXPERT_KERNEL_MULTIPLE: Final = 128

# In addition, in one family only; in the others they are neutral.
WITHOUT_LAYOUT_IN_FAMILY: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "qwen3_moe": {
        "moe_ep_degree": (None, 1),
        "moe_fused_nki_kernel_enabled": (None, False),
        "hybrid_sharding_config": (None,),
    }
}

# Members of configurations that change the layout, with the values that do not: others pad the experts, or leave out
# the tensor for their ranks.
MEMBERS_WITHOUT_LAYOUT: Mapping[str, Mapping[tuple[str, str], tuple[object, ...]]] = {
    "qwen3_moe": {
        ("blockwise_matmul_config", "use_shard_on_intermediate_dynamic_while"): (None, False),
        ("blockwise_matmul_config", "parallelize_token_to_block_mapping"): (True,),
    }
}


def refuse_flags_without_layout(
    neuron_config: Mapping[str, object], family: str, model: Mapping[str, object] | None = None
) -> None:
    """Raises LayoutRefused for the first field without a layout. `model` is config.json, where it is known."""
    for name, refusal in flags_without_layout(neuron_config, family):
        if not _has_no_effect(name, neuron_config, model or {}):
            raise refusal


def _has_no_effect(name: str, neuron_config: Mapping[str, object], model: Mapping[str, object]) -> bool:
    """Whether a field has no effect on the experts of this Qwen3-MoE model because of their size: NxD Inference fuses
    their kernel only where `moe_tp_degree` leaves a multiple of 128."""
    size, degree = model.get("moe_intermediate_size"), neuron_config.get("moe_tp_degree") or 1
    if name != "moe_fused_nki_kernel_enabled" or type(size) is not int or type(degree) is not int:
        return False
    return degree > 0 and size // degree % EXPERT_KERNEL_MULTIPLE != 0


def flags_without_layout(neuron_config: Mapping[str, object], family: str) -> Iterator[tuple[str, LayoutRefused]]:
    """Each field whose value has no layout in that family, with the refusal."""
    without = {**WITHOUT_LAYOUT, **WITHOUT_LAYOUT_IN_FAMILY.get(family, {})}
    known = SWITCHES | CHOICES | NEUTRAL | NO_FIELD | without.keys()
    for name, value in neuron_config.items():
        if name in without:
            if not is_one_of(value, without[name]):
                yield (
                    name,
                    _second_model_refusal(name, value) if name in NEEDS_SECOND_MODEL else _layout_refusal(name, value),
                )
        elif name not in known and not is_one_of(value, (None, False)):
            yield name, _unknown_refusal(name, value)
    yield from _members_without_layout(neuron_config, family)
    yield from _types_without_layout(neuron_config)


def _layout_refusal(name: str, value: object) -> LayoutRefused:
    return FlagWithoutLayout(f"There is no layout for {shown(name, value)}, which changes the shards.", "Remove it")


def _second_model_refusal(name: str, value: object) -> LayoutRefused:
    return LayoutRefused(f"{shown(name, value)} wants a second model, and there is one checkpoint alone. Remove it.")


def _unknown_refusal(name: str, value: object) -> LayoutRefused:
    return FlagWithoutLayout(
        f"It is not known what {shown(name, value)} does to the shards, and shards that may be wrong are not made.",
        "Remove it",
    )


def _members_without_layout(neuron_config: Mapping[str, object], family: str) -> Iterator[tuple[str, LayoutRefused]]:
    for (name, member), off in MEMBERS_WITHOUT_LAYOUT.get(family, {}).items():
        members = neuron_config.get(name)
        if isinstance(members, Mapping) and member in members and not is_one_of(members[member], off):
            yield name, _layout_refusal(f"{name}.{member}", members[member])


def _types_without_layout(neuron_config: Mapping[str, object]) -> Iterator[tuple[str, LayoutRefused]]:
    """Types that have no layout: with `cast_type: as-declared`, parameters of another type than `torch_dtype`."""
    if neuron_config.get("cast_type") != "as-declared":
        return
    attention, yields = neuron_config.get("attention_dtype"), neuron_config.get("overrides_torch_dtype") is False
    if attention is not None and (yields or attention != neuron_config.get("torch_dtype")):
        yield "attention_dtype", _layout_refusal("attention_dtype", attention)


def flag_warnings(neuron_config: Mapping[str, object]) -> list[str]:
    return [
        f"NxD Inference's NeuronConfig has no field {name}, and pays no heed to it."
        for name in sorted(NO_FIELD & neuron_config.keys())
    ]
