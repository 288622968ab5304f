"""Every known field of config.json: it is read, has no effect, or is refused because it changes the model.

A field on none of the lists is warned of by name: see `layouts.config_checks`. A test compares the lists with the
configuration classes of transformers 4.57 and 5, so that each of their fields is on one of the lists. `as_markdown`
gives docs/reference/config.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from neuronmodel_worker.neuron_config.families import BY_ENGINES, FAMILY_TRAITS, SIZES, traits_of
from neuronmodel_worker.neuron_config.values import names_of

POSITIONS: Final = "rotary position embeddings"
WINDOWS: Final = "checked: attention within a window"

READ: Final[Mapping[str, str]] = {
    "model_type": "the family, unless `spec.model.type` is set",
    **dict.fromkeys(
        (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size",
        ),
        SIZES,
    ),
    "attention_bias": "which biases there are; where the family has none, those of the checkpoint are left out with a "
    "warning",
    "mlp_bias": "as `attention_bias`",
    "tie_word_embeddings": "whether the head shares the embeddings' weights",
    "dtype": "the dtype of shards, unless `torch_dtype` of NeuronConfig sets it",
    "torch_dtype": "as `dtype`, which takes precedence",
    "rms_norm_eps": BY_ENGINES,
    "hidden_act": BY_ENGINES,
    "max_position_embeddings": BY_ENGINES,
    "rope_theta": POSITIONS,
    "rope_scaling": POSITIONS,
    "rope_parameters": f"{POSITIONS}, as transformers 5 writes them",
    "original_max_position_embeddings": f"{POSITIONS} of type `longrope` in the older form",
    "sliding_window": WINDOWS,
    "use_sliding_window": WINDOWS,
    "max_window_layers": WINDOWS,
    "layer_types": WINDOWS,
    "attention_chunk_size": WINDOWS,
    "quantization_config": "checked: quantized checkpoints are refused",
    "compression_config": "as `quantization_config`",
}  # fmt: skip
"""The fields that are read in every family, and what for."""

READ_BY_FAMILY: Final = {family: traits.reads for family, traits in FAMILY_TRAITS.items() if traits.reads}

OF_NAMES: Final = "names and versions"
OF_TOKENS: Final = "for tokenizers and sampling"
OF_TRAINING: Final = "for training only"
OF_OUTPUTS: Final = "what transformers' own forward pass returns or keeps"
OF_EXECUTION: Final = "how transformers computes, not what"
OF_OTHER_TASKS: Final = "for models with another head"
OF_ENCODERS: Final = "for models with an encoder; these have none"
OF_GENERATION: Final = "for sampling: requests and generation_config.json set it"

WITHOUT_EFFECT: Final[Mapping[str, str]] = {
    name: why
    for why, names in {
        OF_NAMES: """
            _name_or_path name_or_path _commit_hash transformers_version architectures is_llama_config
            transformers.js_config unsloth_version unsloth_fixed
        """,
        OF_TOKENS: """
            bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id tokenizer_class prefix
            model_max_length max_sequence_length seq_length unk_token_id mask_token_id cls_token_id bos_token eos_token
            pad_token unk_token add_bos_token add_eos_token image_token_id video_token_id vision_start_token_id
            vision_end_token_id vision_token_id
        """,
        OF_TRAINING: """
            initializer_range attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop residual_dropout
            router_aux_loss_coef router_jitter_noise router_z_loss_coef gradient_checkpointing
            attention_probs_dropout_prob hidden_dropout_prob neftune_noise_alpha
        """,
        OF_OUTPUTS: """
            use_cache output_attentions _output_attentions output_hidden_states output_router_logits return_dict
            use_return_dict torchscript
        """,
        OF_EXECUTION: """
            pretraining_tp chunk_size_feed_forward use_bfloat16 tf_legacy_loss
            use_flash_attn use_flash_attention use_flash_attention_2 _flash_attn_2_enabled
            attn_implementation _attn_implementation _attn_implementation_internal _attn_implementation_autoset
            experts_implementation _experts_implementation _experts_implementation_internal
        """,
        OF_OTHER_TASKS: "id2label label2id num_labels problem_type finetuning_task task_specific_params "
        "classifier_dropout",
        OF_ENCODERS: """
            is_decoder add_cross_attention cross_attention_hidden_size tie_encoder_decoder pruned_heads
        """,
        OF_GENERATION: """
            max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k
            top_p typical_p min_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
            encoder_repetition_penalty bad_words_ids num_return_sequences output_scores return_dict_in_generate
            forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty
            suppress_tokens begin_suppress_tokens epsilon_cutoff eta_cutoff max_new_tokens
            assistant_confidence_threshold assistant_lookbehind target_lookbehind num_assistant_tokens
            num_assistant_tokens_schedule
        """,
    }.items()
    for name in sorted(names_of(names))
}
"""Why each of these fields changes no answer here."""


@dataclass(frozen=True)
class ModelChange:
    """What a field changes in a model. `without` are the values, in addition to null, with which it changes nothing."""

    what: str
    without: tuple[object, ...] = ()


def _each(names: str, what: str, *without: object) -> Iterator[tuple[str, ModelChange]]:
    yield from ((name, ModelChange(what, without)) for name in names.split())


ALL_ONES: Final = [1]
"""Stands for a list of ones of any length."""

CHANGES: Final[Mapping[str, ModelChange]] = dict(
    (
        *_each("attention_multiplier attn_scale query_pre_attn_scalar", "attention scores are scaled differently"),
        *_each(
            "embedding_multiplier residual_multiplier logits_scaling logit_scale logits_multiplier lm_head_multiplier "
            "key_multiplier attention_in_multiplier attention_out_multiplier scale_emb scale_depth "
            "scale_width scale_logits mup_width_scale embedding_scale output_multiplier_scale "
            "emb_scale logit_multiplier",
            "embeddings, layers or logits are scaled", 1,
        ),
        *_each("mlp_multipliers", "layers are scaled", 1, ALL_ONES),
        *_each(
            "attn_logit_softcapping final_logit_softcapping logit_softcapping attn_logit_softcap final_logit_softcap "
            "logits_soft_cap",
            "scores or logits are capped", 0, False,
        ),
        *_each("partial_rotary_factor rotary_pct rotary_percent", "only a part of each head has positions", 1),
        *_each("rope_interleaved", "the elements of a head are paired differently for positions", False),
        *_each("rope_local_base_freq rope_local_theta", "some layers have other positions"),
        *_each("no_rope_layer_interval nope_layer_interval", "some layers have no positions", 0, []),
        *_each("no_rope_layers", "some layers have no positions", 0, [], ALL_ONES),
        *_each("attn_temperature_tuning attention_sink attention_sinks", "attention is computed differently", False, 0),
        *_each("sliding_window_pattern global_attn_every_n_layers", "some layers attend within a window", 0, 1),
        *_each("alibi", "positions are biases of attention", False),
        *_each("clip_qkv qkv_clip", "queries, keys and values are clipped", 0, False),
        *_each(
            "qk_norm use_qk_norm qk_layernorm use_qk_layernorm",
            "queries and keys are normalized differently", False, 0,
        ),
        *_each("parallel_attn use_parallel_residual parallel_residual", "attention and MLP are parallel", False),
        *_each("post_norm use_post_norm sandwich_norm", "norms are in other places", False),
        *_each("q_lora_rank kv_lora_rank", "attention is computed through a narrower space", 0),
        *_each(
            "n_shared_experts num_shared_experts shared_expert_intermediate_size shared_intermediate_size "
            "n_routed_experts",
            "the model has other experts", 0,
        ),
        *_each("first_k_dense_replace", "some layers are dense", 0),
        *_each("moe_layer_freq moe_layer_interval", "some layers are dense", 1),
        *_each("n_group topk_group num_expert_group", "experts are chosen by groups", 0, 1),
        *_each("routed_scaling_factor", "the experts' output is scaled", 1),
        *_each("scoring_func", "experts are scored differently", "softmax"),
        *_each("block_configs per_layer_config", "layers differ from each other", [], {}, False),
        *_each("is_encoder_decoder", "the model has an encoder", False),
        *_each("is_causal use_causal_mask causal", "tokens attend to later tokens", True, 1),
        *_each("use_rope rope use_rotary use_rotary_embeddings", "there are no rotary positions", True, 1),
        *_each("use_mrope", "positions have several parts", False, 0),
        *_each("use_alibi", "positions are biases of attention", False, 0),
        *_each("use_dynamic_ntk use_logn_attn", "attention depends on a sequence's length", False, 0),
        *_each("use_rms_norm use_rmsnorm", "the norms are of another kind", True, 1),
        *_each("elementwise_affine norm_elementwise_affine", "norms have no weights", True, 1),
        *_each("gated_mlp use_gated_mlp mlp_gated", "the MLP has no gate", True, 1),
        *_each("scale_attn_weights", "attention scores are not scaled", True, 1),
    )
)  # fmt: skip
"""Fields of other models that conversions write into files of these families, and fields of these families that neither
engine computes."""


OF_NORMS: Final = ("qk_norm", "use_qk_norm")

UNREMARKABLE: Final[Mapping[str, tuple[object, ...]]] = dict.fromkeys(
    ("bias", "qkv_bias", "use_bias", "use_qkv_bias", "o_bias"), (False, 0)
)
"""Fields that nothing reads, with values that ordinary checkpoints have and that are not warned of."""


def without_change(name: str, family: str) -> tuple[object, ...]:
    """The values with which a field of `CHANGES` changes nothing."""
    return (True, 1) if name in OF_NORMS and traits_of(family).normalizes_queries_and_keys else CHANGES[name].without


def read_of(family: str) -> Mapping[str, str]:
    return {**READ, **traits_of(family).reads}


ABOUT: Final = """\
# config.json

What is read of a checkpoint's config.json, and what happens to every other field. Nothing that changes a model's
mathematics is ignored silently: a field is read, or known to change nothing here, or refused by name, or, if it is
unknown, named in a warning of `neuronmodel plan` and in the logs. The lists below are those of
`worker/neuronmodel_worker/layouts/config_fields.py`; tests compare them with the configuration classes of transformers
4.57.6 and 5.24.0.

An unknown field means nothing if it is null, an empty list or an empty object; false, 0 and "" may well be the change,
and cause a warning. `bias`, `qkv_bias`, `use_bias`, `use_qkv_bias` and `o_bias` are not read either, and cause a
warning unless false. A size, number or name of the wrong type is refused. So is null, with which transformers 4
computes nothing, except for `num_key_value_heads`, `head_dim`, biases, types and `tie_word_embeddings`.

## Rotary position embeddings
transformers 5 writes `rope_parameters`, where transformers 4 wrote `rope_theta` and `rope_scaling`. Both are read, in
every family and by both engines. NxD Inference reads only the older form: if the checkpoint's config.json is in the
newer form, it and vLLM get a directory on the scratch volume with links to the checkpoint's files and a config.json in
the older form. The same holds with `weights: Native`, for any model type. Contradictions are refused, and both fields
named.

| | |
| --- | --- |
| `rope_theta`, `rope_parameters.rope_theta`, `rope_scaling.rope_theta` | the same, wherever they appear |
| `rope_parameters` and `rope_scaling` | if both are present, they have to agree |
| `rope_type` and `type` | the same |
| `rope_parameters` per layer type | read if all that are in use (`layer_types`) agree; else refused |
| per layer type, with `rope_theta` and `rope_type` next to them | the latter, as transformers 5 computes |
| `original_max_position_embeddings` | the inner one; else, for `llama3`, `max_position_embeddings`; outer: see below |
| no `rope_theta` anywhere | transformers' default for the family |

`original_max_position_embeddings` outside `rope_parameters` or `rope_scaling` is read only for `longrope` in the older
form. For `llama3` it has no effect, as in transformers 5, and there is a warning if it differs.

| `rope_type` | CPU engine | NxD Inference |
| --- | --- | --- |
| `default` | yes | yes |
| `linear`, `llama3` | yes | `llama` |
| `yarn` | no | `llama` |
| `dynamic`, `longrope` | no | `llama`, if no sequence is so long that frequencies change: those of a graph are fixed |
| others | no | no |

For the other families NxD Inference ignores `rope_scaling`, so a type other than `default` is refused there.

## Attention within a window
| | `sliding_window` less than `seq_len` |
| --- | --- |
| `mistral` | computed by NxD Inference |
| `llama` | refused: transformers ignores it, NxD Inference would not |
| `mixtral` | refused: NxD Inference computes none |
| `qwen3_moe` | the same, with `use_sliding_window` |
| `qwen2`, `qwen3` | the same, with `use_sliding_window`, if `layer_types` or `max_window_layers` give one to a layer |

`layer_types` may name full attention, and windows that are not less than `seq_len` or, for `mistral`, are in every
layer. `attention_chunk_size` has to be at least `seq_len`.

## Experts and activations
`norm_topk_prob` of `qwen3_moe` has to be true, as NxD Inference computes it: false is refused. If it is absent there
is a warning, as transformers then assumes false. With `mlp_kernel_enabled`, `mlp_tkg_nki_kernel_enabled` or
`quantized_mlp_kernel_enabled` the activation of dense models has to be one that the kernels compute: silu, swish or
gelu_pytorch_tanh. The CPU engine computes only silu (swish).

"""


AFTER_CHANGES: Final = """\
The remedy is another checkpoint, or to remove the field if the model is meant to be computed without it. `[1]` stands
for a list of any length that contains only ones. `qwen3` and `qwen3_moe` always normalize queries and keys: there
`qk_norm` and `use_qk_norm` change nothing if true, and are refused if false. An attention scale is accepted if it
equals what is computed: `attention_multiplier` or `attn_scale` of one divided by the square root of the head size,
`query_pre_attn_scalar` of the head size.
"""


def as_markdown() -> str:
    """The content of docs/reference/config.md."""
    lines = [ABOUT + "## Read", "| field | what for |", "| --- | --- |"]
    lines += [f"| `{name}` | {what} |" for name, what in READ.items()]
    for family, fields in READ_BY_FAMILY.items():
        lines += [f"| `{name}` (`{family}`) | {what} |" for name, what in fields.items()]
    lines += ["", "## Refused, unless null or one of these", "| field | what it does | changes nothing |"]
    lines += ["| --- | --- | --- |"]
    for change, names in _by_change():
        values = ", ".join(f"`{str(value).lower()}`" for value in change.without)
        lines.append(f"| {names} | {change.what} | {values} |")
    lines += ["", AFTER_CHANGES, "## Without effect here", "| | fields |", "| --- | --- |"]
    for why in dict.fromkeys(WITHOUT_EFFECT.values()):
        names = ", ".join(f"`{name}`" for name, each in WITHOUT_EFFECT.items() if each == why)
        lines.append(f"| {why} | {names} |")
    return "\n".join(lines) + "\n"


def _by_change() -> Iterator[tuple[ModelChange, str]]:
    names: dict[tuple[str, str], list[str]] = {}
    for name, change in CHANGES.items():
        names.setdefault((change.what, repr(change.without)), []).append(name)
    for together in names.values():
        yield CHANGES[together[0]], ", ".join(f"`{name}`" for name in together)
