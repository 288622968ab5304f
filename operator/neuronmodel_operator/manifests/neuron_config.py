"""`spec.compile` and `spec.parallelism` as NxD Inference's NeuronConfig fields, by its names."""

from typing import Any, Final

from neuronmodel_api.config import Engine
from neuronmodel_api.spec import NeuronModelSpec, OnDeviceSampling
from neuronmodel_operator.manifests.instance_type import logical_core_config

_COMPILE_FIELDS: Final = {
    "torch_dtype": "torch_dtype",
    "batch_size": "batch_size",
    "max_context_length": "max_context_length",
    "sequence_length": "seq_len",
    "fused_qkv": "fused_qkv",
    "sequence_parallel": "sequence_parallel_enabled",
    "qkv_kernel": "qkv_kernel_enabled",
    "attention_kernel": "attn_kernel_enabled",
    "mlp_kernel": "mlp_kernel_enabled",
    "cc_pipeline_tiling_factor": "cc_pipeline_tiling_factor",
}
_SAMPLING_FIELDS: Final = {
    "do_sample": "do_sample",
    "top_k": "top_k",
    "dynamic": "dynamic",
    "deterministic": "deterministic",
    "global_top_k": "global_topk",
    "top_k_kernel": "top_k_kernel_enabled",
}
_SAMPLING_DECIMALS: Final = ("top_p", "temperature")


def neuron_config(spec: NeuronModelSpec) -> dict[str, Any]:
    """Returns only what the spec sets, so that the library's own defaults apply. The strategy's fields
    (`save_sharded_checkpoint`, `skip_sharding`) are set by the worker, which knows the strategy."""
    compiled = spec.compile
    fields: dict[str, Any] = {flag.name: flag.value for flag in compiled.extra}
    fields |= _given(compiled, _COMPILE_FIELDS)
    if compiled.on_device_sampling is not None:
        fields["on_device_sampling_config"] = _sampling(compiled.on_device_sampling)
    fields |= {
        "tp_degree": spec.parallelism.tensor_parallel_degree,
        "start_rank_id": spec.parallelism.start_rank,
        "local_ranks_size": spec.parallelism.num_local_ranks,
    }
    if spec.engine is Engine.NEURON:
        fields["logical_nc_config"] = logical_core_config(spec)
    return fields


def generation_config(spec: NeuronModelSpec) -> dict[str, Any]:
    """Returns the fields that go to transformers' GenerationConfig instead."""
    pad_token_id = spec.compile.pad_token_id
    return {} if pad_token_id is None else {"pad_token_id": pad_token_id}


def _sampling(sampling: OnDeviceSampling) -> dict[str, Any]:
    decimals = {name: float(value) for name in _SAMPLING_DECIMALS if (value := getattr(sampling, name)) is not None}
    return _given(sampling, _SAMPLING_FIELDS) | decimals


def _given(value: object, fields: dict[str, str]) -> dict[str, Any]:
    return {theirs: found for ours, theirs in fields.items() if (found := getattr(value, ours)) is not None}
