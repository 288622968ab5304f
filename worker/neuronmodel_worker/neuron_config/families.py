"""What differs from family to family in config.json and in NxD Inference: one entry for each model type.

Its tensors are in the file of its name in `layouts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SIZES: Final = "the shapes of tensors"
BY_ENGINES: Final = "the engine"


@dataclass(frozen=True)
class ExpertCounts:
    """The field of config.json with the number of experts, and transformers' defaults for it and for the experts of a
    token."""

    field: str
    other_name: str
    """The name under which the other of transformers 4 and 5 reads or writes the field."""
    experts: int
    of_a_token: int


@dataclass(frozen=True)
class WindowRule:
    """How attention within a window is read from config.json, and what NxD Inference does with it."""

    default: int | None = None
    """transformers' default for `sliding_window`."""
    has_switch: bool = False
    """Whether it has an effect only with `use_sliding_window`."""
    is_by_layer: bool = False
    """Whether `layer_types` or `max_window_layers` give it to some layers."""
    is_computed: bool = False
    """Whether NxD Inference computes it."""
    is_ignored: bool = False
    """Whether transformers ignores it and NxD Inference does not."""


@dataclass(frozen=True)
class FamilyTraits:
    is_dense: bool = False
    """Whether it has no experts: then its NeuronConfig has no fields for them either."""
    experts: ExpertCounts | None = None
    scales_experts_to_one: bool = False
    """Whether NxD Inference scales the weights of a token's experts to a sum of 1 whatever `norm_topk_prob` is."""
    experts_in_float32: bool = False
    """Whether NxD Inference declares its experts in float32."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """The fields of config.json that are read in addition to every family's, and what for."""
    normalizes_queries_and_keys: bool = False
    scales_positions: bool = False
    """Whether NxD Inference reads `rope_scaling`."""
    window: WindowRule = WindowRule()


QWEN_WINDOW: Final = WindowRule(default=4096, has_switch=True, is_by_layer=True)

FAMILY_TRAITS: Final[Mapping[str, FamilyTraits]] = {
    "llama": FamilyTraits(is_dense=True, scales_positions=True, window=WindowRule(is_ignored=True)),
    "mistral": FamilyTraits(is_dense=True, window=WindowRule(default=4096, is_computed=True)),
    "mixtral": FamilyTraits(
        experts=ExpertCounts("num_local_experts", "num_experts", experts=8, of_a_token=2),
        experts_in_float32=True,
        reads={
            "num_local_experts": SIZES,
            "num_experts": "another name of `num_local_experts`",
            "num_experts_per_tok": BY_ENGINES,
        },
    ),
    "qwen2": FamilyTraits(is_dense=True, window=QWEN_WINDOW),
    "qwen3": FamilyTraits(is_dense=True, normalizes_queries_and_keys=True, window=QWEN_WINDOW),
    "qwen3_moe": FamilyTraits(
        experts=ExpertCounts("num_experts", "num_local_experts", experts=128, of_a_token=8),
        scales_experts_to_one=True,
        reads={
            "num_experts": SIZES,
            "num_local_experts": "another name of `num_experts`, which transformers 5 writes",
            "moe_intermediate_size": SIZES,
            "num_experts_per_tok": BY_ENGINES,
            "norm_topk_prob": "checked: NxD Inference computes only true",
            "mlp_only_layers": "checked: all layers have to be sparse",
            "decoder_sparse_step": "checked: all layers have to be sparse",
        },
        normalizes_queries_and_keys=True,
        window=WindowRule(default=4096, has_switch=True),
    ),
    # It has no layout: NxD Inference shards it itself.
    "gemma3": FamilyTraits(is_dense=True),
}


def traits_of(family: str) -> FamilyTraits:
    """The traits of a family; of one that is not known, those that refuse least."""
    return FAMILY_TRAITS.get(family, FamilyTraits())
