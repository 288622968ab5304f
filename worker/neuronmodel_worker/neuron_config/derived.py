"""Fields that NxD Inference sets from other fields before it uses them.

The effect of a field has to be judged by the derived ones: with `mlp_tkg_nki_kernel_enabled` alone, the library's
`mlp_kernel_enabled` is on, with all its effects. Each rule here is a line of `NeuronConfig.__init__` (models/config.py
of the public source).
"""

from collections.abc import Mapping
from typing import Any, Final

from neuronmodel_worker.neuron_config.values import is_on

IMPLIED: Final[Mapping[str, str]] = {
    "mlp_tkg_nki_kernel_enabled": "mlp_kernel_enabled",
    "attn_tkg_nki_kernel_enabled": "attn_block_tkg_nki_kernel_enabled",
    "attn_tkg_builtin_kernel_enabled": "attn_block_tkg_nki_kernel_enabled",
    "enable_eagle_speculation": "enable_fused_speculation",
}
"""Switches, and the switch that each of them turns on."""

QUANTIZES_MLP: Final = ("quantized_mlp_kernel_enabled", "activation_quantization_type")


def derived(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` as the library has them when it builds a model. A field that is absent and not derived stays absent."""
    found = {name: value for name, value in fields.items() if value is not None}
    found |= {implied: True for given, implied in IMPLIED.items() if found.get(given) is True}
    if "logical_nc_config" not in found and "logical_neuron_cores" in found:
        found["logical_nc_config"] = found["logical_neuron_cores"]
    if is_on(found, "tensor_capture_config"):
        found["output_logits"] = True
    if any(is_on(found, name) for name in QUANTIZES_MLP):
        found |= {"quantization_type": "per_channel_symmetric", "quantization_dtype": "f8e4m3"}
    return found | _attention_dp_fields(found)


def _attention_dp_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """With attention data parallelism each group of ranks has the cache of its part of the batch, and one more line for
    writes to discard, unless the kernel skips them."""
    degree = fields.get("attention_dp_degree")
    batch = fields.get("tkg_batch_size", fields.get("batch_size", 1))
    if type(degree) is not int or type(batch) is not int or degree < 2:
        return {}
    skips = fields.get("attn_block_tkg_nki_kernel_cascaded_attention") is True
    return {"kv_cache_batch_size": batch // degree, "kv_cache_padding_size": 0 if skips else 1}
