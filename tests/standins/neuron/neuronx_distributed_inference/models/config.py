"""NeuronConfig, InferenceConfig, OnDeviceSamplingConfig: what they take without a word, warn about and refuse."""

import copy
import inspect
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from neuron_standin.record import record
from neuronx_distributed.utils.model_utils import get_platform_lnc
from neuronx_distributed.utils.utils import hardware
from torch_neuronx.utils import get_platform_target

CONFIG_FILE = "neuron_config.json"
LONG_CONTEXT = 32 * 1024
LONG_CONTEXT_SCRATCHPAD_PAGE_SIZE = 1024

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Fields whose default depends on nothing.
DEFAULTS: Mapping[str, Any] = {
    "allow_input_truncation": False,
    "on_cpu": False,
    "output_logits": False,
    "vocab_parallel": False,
    "enable_cte_modular_flow": False,
    "layer_boundary_markers": False,
    "fused_qkv": False,
    "sequence_parallel_enabled": False,
    "weight_gather_seq_len_threshold": 32768,
    "attn_cls": "NeuronLlamaAttention",
    "is_continuous_batching": False,
    "kv_cache_padding_size": 0,
    "disable_argmax_kernel": False,
    "async_mode": False,
    "enable_bucketing": False,
    "bucket_n_active_tokens": False,
    "context_encoding_buckets": None,
    "prefix_buckets": None,
    "token_generation_buckets": None,
    "token_generation_batches": None,
    "quantized": False,
    "quantized_checkpoints_path": None,
    "quantization_type": "per_tensor_symmetric",
    "quantization_dtype": "int8",
    "quantization_block_size": None,
    "quantization_block_axis": None,
    "quantization_scale_dtype": "f32",
    "is_mxfp4_compute": False,
    "is_full_model_shuffled": False,
    "modules_to_not_convert": None,
    "draft_model_modules_to_not_convert": None,
    "kv_cache_quant": False,
    "speculation_length": 0,
    "enable_fused_speculation": False,
    "enable_eagle_speculation": False,
    "eagle_rolling_buffer_kernel_enabled": False,
    "is_eagle3": False,
    "is_eagle_draft": False,
    "enable_eagle_draft_input_norm": False,
    "token_tree_config": None,
    "is_medusa": False,
    "medusa_speculation_length": 0,
    "num_medusa_heads": 0,
    "medusa_tree": None,
    "is_block_kv_layout": False,
    "is_prefix_caching": False,
    "windowed_context_encoding_size": None,
    "chunked_prefill_config": None,
    "kv_quant_config": None,
    "tensor_replacement_config": None,
    "tensor_capture_config": None,
    "lora_config": None,
    "tp_degree": 1,
    "cp_degree": 1,
    "mlp_cp_degree": 1,
    "attention_dp_degree": 1,
    "pp_degree": 1,
    "ep_degree": 1,
    "save_sharded_checkpoint": False,
    "skip_sharding": False,
    "enable_ve_data_parallel": False,
    "qk_layernorm": False,
    "pre_rope_rmsnorm": False,
    "world_size": None,
    "start_rank_id": 0,
    "local_ranks_size": None,
    "flash_decoding_enabled": False,
    "disable_kv_cache_tiling": False,
    "k_cache_transposed": False,
    "attn_kernel_enabled": None,
    "strided_context_parallel_kernel_enabled": False,
    "qkv_kernel_enabled": False,
    "qkv_nki_kernel_enabled": False,
    "qkv_cte_nki_kernel_fuse_rope": False,
    "qkv_kernel_nbsd_layout": False,
    "mlp_kernel_enabled": False,
    "mlp_tkg_nki_kernel_enabled": False,
    "fused_rmsnorm_skip_gamma": False,
    "mlp_kernel_fuse_residual_add": False,
    "qkv_kernel_fuse_residual_add": False,
    "quantized_mlp_kernel_enabled": False,
    "out_proj_kernel_enabled": False,
    "activation_quantization_type": None,
    "attn_tkg_nki_kernel_enabled": False,
    "attn_tkg_builtin_kernel_enabled": False,
    "attn_block_tkg_nki_kernel_enabled": False,
    "attn_block_tkg_nki_kernel_cache_update": False,
    "attn_block_tkg_nki_kernel_cascaded_attention": False,
    "attn_block_tkg_nki_kernel_use_online_softmax": True,
    "attn_block_tkg_nki_kernel_disable_gpsimd_sb2sb": False,
    "attn_block_cte_nki_kernel_enabled": False,
    "rmsnorm_quantize_kernel_enabled": False,
    "quantize_clamp_bound": float("inf"),
    "moe_fused_nki_kernel_enabled": None,
    "router_topk_nki_kernel_enabled": None,
    "expert_mlp_nki_kernel_enabled": None,
    "shared_mlp_nki_kernel_enabled": None,
    "lm_head_pad_alignment_size": 1,
    "cc_pipeline_tiling_factor": 2,
    "seq_len_threshold_for_cc_tiling": 16384,
    "target": None,
    "enable_spill_reload_dge": False,
    "dma_order_config": None,
    "apply_seq_ids_mask": False,
    "skip_warmup": False,
    "enable_output_completion_notifications": False,
    "padded_hidden_size": None,
    "padded_intermediate_size": None,
    "disable_numeric_cc_token": False,
    "switch_cc": False,
    "ep_dispatch_cc_option": "AR_AG",
}
CTE_KERNEL_NEEDS = ("qkv_kernel_enabled", "qkv_nki_kernel_enabled", "attn_kernel_enabled", "out_proj_kernel_enabled")
BATCHES = ("ctx_batch_size", "tkg_batch_size", "max_batch_size", "kv_cache_batch_size", "spec_batch_size")


class IncompatibleConfigError(ValueError):
    pass


def to_torch_dtype(dtype_str: str) -> torch.dtype:
    assert dtype_str in DTYPES, f"no such dtype: {dtype_str}"
    return DTYPES[dtype_str]


def to_dict(obj: Any) -> Any:
    if type(obj) is dict:
        return {key: to_dict(value) for key, value in obj.items()}
    if type(obj) is list:
        return [to_dict(value) for value in obj]
    if inspect.isclass(obj):
        return {"__module__": obj.__module__, "__name__": obj.__name__}
    if hasattr(obj, "__dict__"):
        return {key: to_dict(value) for key, value in obj.__dict__.items()}
    return str(obj).split(".")[1] if type(obj) is torch.dtype else obj


class OnDeviceSamplingConfig:
    """Unknown fields are dropped without a word."""

    def __init__(self, **kwargs: Any) -> None:
        self.do_sample = kwargs.pop("do_sample", False)
        self.top_k = kwargs.pop("top_k", 1)
        self.top_p = kwargs.pop("top_p", 1.0)
        self.temperature = kwargs.pop("temperature", 1.0)
        self.dynamic = kwargs.pop("dynamic", False)
        self.deterministic = kwargs.pop("deterministic", False)
        self.global_topk = kwargs.pop("global_topk", 256)
        self.on_device_sampling_config = kwargs.pop("on_device_sampling_config", True)
        by_itself = hardware(get_platform_target()) != hardware.TRN1
        self.top_k_kernel_enabled = kwargs.pop("top_k_kernel_enabled", by_itself)
        self.sampling_dp_degree = kwargs.pop("sampling_dp_degree", 1)


class NeuronConfig:
    """Every field is an attribute; an unknown one is warned about and forgotten."""

    def __init__(self, **kwargs: Any) -> None:
        record(
            "NeuronConfig", kwargs=to_dict(kwargs), kinds={name: type(value).__name__ for name, value in kwargs.items()}
        )
        self._take_sizes(kwargs)
        self._take_dtypes(kwargs)
        for name, default in DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, copy.copy(default)))
        self._take_sampling(kwargs)
        self._check()
        self._derive(kwargs)
        if kwargs:
            record("unknown flags", names=sorted(kwargs))
            logging.warning("Unexpected keyword arguments of NeuronConfig: %s", kwargs)

    def _take_sizes(self, kwargs: dict[str, Any]) -> None:
        self.batch_size = kwargs.pop("batch_size", 1)
        self.padding_side = kwargs.pop("padding_side", "right")
        self.seq_len = kwargs.pop("seq_len", 128)
        self.n_active_tokens = kwargs.pop("n_active_tokens", self.seq_len)
        self.n_positions = kwargs.pop("n_positions", self.seq_len)
        self.max_context_length = kwargs.pop("max_context_length", self.seq_len)
        self.max_new_tokens = kwargs.pop("max_new_tokens", self.seq_len - self.max_context_length) or None
        self.max_length = kwargs.pop("max_length", self.seq_len)
        assert self.max_context_length <= self.max_length, "max_context_length is beyond max_length"
        for name in BATCHES:
            setattr(self, name, kwargs.pop(name, self.batch_size))
        self.buckets = kwargs.pop("buckets", [self.seq_len])
        self.pa_num_blocks = kwargs.pop("pa_num_blocks", self.batch_size)
        self.pa_block_size = kwargs.pop("pa_block_size", self.seq_len)

    def _take_dtypes(self, kwargs: dict[str, Any]) -> None:
        self.overrides_torch_dtype = False
        self.torch_dtype = torch.bfloat16
        if "torch_dtype" in kwargs:
            self.torch_dtype = _dtype(kwargs.pop("torch_dtype"))
            self.overrides_torch_dtype = kwargs.pop("overrides_torch_dtype", True)
        self.cast_type = kwargs.pop("cast_type", "config")
        if self.cast_type not in ("config", "as-declared"):
            raise ValueError("cast_type is config or as-declared")
        self.rpl_reduce_dtype = _dtype(kwargs.pop("rpl_reduce_dtype", None))
        self.attention_dtype = _dtype(kwargs.pop("attention_dtype", None))
        if self.attention_dtype not in (None, self.torch_dtype):
            assert self.cast_type == "as-declared", "an attention_dtype of its own needs cast_type as-declared"

    def _take_sampling(self, kwargs: dict[str, Any]) -> None:
        self.on_device_sampling_config = kwargs.pop("on_device_sampling_config", None)
        if type(self.on_device_sampling_config) is dict:
            self.on_device_sampling_config = OnDeviceSamplingConfig(**self.on_device_sampling_config)

    def _check(self) -> None:
        flags: Any = self
        if flags.quantized:
            assert flags.quantized_checkpoints_path is not None, "quantized needs quantized_checkpoints_path"
        assert not flags.is_full_model_shuffled or flags.is_mxfp4_compute, (
            "is_full_model_shuffled needs is_mxfp4_compute"
        )
        if flags.tp_degree % flags.cp_degree or flags.tp_degree % flags.attention_dp_degree:
            raise ValueError("tp_degree is no multiple of cp_degree or attention_dp_degree")
        if flags.mlp_cp_degree > 1 and not flags.sequence_parallel_enabled:
            raise IncompatibleConfigError("mlp_cp_degree needs sequence_parallel_enabled")
        if flags.attention_dp_degree > 1 and not flags.is_continuous_batching:
            raise ValueError("attention_dp_degree needs is_continuous_batching")
        if flags.strided_context_parallel_kernel_enabled and flags.cp_degree <= 1:
            raise ValueError("strided_context_parallel_kernel_enabled needs cp_degree")
        if flags.qkv_cte_nki_kernel_fuse_rope:
            assert flags.qkv_kernel_enabled and flags.qkv_nki_kernel_enabled, "fuse_rope needs both qkv kernels"
        if flags.attn_block_tkg_nki_kernel_enabled:
            assert flags.qkv_kernel_enabled or flags.qkv_nki_kernel_enabled, "the block kernel needs a qkv kernel"
        else:
            assert not flags.attn_block_tkg_nki_kernel_cache_update, "cache_update needs the block kernel"
            assert not flags.attn_block_tkg_nki_kernel_cascaded_attention, "cascaded_attention needs the block kernel"
        if flags.attn_block_cte_nki_kernel_enabled and not all(getattr(flags, name) for name in CTE_KERNEL_NEEDS):
            raise ValueError(f"attn_block_cte_nki_kernel_enabled needs {CTE_KERNEL_NEEDS}")
        if (flags.quantized or flags.quantized_mlp_kernel_enabled or flags.activation_quantization_type) and (
            flags.qkv_kernel_enabled or flags.qkv_nki_kernel_enabled
        ):
            assert flags.modules_to_not_convert, "qkv kernels of a quantized model need modules_to_not_convert"
        if flags.is_medusa and flags.async_mode:
            raise IncompatibleConfigError("no medusa with async_mode")
        if flags.rmsnorm_quantize_kernel_enabled:
            assert flags.quantized_mlp_kernel_enabled, "rmsnorm_quantize_kernel needs quantized_mlp_kernel"
        for name, most in (
            ("context_encoding_buckets", flags.max_context_length),
            ("token_generation_buckets", flags.max_length),
        ):
            if (buckets := getattr(flags, name)) is not None:
                buckets.sort()
                assert buckets[-1] <= most, f"{name} go beyond {most}"

    def _derive(self, kwargs: dict[str, Any]) -> None:
        flags: Any = self
        self.is_prefill_stage = None
        self.enable_token_tree = flags.token_tree_config is not None
        self.is_chunked_prefill = flags.chunked_prefill_config is not None
        if flags.world_size is None:
            self.world_size = flags.tp_degree * flags.pp_degree * flags.ep_degree
        if flags.local_ranks_size is None:
            self.local_ranks_size = self.world_size
        self.kv_cache_tiling = False
        self.tile_cc = flags.cc_pipeline_tiling_factor > 1 and bool(flags.mlp_kernel_enabled)
        self.logical_nc_config = _logical_nc_config(kwargs)
        self.lm_head_pad = kwargs.pop("lm_head_pad", self.logical_nc_config > 1)
        self.weights_to_skip_layout_optimization = kwargs.pop("weights_to_skip_layout_optimization", [])
        self.enable_long_context_mode = self.max_context_length >= LONG_CONTEXT
        page_size = LONG_CONTEXT_SCRATCHPAD_PAGE_SIZE if self.enable_long_context_mode else None
        self.scratchpad_page_size = kwargs.pop("scratchpad_page_size", page_size)


class MoENeuronConfig(NeuronConfig):
    router_config: Any

    def __init__(self, capacity_factor: float | None = None, glu_mlp: bool = True, **kwargs: Any) -> None:
        self.capacity_factor = capacity_factor
        self.glu_mlp = glu_mlp
        self.normalize_top_k_affinities = not kwargs.pop("disable_normalize_top_k_affinities", False)
        for name, default in MOE_DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, copy.copy(default)))
        if isinstance(self.router_config, dict) and isinstance(self.router_config.get("dtype"), str):
            self.router_config["dtype"] = to_torch_dtype(self.router_config["dtype"])
        super().__init__(**kwargs)


MOE_DEFAULTS: Mapping[str, Any] = {
    "glu_type": "glu",
    "hidden_act_scaling_factor": 1.0,
    "hidden_act_bias": 0.0,
    "gate_clamp_upper_limit": None,
    "gate_clamp_lower_limit": None,
    "up_clamp_upper_limit": None,
    "up_clamp_lower_limit": None,
    "use_index_calc_kernel": False,
    "moe_mask_padded_tokens": False,
    "early_expert_affinity_modulation": False,
    "fused_shared_experts": False,
    "shared_experts_sequence_parallel_enabled": False,
    "return_expert_index": False,
    "return_router_logits": False,
    "hybrid_sharding_config": None,
    "moe_tp_degree": 1,
    "moe_ep_degree": 1,
    "transpose_shared_experts_weights": False,
    "blockwise_matmul_config": {},
    "router_config": None,
}


class InferenceConfig:
    """The model's configuration, with a NeuronConfig in it; its attributes are those of config.json."""

    attribute_map: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        neuron_config: NeuronConfig,
        fused_spec_config: Any = None,
        load_config: Callable[["InferenceConfig"], None] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.neuron_config = neuron_config
        self.fused_spec_config = fused_spec_config
        if load_config is not None:
            load_config(self)
        else:
            self.load_config()
        self.metadata = metadata
        for key, value in kwargs.items():
            setattr(self, key, value)
        self.add_derived_config()
        self.validate_config()

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(super().__getattribute__("attribute_map").get(key, key), value)

    def __getattribute__(self, key: str) -> Any:
        if key != "attribute_map":
            key = super().__getattribute__("attribute_map").get(key, key)
        return super().__getattribute__(key)

    def load_config(self) -> None:
        pass

    def add_derived_config(self) -> None:
        self.num_cores_per_group = 1

    def get_required_attributes(self) -> list[str]:
        return []

    def validate_config(self) -> None:
        missing = [name for name in self.get_required_attributes() if not hasattr(self, name)]
        assert not missing, f"the configuration lacks {missing}"

    def get_text_config(self) -> "InferenceConfig":
        return self

    def save(self, model_path: str | os.PathLike[str]) -> None:
        Path(model_path).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(model_path, CONFIG_FILE))

    def to_json_file(self, json_file: str | os.PathLike[str]) -> None:
        Path(json_file).write_text(self.to_json_string() + "\n", encoding="utf-8")

    def to_json_string(self) -> str:
        return json.dumps(to_dict(self), indent=2, sort_keys=True)

    @classmethod
    def load(cls, model_path: str | os.PathLike[str], **kwargs: Any) -> "InferenceConfig":
        return cls.from_json_file(Path(model_path, CONFIG_FILE), **kwargs)

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str], **kwargs: Any) -> "InferenceConfig":
        return cls.from_json_string(Path(json_file).read_text(encoding="utf-8"), **kwargs)

    @classmethod
    def from_json_string(cls, json_string: str, **kwargs: Any) -> "InferenceConfig":
        """Derived fields that were saved with the flags come back as unknown ones, and are warned about."""
        merged = {**json.loads(json_string), **kwargs}
        if isinstance(merged.get("neuron_config"), dict):
            merged["neuron_config"] = cls.get_neuron_config_cls()(**merged["neuron_config"])
        return cls(**merged)

    @classmethod
    def get_neuron_config_cls(cls) -> type[NeuronConfig]:
        return NeuronConfig


def _dtype(value: Any) -> Any:
    return to_torch_dtype(value) if isinstance(value, str) else value


def _logical_nc_config(kwargs: dict[str, Any]) -> int:
    """The environment's before the flag's before the platform's, which is asked for in any case."""
    of_environment = int(os.environ.get("NEURON_LOGICAL_NC_CONFIG", -1))
    of_platform, of_flag = get_platform_lnc(), -1
    if "logical_neuron_cores" in kwargs:
        warnings.warn("logical_neuron_cores is now logical_nc_config", DeprecationWarning, stacklevel=2)
        of_flag = int(kwargs.pop("logical_neuron_cores"))
    if "logical_nc_config" in kwargs:
        of_flag = int(kwargs.pop("logical_nc_config"))
    if -1 not in (of_environment, of_flag) and of_environment != of_flag:
        record("logical_nc_config overridden", environment=of_environment, flag=of_flag)
        message = f"NEURON_LOGICAL_NC_CONFIG={of_environment} is used instead of logical_nc_config={of_flag}"
        warnings.warn(message, UserWarning, stacklevel=2)
    return next(value for value in (of_environment, of_flag, of_platform) if value != -1)
