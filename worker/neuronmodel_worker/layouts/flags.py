"""NeuronConfig fields by what they do to shards: change them as a layout here knows, leave them alone, or refuse.

A field on none of the lists is refused by name, because a layout that may be wrong is worse than none. A refused field
at its default is the same as an absent one.
"""

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from neuronmodel_worker.failures import FlagWithoutLayout, LayoutRefused
from neuronmodel_worker.layouts.degrees import MAX_DEGREE

# NxD Inference's release whose layout this is, and our revision of it: part of every shards key.
LAYOUT_VERSION = "nxdi-0.9.0/1"


def names_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


SWITCHES = names_of(
    """
    fused_qkv vocab_parallel sequence_parallel_enabled fused_rmsnorm_skip_gamma
    qkv_kernel_enabled qkv_nki_kernel_enabled mlp_kernel_enabled mlp_tkg_nki_kernel_enabled
    out_proj_kernel_enabled attn_block_tkg_nki_kernel_enabled attn_tkg_nki_kernel_enabled
    attn_tkg_builtin_kernel_enabled attn_block_cte_nki_kernel_enabled
    """
)
CHOICES = names_of("tp_degree world_size torch_dtype overrides_torch_dtype cast_type start_rank_id local_ranks_size")

OUT_PROJECTION_KERNELS = names_of(
    """
    out_proj_kernel_enabled attn_block_tkg_nki_kernel_enabled attn_tkg_nki_kernel_enabled
    attn_tkg_builtin_kernel_enabled
    """
)

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

# Of them, those that want a second model beside the checkpoint: NxD Inference's own sharding is no way out.
OF_A_SECOND_MODEL = names_of("is_medusa enable_fused_speculation enable_eagle_speculation is_eagle_draft")

# In Qwen3-MoE these two change the layout; elsewhere they are neutral.
WITHOUT_LAYOUT_QWEN3_MOE: Mapping[str, tuple[object, ...]] = {
    "moe_ep_degree": (None, 1),
    "moe_fused_nki_kernel_enabled": (None, False),
}

# Defaults, other than null and false, of fields of which it is not known what they do; that of `pa_block_size` is
# `seq_len`, whose own is 128.
DEFAULTS: Mapping[str, object] = {"glu_type": "glu", "quantization_scale_dtype": "f32"}
DEFAULT_SEQUENCE_LENGTH = 128

# What `attn_block_cte_nki_kernel_enabled` cannot do without.
CTE_KERNEL_NEEDS = ("qkv_kernel_enabled", "qkv_nki_kernel_enabled", "attn_kernel_enabled", "out_proj_kernel_enabled")

QKV_KERNELS = ("qkv_kernel_enabled", "qkv_nki_kernel_enabled")

DTYPES: Mapping[str, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True)
class Flags:
    """The fields that a layout asks about, checked; dtype is None where the configuration of the model decides, and
    what the model's family pays no heed to is False."""

    tp_degree: int
    start_rank: int
    local_ranks: int
    dtype: str | None
    cast: Literal["config", "as-declared"]
    fused_qkv: bool
    vocab_parallel: bool
    transposed_qkv: bool
    transposed_mlp: bool
    transposed_out: bool
    skip_gamma_qkv: bool
    skip_gamma_mlp: bool

    @property
    def ranks(self) -> range:
        return range(self.start_rank, self.start_rank + self.local_ranks)

    def without(self, switches: Iterable[str]) -> "Flags":
        """`switches`, which a family pays no heed to, are off."""
        off: dict[str, Any] = dict.fromkeys(switches, False)
        return replace(self, **off)

    @property
    def transposed_fused_qkv(self) -> bool:
        """The kernels transpose the fused weight alone: q, k and v apart stay as they are."""
        return self.fused_qkv and self.transposed_qkv


def read_flags(
    neuron_config: Mapping[str, object], without_layout: Mapping[str, tuple[object, ...]] | None = None
) -> Flags:
    """`without_layout`: what one family refuses beside the general list. Raises LayoutRefused by the field's name."""
    refuse_what_has_no_layout(neuron_config, {**WITHOUT_LAYOUT, **(without_layout or {})})
    on = {name for name in SWITCHES if _switch(neuron_config, name)}
    _check_cte_kernel(neuron_config, on)
    degree = _number(neuron_config, "tp_degree", 1, least=1)
    _check_degree(degree)
    _check_world(degree, neuron_config.get("world_size"))
    ranks = _ranks(neuron_config, degree)
    skip_gamma = "fused_rmsnorm_skip_gamma" in on and "sequence_parallel_enabled" not in on
    return Flags(
        tp_degree=degree,
        start_rank=ranks.start,
        local_ranks=len(ranks),
        dtype=_dtype(neuron_config.get("torch_dtype")),
        cast=_cast(neuron_config.get("cast_type")),
        fused_qkv="fused_qkv" in on,
        vocab_parallel="vocab_parallel" in on,
        transposed_qkv=bool(on.intersection(QKV_KERNELS)),
        transposed_mlp=bool(on & {"mlp_kernel_enabled", "mlp_tkg_nki_kernel_enabled"}),
        transposed_out=bool(on & OUT_PROJECTION_KERNELS),
        skip_gamma_qkv=skip_gamma and "qkv_kernel_enabled" in on,
        skip_gamma_mlp=skip_gamma and "mlp_kernel_enabled" in on,
    )


def read_ranks(neuron_config: Mapping[str, object]) -> tuple[int, int, range]:
    """For NxD Inference's own shards: the tensor parallel degree, the ranks in all, and those that are made here.
    Raises LayoutRefused."""
    degree = _number(neuron_config, "tp_degree", 1, least=1)
    _check_degree(degree)
    others = [_number(neuron_config, name, 1, least=1) for name in ("pp_degree", "ep_degree")]
    world_size = _number(neuron_config, "world_size", degree * prod(others), least=1)
    _check_degree(world_size, "world_size")
    return degree, world_size, _ranks(neuron_config, world_size, "world_size" if world_size != degree else "tp_degree")


def torch_dtype_yields(neuron_config: Mapping[str, object]) -> bool:
    """Whether config.json's type is to win over `torch_dtype`. Raises LayoutRefused."""
    return neuron_config.get("overrides_torch_dtype") is not None and not _switch(
        neuron_config, "overrides_torch_dtype"
    )


def refuse_what_has_no_layout(
    neuron_config: Mapping[str, object], without_layout: Mapping[str, tuple[object, ...]]
) -> None:
    known = SWITCHES | CHOICES | NEUTRAL | without_layout.keys()
    for name, value in neuron_config.items():
        if name in OF_A_SECOND_MODEL and not is_one_of(value, without_layout[name]):
            raise LayoutRefused(
                f"{_shown(name, value)} wants a second model, and there is one checkpoint alone. Remove it."
            )
        if name in without_layout and not is_one_of(value, without_layout[name]):
            raise FlagWithoutLayout(
                f"There is no layout for {_shown(name, value)}, which changes the shards.", "Remove it"
            )
        if name not in known and not is_one_of(value, (None, False, _default(neuron_config, name))):
            raise FlagWithoutLayout(
                f"It is not known what {_shown(name, value)} does to the shards, and shards that may be wrong are not "
                "made.",
                "Remove it",
            )


def is_one_of(value: object, values: tuple[object, ...]) -> bool:
    """True is not 1 here, though Python holds them equal."""
    return any(type(value) is type(each) and value == each for each in values)


def _default(neuron_config: Mapping[str, object], name: str) -> object:
    if name == "pa_block_size":
        return neuron_config.get("seq_len", DEFAULT_SEQUENCE_LENGTH)
    return DEFAULTS.get(name)


def _shown(name: str, value: object) -> str:
    return f"{name[:100]}={reprlib.repr(value)}"


def _switch(neuron_config: Mapping[str, object], name: str) -> bool:
    value = neuron_config.get(name)
    if value is not None and not isinstance(value, bool):
        raise LayoutRefused(f"{_shown(name, value)} has to be true or false.")
    return bool(value)


def _number(neuron_config: Mapping[str, object], name: str, default: int, least: int) -> int:
    value = neuron_config.get(name)
    if value is None:
        return default
    if type(value) is not int or value < least:
        raise LayoutRefused(f"{_shown(name, value)} has to be an integer of at least {least}.")
    return value


def _dtype(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in DTYPES):
        raise LayoutRefused(f"{_shown('torch_dtype', value)} has to be one of {', '.join(DTYPES)}.")
    return None if value is None else DTYPES[value]


def _cast(value: object) -> Literal["config", "as-declared"]:
    if value in (None, "config"):
        return "config"
    if value == "as-declared":
        return "as-declared"
    raise LayoutRefused(f"{_shown('cast_type', value)} has to be config or as-declared.")


def _check_degree(degree: int, name: str = "tp_degree") -> None:
    if degree > MAX_DEGREE:
        raise LayoutRefused(
            f"{_shown(name, degree)} would make as many files, and at most {MAX_DEGREE} ranks are planned for."
        )


def _check_world(degree: int, world_size: object) -> None:
    if not is_one_of(world_size, (None, degree)):
        raise FlagWithoutLayout(
            f"There is no layout for {_shown('world_size', world_size)} with tp_degree={degree}: they have to be "
            "equal.",
            "Remove world_size",
        )


def _ranks(neuron_config: Mapping[str, object], number: int, name: str = "tp_degree") -> range:
    """Those that are made, of `number` in all, which the field `name` says."""
    start = _number(neuron_config, "start_rank_id", 0, least=0)
    local = _number(neuron_config, "local_ranks_size", number, least=1)
    if start + local > number:
        raise LayoutRefused(
            f"Ranks {start} to {start + local - 1} are asked for (start_rank_id={start}, local_ranks_size={local}), "
            f"and {name}={number} has ranks 0 to {number - 1}. {_ranks_that_fit(start, number)}"
        )
    return range(start, start + local)


def _ranks_that_fit(start: int, number: int) -> str:
    if start >= number:
        return f"A start_rank_id of at most {number - 1} fits."
    return f"From rank {start} a local_ranks_size of at most {number - start} fits."


def _check_cte_kernel(neuron_config: Mapping[str, object], on: set[str]) -> None:
    if "attn_block_cte_nki_kernel_enabled" not in on:
        return
    missing = [name for name in CTE_KERNEL_NEEDS if neuron_config.get(name) is not True]
    if missing:
        raise LayoutRefused(
            f"attn_block_cte_nki_kernel_enabled needs {', '.join(missing)} set to true as well. Set them, or remove it."
        )


def warnings_of(neuron_config: Mapping[str, object]) -> list[str]:
    """What NxD Inference itself would not start with, though it has a layout."""
    alone = not any(neuron_config.get(name) for name in QKV_KERNELS)
    if neuron_config.get("attn_block_tkg_nki_kernel_enabled") and alone:
        return [
            "NxD Inference does not start with attn_block_tkg_nki_kernel_enabled and neither of "
            f"{' and '.join(QKV_KERNELS)}."
        ]
    return []
