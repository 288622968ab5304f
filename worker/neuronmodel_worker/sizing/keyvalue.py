"""The size of a rank's key/value cache, as NxD Inference allocates it (modules/kvcache of its public source), and as
the CPU engine does, in float32."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from neuronmodel_api.config import Engine
from neuronmodel_worker.checkpoint import DTYPE_BITS
from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.layouts.heads import CacheShape, place_heads
from neuronmodel_worker.neuron_config.derived import derived
from neuronmodel_worker.neuron_config.values import DEFAULT_SEQUENCE_LENGTH, DTYPES
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan

SPARE_POSITIONS: Final = 128
"""Additional positions at the end of a cache that masks sequences by their IDs, and of one that several ranks share."""
CPU_ELEMENT_BYTES: Final = 4
"""The CPU engine computes in float32 from shards of any type, and caches what it computed."""
MOST_HEADS: Final = 1 << 16
"""More than any model has: nothing is allocated for a config.json that claims a billion heads."""


def cache_bytes(plan: ModelPlan, neuron_config: Mapping[str, object], engine: Engine = Engine.NEURON) -> int:
    """Returns the bytes of one rank's keys and values in all layers, or 0 if config.json does not give the model's
    heads.

    Sliding windows, which shorten the cache of some layers, are not taken into account: the whole length is.
    """
    shape = cache_shape(plan, neuron_config)
    if shape is None:
        return 0
    fields = ConfigFields(derived(neuron_config))
    vectors = 2 * shape.layers * shape.heads * fields.positions(plan)
    each = CPU_ELEMENT_BYTES if engine is Engine.CPU else element_bytes(plan, neuron_config)
    return vectors * shape.head_size * each


def cache_shape(plan: ModelPlan, neuron_config: Mapping[str, object]) -> CacheShape | None:
    """Returns the layout's cache shape; without a layout, the one that config.json gives by the same rules for
    heads."""
    if isinstance(plan, StreamedPlan):
        return plan.layout.cache
    config = _language_model(plan.checkpoint.config)
    layers, query = config.number("num_hidden_layers"), config.number("num_attention_heads")
    key_value = config.number("num_key_value_heads") or query
    head_size = config.number("head_dim") or config.number("hidden_size") // max(query, 1)
    degree = ConfigFields(neuron_config).number("tp_degree", 1)
    if not (layers and query and head_size) or max(query, key_value, degree) > MOST_HEADS:
        return None
    try:
        return CacheShape(layers, len(place_heads(query, key_value, degree).key_value) // degree, head_size)
    except LayoutRefused:
        return None


def _language_model(config: Mapping[str, object]) -> "ConfigFields":
    """Returns the language model's part of a multimodal model's config.json, otherwise the whole."""
    nested = config.get("text_config")
    return ConfigFields(nested if isinstance(nested, Mapping) else config)


def element_bytes(plan: ModelPlan, neuron_config: Mapping[str, object]) -> int:
    """Returns the size of one element in NxD Inference's cache."""
    if neuron_config.get("kv_cache_quant") or neuron_config.get("kv_quant_config"):
        return 1  # float8, of either kind
    named = neuron_config.get("attention_dtype") or neuron_config.get("torch_dtype")
    if isinstance(plan, StreamedPlan) and not neuron_config.get("attention_dtype"):
        dtype = plan.layout.dtype
    else:
        dtype = DTYPES.get(named, "BF16") if isinstance(named, str) else "BF16"
    return DTYPE_BITS[dtype] // 8


@dataclass(frozen=True)
class ConfigFields:
    """The fields of NeuronConfig, or of config.json."""

    given: Mapping[str, object]

    def number(self, name: str, default: int = 0) -> int:
        """Returns a positive integer. Any other value counts as absent: it is refused elsewhere."""
        value = self.given.get(name)
        return value if type(value) is int and value > 0 else default

    def positions(self, plan: ModelPlan) -> int:
        """Returns the cache's positions for all sequences together: sequences times positions, or blocks times block
        size."""
        length, batch = self.number("seq_len", DEFAULT_SEQUENCE_LENGTH), self.number("batch_size", 1)
        if self.given.get("is_block_kv_layout") or self.given.get("is_prefix_caching"):
            spare = 1 if self.given.get("is_prefix_caching") else 0
            return (self.number("pa_num_blocks", batch) + spare) * self.number("pa_block_size", length)
        sequences = self.number("kv_cache_batch_size", batch) + self.number("kv_cache_padding_size")
        return sequences * self._cached_length(self.number("max_length", length), plan)

    def _cached_length(self, length: int, plan: ModelPlan) -> int:
        if self.given.get("flash_decoding_enabled"):
            length = -(-length // self._cores_of_a_head(plan)) + SPARE_POSITIONS
        return length + (SPARE_POSITIONS if self.given.get("apply_seq_ids_mask") else 0)

    def _cores_of_a_head(self, plan: ModelPlan) -> int:
        """Returns how many ranks share the positions of one key/value head with flash decoding."""
        config = _language_model(plan.checkpoint.config)
        query = config.number("num_attention_heads", 1)
        key_value = config.number("num_key_value_heads", query)
        return max(1, min(self.number("tp_degree", 1), query) // key_value)
