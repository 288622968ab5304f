"""Every field of config.json is read, without effect, refused or warned of, and the lists do not age unseen.

`tests/golden/transformers_5_24_0.json` holds the fields, and a config.json as it saves one, of transformers 5.24.0's
classes.
"""

import inspect
import json
from typing import Any

import pytest
import transformers

from neuronmodel_worker.failures import BadInput, ConfigInvalid, LayoutRefused
from neuronmodel_worker.layouts import FAMILIES
from neuronmodel_worker.layouts.config_checks import check_config
from neuronmodel_worker.layouts.config_fields import CHANGES, READ_BY_FAMILY, WITHOUT_EFFECT, as_markdown, read_of
from neuronmodel_worker.layouts.legacy_config import to_legacy
from neuronmodel_worker.layouts.qwen3_moe import Qwen3MoeConfig
from tests.paths import PROJECT

OF_5: dict[str, Any] = json.loads((PROJECT / "tests/golden/transformers_5_24_0.json").read_text())
CLASSES: dict[str, type[transformers.PretrainedConfig]] = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "mixtral": transformers.MixtralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "qwen3_moe": transformers.Qwen3MoeConfig,
}
WHERE = "config.json"


def checked(family: str, config: dict[str, Any], **flags: Any) -> list[str]:
    model = {"model_type": family, **({"norm_topk_prob": True} if family == "qwen3_moe" else {}), **config}
    return check_config(to_legacy(model, WHERE), family, flags, WHERE)


# The lists.


def known(family: str) -> set[str]:
    return {*read_of(family), *WITHOUT_EFFECT, *CHANGES}


def test_the_release_is_the_one_that_was_read() -> None:
    """With another one: compare its classes with `layouts.config_fields`, and name it there."""
    assert transformers.__version__ == "4.57.6"
    assert transformers.__version__ in as_markdown()
    assert OF_5["transformers"] in as_markdown()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_transformers_4_is_on_a_list(family: str) -> None:
    kind = CLASSES[family]
    arguments = {*inspect.signature(kind).parameters, *inspect.signature(transformers.PretrainedConfig).parameters}
    fields = {*kind().to_dict(), *vars(kind()), *kind.attribute_map, *arguments} - {"kwargs"}
    assert fields - known(family) == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_transformers_5_is_on_a_list(family: str) -> None:
    assert {*OF_5["classes"][family]["fields"], *OF_5["of_every_class"]} - known(family) == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_is_on_one_list(family: str) -> None:
    lists = [set(read_of(family)), set(WITHOUT_EFFECT), set(CHANGES)]
    assert sum(map(len, lists)) == len(known(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_layout_reads_is_reported_as_read(family: str) -> None:
    assert set(FAMILIES[family].config.model_fields) - set(read_of(family)) == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family: str) -> None:
    for name, field in FAMILIES[family].config.model_fields.items():
        ours, theirs = field.default, inspect.signature(CLASSES[family]).parameters
        assert name not in theirs or theirs[name].default == ours or None in (theirs[name].default, ours), name


def test_the_page_is_the_lists() -> None:
    page = PROJECT / "docs/reference/config.md"
    assert page.read_text() == as_markdown(), "write config_fields.as_markdown() into docs/reference/config.md"


# What needs no warning.

ONES: dict[str, dict[str, Any]] = {
    "llama": {
        "_name_or_path": "x", "architectures": ["LlamaForCausalLM"], "is_llama_config": True, "pretraining_tp": 1,
        "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "use_cache": True, "head_dim": None,
        "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}, "attention_dropout": 0.0, "mlp_bias": False,
        "temperature": 0.6, "unsloth_fixed": True, "eos_token_id": [1, 2],
    },
    "mistral": {"sliding_window": 4096, "rope_theta": 10000.0},
    "mixtral": {"sliding_window": None, "output_router_logits": False, "router_aux_loss_coef": 0.02},
    "qwen2": {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 21, "rope_theta": 1000000.0},
    "qwen3": {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 36, "attention_bias": False},
    "qwen3_moe": {"max_window_layers": 48, "mlp_only_layers": [], "decoder_sparse_step": 1, "attention_bias": False},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_as_they_are_published_is_read_without_a_word(family: str) -> None:
    assert checked(family, ONES[family], seq_len=8192) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_5_saves_is_read_without_a_word(family: str) -> None:
    saved = OF_5["classes"][family]["saved"]
    changes = {"norm_topk_prob": True} if family == "qwen3_moe" else {}
    assert checked(family, {**saved, **changes}) == []
    found = to_legacy(saved, WHERE)
    assert found["rope_theta"] == OF_5["classes"][family]["theta"] == CLASSES[family]().rope_theta
    assert found.get("rope_scaling") is None


@pytest.mark.parametrize(("name", "change"), CHANGES.items())
def test_values_with_which_a_field_changes_nothing_are_taken(name: str, change: Any) -> None:
    for value in (None, *change.without):
        assert checked("llama", {name: value}) == []


def test_families_that_norm_queries_and_keys_may_say_so() -> None:
    for family in ("qwen3", "qwen3_moe"):
        for name in ("qk_norm", "use_qk_norm"):
            assert checked(family, {name: True}) == []
            with pytest.raises(LayoutRefused, match=f"{name}=False"):
                checked(family, {name: False})
    with pytest.raises(LayoutRefused, match="use_qk_norm=True"):
        checked("llama", {"use_qk_norm": True})


@pytest.mark.parametrize(
    "config",
    [
        {"use_qk_norm": 0}, {"mlp_multipliers": [1.0, 1.0]}, {"no_rope_layers": [1, 1]}, {"use_mrope": False},
        {"attention_multiplier": 0.25, "head_dim": 16}, {"query_pre_attn_scalar": 16, "head_dim": 16},
        {"attn_scale": 0.25, "hidden_size": 64, "num_attention_heads": 4}, {"bias": False, "qkv_bias": False},
    ],
)  # fmt: skip
def test_what_says_what_is_computed_anyway_is_taken_without_a_word(config: dict[str, Any]) -> None:
    assert checked("llama", config) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "name", ["use_rope", "rope", "causal", "use_rms_norm", "gated_mlp", "scale_attn_weights", "elementwise_affine"]
)
def test_false_may_be_the_change(name: str, family: str) -> None:
    with pytest.raises(LayoutRefused, match=f"{name}=False"):
        checked(family, {name: False})


PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3-Coder-30B-A3B": ("qwen3_moe", {
        "decoder_sparse_step": 1, "head_dim": 128, "max_position_embeddings": 262144, "max_window_layers": 28,
        "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True, "num_experts": 128,
        "num_experts_per_tok": 8, "output_router_logits": False, "qkv_bias": False, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 10000000, "router_aux_loss_coef": 0.0, "sliding_window": None,
        "shared_expert_intermediate_size": 0, "use_qk_norm": True, "use_sliding_window": False,
    }),
    "Qwen3-235B-A22B": ("qwen3_moe", {
        "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128, "max_window_layers": 94,
        "mlp_only_layers": [], "norm_topk_prob": True, "num_experts": 128, "num_experts_per_tok": 8,
        "output_router_logits": False, "rope_scaling": None, "sliding_window": None, "use_sliding_window": False,
    }),
    "DeepSeek-R1-Distill-Qwen-7B": ("qwen2", {
        "attention_dropout": 0.0, "max_position_embeddings": 131072, "max_window_layers": 28, "rope_theta": 10000,
        "sliding_window": 4096, "use_cache": True, "use_mrope": False, "use_sliding_window": False,
    }),
    "a text model of Qwen2.5-VL": ("qwen2", {
        "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_token_id": 151654,
        "vision_end_token_id": 151653, "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 28,
    }),
    "Mistral-Nemo": ("mistral", {
        "attention_dropout": 0.0, "head_dim": 128, "hidden_size": 5120, "max_position_embeddings": 131072,
        "num_attention_heads": 32, "rope_theta": 1000000.0, "sliding_window": None, "use_cache": True,
    }),
    "vicuna": ("llama", {"max_sequence_length": 2048, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}),
    "Yi": ("llama", {"pad_token_id": 0, "rope_theta": 5000000.0, "pretraining_tp": 1, "attention_bias": False}),
    "a llama of InternLM": ("llama", {"bias": False, "rope_theta": 1000000, "rope_scaling": None}),
    "a llama of Phi-4": ("llama", {
        "embd_pdrop": 0.0, "resid_pdrop": 0.0, "original_max_position_embeddings": 16384, "rope_scaling": None,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_of_other_publishers_are_read_without_a_word(name: str) -> None:
    family, config = PUBLISHED[name]
    assert checked(family, config, seq_len=4096) == []


def test_numbers_beyond_the_last_layer_name_no_dense_one() -> None:
    assert not Qwen3MoeConfig(num_hidden_layers=2, mlp_only_layers=[99, -1]).has_dense_layers
    assert Qwen3MoeConfig(num_hidden_layers=2, mlp_only_layers=[99, 1]).has_dense_layers
    assert Qwen3MoeConfig(decoder_sparse_step=2).has_dense_layers


# Forms of rotary position embeddings that transformers 5 writes.

LLAMA3: dict[str, Any] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def rotary(**config: Any) -> tuple[object, Any]:
    found = to_legacy({"model_type": "llama", "max_position_embeddings": 256, **config}, WHERE)
    return found.get("rope_theta"), found.get("rope_scaling")


@pytest.mark.parametrize("within", [{"original_max_position_embeddings": 256}, {}])
@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
def test_the_trained_length_within_counts_and_a_different_one_outside_is_warned_of(
    name: str, within: dict[str, Any]
) -> None:
    config = {
        "max_position_embeddings": 256, name: {**LLAMA3, "rope_theta": 5e5, **within},
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    assert rotary(**config) == (5e5, {**LLAMA3, "original_max_position_embeddings": 256})
    (warning,) = checked("llama", config)
    assert "original_max_position_embeddings=64" in warning
    assert "256" in warning


def test_what_is_next_to_types_of_layers_counts() -> None:
    nested = {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert rotary(rope_parameters={**nested, "rope_theta": 1e4, "rope_type": "default"}) == (1e4, None)


def test_types_of_layers_that_there_are_not_need_no_positions() -> None:
    of_layers = {"full_attention": {"rope_theta": 5e5}, "sliding_attention": None}
    assert rotary(rope_parameters=of_layers) == (5e5, None)
    with pytest.raises(LayoutRefused, match="sliding_attention"):
        rotary(rope_parameters=of_layers, layer_types=["full_attention", "sliding_attention"])


def test_scaling_without_a_theta_contradicts_parameters_with_one() -> None:
    default = {"rope_type": "default"}
    with pytest.raises(ConfigInvalid, match=r"rope_parameters.rope_theta.*rope_scaling"):
        rotary(rope_parameters={**default, "rope_theta": 5e5}, rope_scaling=default)


# What is refused.


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_that_changes_the_model_is_refused_by_name(name: str, family: str) -> None:
    for value in ("no such value", 0.3):
        with pytest.raises(LayoutRefused, match=name) as refused:
            checked(family, {name: value})
        assert repr(value) in str(refused.value)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"sliding_window": 64}),
        ("mixtral", {"sliding_window": 64}),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 0}),
        ("qwen3", {"sliding_window": 64, "use_sliding_window": True, "layer_types": ["sliding_attention"]}),
        ("qwen3", {"layer_types": ["sliding_attention"]}),
        ("qwen3_moe", {"sliding_window": 64, "use_sliding_window": True}),
        ("qwen2", {"layer_types": ["linear_attention"]}),
        ("mistral", {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}),
        ("llama", {"attention_chunk_size": 64}),
        ("qwen3_moe", {"norm_topk_prob": False}),
        *((family, {"rope_parameters": {"type": "yarn", "factor": 4.0}}) for family in FAMILIES if family != "llama"),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 64}),
        ("llama", {"rope_scaling": {"type": "mrope", "mrope_section": [1]}}),
    ],
)  # fmt: skip
def test_what_is_not_computed_as_transformers_does_is_refused(family: str, config: dict[str, Any]) -> None:
    with pytest.raises(LayoutRefused) as refused:
        checked(family, config)
    assert any(name in str(refused.value) for name in config), str(refused.value)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"sliding_window": 128}),
        ("mistral", {"sliding_window": 64}),
        ("mistral", {"sliding_window": 64, "layer_types": ["sliding_attention"] * 2}),
        ("mixtral", {"sliding_window": 128}),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": False, "max_window_layers": 0}),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "layer_types": ["full_attention"] * 2}),
        ("qwen3", {"sliding_window": 128, "use_sliding_window": True, "layer_types": ["sliding_attention"]}),
        ("llama", {"attention_chunk_size": 128}),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 32}}),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 128}),
    ],
)
def test_what_shows_no_effect_at_that_length_or_is_computed_is_taken(family: str, config: dict[str, Any]) -> None:
    assert checked(family, {"num_hidden_layers": 2, **config}, seq_len=128) == []


@pytest.mark.parametrize("kernel", ["mlp_kernel_enabled", "mlp_tkg_nki_kernel_enabled"])
def test_a_kernel_that_computes_another_activation_is_refused(kernel: str) -> None:
    with pytest.raises(LayoutRefused, match=kernel):
        checked("llama", {"hidden_act": "gelu"}, **{kernel: True})
    assert checked("llama", {"hidden_act": "gelu"}) == []
    assert checked("llama", {"hidden_act": "gelu_pytorch_tanh"}, **{kernel: True}) == []


@pytest.mark.parametrize(
    "config",
    [
        {"rms_norm_eps": "1e-6"}, {"rms_norm_eps": float("nan")}, {"rope_theta": None}, {"rope_theta": [1e4]},
        {"sliding_window": "4096"}, {"sliding_window": -1}, {"max_position_embeddings": True}, {"layer_types": "full"},
        {"hidden_act": None}, {"hidden_act": ["silu"]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_the_wrong_type_are_refused(family: str, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid, match=next(iter(config))):
        checked(family, config)


# What is warned of.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [1, "yes", True, [1], {"a": None}, 0, float("inf"), False, ""])
def test_a_field_that_nobody_knows_is_warned_of_with_its_value(family: str, value: object) -> None:
    (warning,) = checked(family, {"a_field_of_their_own": value, "nothing": None, "empty": {}, "none": []})
    assert f"a_field_of_their_own={value!r}" in warning
    assert "nothing=" not in warning
    assert "empty" not in warning


def test_null_says_nothing_of_experts_that_there_are_not() -> None:
    assert checked("llama", {"num_experts_per_tok": None}) == []


def test_fields_of_another_family_are_warned_of() -> None:
    (warning,) = checked("qwen3", {name: 2 for name in READ_BY_FAMILY["qwen3_moe"] if name != "num_local_experts"})
    assert "norm_topk_prob=2" in warning


def test_so_is_what_no_kind_of_positions_reads() -> None:
    (warning,) = checked("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mscale": 3.0}})
    assert "rope_scaling.mscale=3.0" in warning


def test_experts_that_transformers_would_not_norm_are_warned_of() -> None:
    (warning,) = check_config({"model_type": "qwen3_moe"}, "qwen3_moe", {}, WHERE)
    assert "norm_topk_prob" in warning


def test_odd_names_make_a_sentence() -> None:
    (warning,) = checked("llama", {"\ud800\n": 1, **{f"field_{number}": number + 1 for number in range(50)}})
    warning.encode()
    assert "and 31 more" in warning
    with pytest.raises(BadInput) as refused:
        checked("llama", {"rope_parameters": {"\ud800": {"rope_theta": 1.0}, "b": 3}})
    str(refused.value).encode()
