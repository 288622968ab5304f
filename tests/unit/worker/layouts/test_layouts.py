"""Refusals that no golden case holds, and what a plan says of itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import (
    BadInput,
    ConfigInvalid,
    LayoutRefused,
    ModelTypeWithoutLayout,
    TensorMissing,
    TensorShapeMismatch,
)
from neuronmodel_worker.layouts import FAMILIES as FAMILY_LAYOUTS
from neuronmodel_worker.layouts.heads import place_heads
from neuronmodel_worker.layouts.sharding_flags import LAYOUT_VERSION
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from tests.generated import write_checkpoint
from tests.model_cases import FAMILIES, TYPES, cases, decoder_tensors, headers
from tests.nxdi_flags import (
    NO_EFFECT,
    NO_EFFECT_TOGETHER,
    NO_LAYOUT,
    OFF,
    PARTNERS,
    QWEN3_MOE_NO_LAYOUT,
    UNKNOWN_EFFECT,
)
from tests.paths import PROJECT
from tests.reference_layout import CHOICES, OUTPUT_KERNELS, SPARSE, refusals
from tests.reference_layout import SWITCHES as KNOWN_SWITCHES
from tests.unit.worker.sharding import CONFIG, small_plan, small_source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_source(tmp_path_factory.mktemp("source"))


REFUSED: list[tuple[str, Any]] = [
    *NO_LAYOUT.items(),
    *UNKNOWN_EFFECT.items(),
    ("world_size", 8),
    ("world_size", True),
    ("attn_block_cte_nki_kernel_enabled", True),
    ("torch_dtype", "torch.bfloat16"),
    ("cast_type", "never"),
    ("fused_qkv", 1),
    ("fused_qkv", "false"),
    ("tp_degree", 0),
    ("tp_degree", True),
    ("tp_degree", "4"),
    ("tp_degree", 1_000_000_000),
    ("start_rank_id", 1),
    ("start_rank_id", 10**9),
    ("local_ranks_size", 5),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_flag_without_a_layout_is_refused_by_name(name: str, value: Any, source: Path) -> None:
    with pytest.raises(LayoutRefused, match=name):
        small_plan(source, **{name: value})


@pytest.mark.parametrize(("name", "value"), QWEN3_MOE_NO_LAYOUT.items())
def test_fields_of_experts_are_refused_for_qwen3_moe_alone(name: str, value: Any) -> None:
    wide = {**MODELS["qwen3_moe"], "moe_intermediate_size": 128, "intermediate_size": 128}
    case = {"hf_config": wide, "tensors": decoder_tensors(wide), "dtype": "bfloat16"}
    with pytest.raises(LayoutRefused, match=name):
        make_plan(headers(case), {"tp_degree": 2, name: value})
    assert same(family_plan("mixtral", {name: value}), family_plan("mixtral", {}))


@pytest.mark.parametrize(
    "members", [{"use_shard_on_intermediate_dynamic_while": True}, {"parallelize_token_to_block_mapping": False}]
)
def test_members_that_change_the_experts_of_qwen3_moe_are_refused_for_it_alone(members: dict[str, bool]) -> None:
    """They pad the experts, or leave the tensor of their ranks out; Mixtral's code does not look at them."""
    fields = {"blockwise_matmul_config": {"block_size": 256, **members}}
    with pytest.raises(LayoutRefused, match=f"blockwise_matmul_config.{next(iter(members))}"):
        family_plan("qwen3_moe", fields)
    assert same(family_plan("mixtral", fields), family_plan("mixtral", {}))


@pytest.mark.parametrize(
    ("family", "model", "fields", "what"),
    [
        ("mistral", {"sliding_window": 64}, {"windowed_context_encoding_size": 32}, "is not .* sliding_window, 64"),
        ("qwen2", {"sliding_window": 64, "use_sliding_window": True}, {"windowed_context_encoding_size": 32}, "64"),
        ("llama", {"attention_chunk_size": 64}, {"is_prefix_caching": True, "is_block_kv_layout": True}, "in chunks"),
        ("llama", {"attention_chunk_size": 64}, {"padding_side": "left"}, "padding_side='left' .* in chunks"),
        ("llama", {"hidden_act": "sill"}, {}, "hidden_act 'sill'"),
        ("mixtral", {"hidden_act": "gelu_new"}, {}, "hidden_act 'gelu_new'"),
        ("mixtral", {"num_experts_per_tok": 1}, {"disable_normalize_top_k_affinities": True}, "num_experts_per_tok 1"),
        ("qwen3_moe", {"num_experts_per_tok": 3}, {}, "num_experts_per_tok 3"),
        ("llama", {}, {"attn_cls": "Llama4Attention"}, "attn_cls="),
        ("llama", {}, {"chunked_prefill_config": {"max_num_seqs": 8}, "is_block_kv_layout": True}, "chunked_prefill"),
        ("qwen3", {}, {"ep_dispatch_cc_option": "AG"}, "AR_AG, RS_AG, AG_AR"),
        ("qwen3_moe", {}, {"glu_type": "relu"}, "glu or swiglu"),
        ("qwen3_moe", {}, {"glu_mlp": False}, "glu_mlp=False"),
        ("mixtral", {}, {"router_config": {"dtyp": "float32"}}, "router_config.dtyp="),
        ("mixtral", {}, {"router_config": {"dtype": "f32"}}, "has to be one of bfloat16, float16, float32"),
        ("qwen3_moe", {}, {"blockwise_matmul_config": {"block_sharding_strategy": "X"}}, "HI_LO, PING_PONG"),
        ("qwen3", {}, {"attn_tkg_nki_kernel_enabled": True, "flash_decoding_enabled": True}, "attn_tkg_nki_kernel_en"),
        ("qwen2", {}, {"is_prefix_caching": True, "is_block_kv_layout": True, "speculation_length": 2}, "speculation"),
        ("qwen2", {}, {"max_context_length": 64, "seq_len": 32}, "max_context_length=64 is more than seq_len=32"),
        ("qwen2", {}, {"context_encoding_buckets": [256]}, "one of 256, more than max_context_length=128"),
    ],
)  # fmt: skip
def test_what_the_library_does_not_build_is_refused_before_anything_is_sharded(
    family: str, model: dict[str, Any], fields: dict[str, Any], what: str
) -> None:
    config = {**MODELS[family], **model}
    case = {"hf_config": config, "tensors": decoder_tensors(config), "dtype": "bfloat16"}
    with pytest.raises(LayoutRefused, match=what):
        make_plan(headers(case), {"tp_degree": 2, **fields})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_that_the_library_has_not_is_warned_about(family: str) -> None:
    plan = family_plan(family, {"normalize_top_k_affinities": True})
    assert any("no field normalize_top_k_affinities" in warning for warning in plan.warnings)
    assert same(plan, family_plan(family, {}))


def test_attention_of_another_type_than_the_model_has_no_layout() -> None:
    fields = {"attention_dtype": "float32", "torch_dtype": "bfloat16"}
    with pytest.raises(LayoutRefused, match="Set cast_type=as-declared, or remove attention_dtype"):
        family_plan("llama", fields)
    with pytest.raises(LayoutRefused, match="no layout for attention_dtype='float32'"):
        family_plan("llama", {**fields, "cast_type": "as-declared"})


@pytest.mark.parametrize(
    ("family", "head_dim", "rows"),
    [("qwen3", 128, 128), ("qwen3", None, 128), ("qwen3", None, 8), ("qwen3_moe", None, 8)],
)
def test_a_head_dim_of_null_is_as_good_as_none(family: str, head_dim: int | None, rows: int) -> None:
    model = {**MODELS[family], "head_dim": rows, "hidden_size": 32}
    case = {"hf_config": {**model, "head_dim": head_dim}, "tensors": decoder_tensors(model), "dtype": "bfloat16"}
    plan = make_plan(headers(case), {"tp_degree": 2})
    named = make_plan(headers({**case, "hf_config": model}), {"tp_degree": 2})
    assert plan.targets == named.targets
    assert any("head_dim as null" in warning for warning in plan.warnings) == (head_dim is None)


def test_a_kernel_that_experts_are_too_narrow_for_changes_nothing() -> None:
    fields = {"moe_fused_nki_kernel_enabled": True}
    assert same(family_plan("qwen3_moe", fields), family_plan("qwen3_moe", {}))


NEUTRAL: list[tuple[str, Any]] = [
    *NO_EFFECT.items(),
    *OFF.items(),
    ("world_size", 2),
    ("torch_dtype", "bfloat16"),
    ("pa_block_size", 128),
]


@pytest.mark.parametrize(("name", "value"), NEUTRAL)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_flag_that_changes_nothing_changes_nothing(family: str, name: str, value: Any) -> None:
    flags = {} if family in ("mistral", "mixtral") else {"fused_qkv": True}
    assert same(family_plan(family, {**flags, name: value}), family_plan(family, flags))


@pytest.mark.parametrize("fields", NO_EFFECT_TOGETHER, ids=lambda fields: next(iter(fields)))
@pytest.mark.parametrize("family", FAMILIES)
def test_fields_that_change_nothing_together_change_nothing(family: str, fields: dict[str, Any]) -> None:
    types: dict[str, Any] = {name: fields[name] for name in ("torch_dtype", "cast_type") if name in fields}
    assert same(family_plan(family, fields), family_plan(family, types))


@pytest.mark.parametrize(("name", "partners"), PARTNERS.items())
@pytest.mark.parametrize("family", FAMILIES)
def test_a_switch_of_a_kernel_changes_nothing_but_the_kernel(family: str, name: str, partners: tuple[str, ...]) -> None:
    kernels = dict.fromkeys(partners, True)
    if family == "qwen3_moe":  # refuses it without
        kernels |= {CASCADED: True} if "attn_tkg" in partners[0] else {}
    assert same(family_plan(family, {**kernels, name: True}), family_plan(family, kernels))


@pytest.mark.parametrize(
    ("families", "flags"),
    [
        (FAMILIES, {"qkv_kernel_enabled": True}),
        (FAMILIES, {"qkv_nki_kernel_enabled": True}),
        (FAMILIES, {"fused_rmsnorm_skip_gamma": True, "sequence_parallel_enabled": True}),
        (FAMILIES[1:], {"vocab_parallel": True}),
        (FAMILIES[1:], {"fused_rmsnorm_skip_gamma": True, "qkv_kernel_enabled": True}),
        (SPARSE, {"mlp_kernel_enabled": True}),
        (SPARSE, {"mlp_tkg_nki_kernel_enabled": True}),
    ],
)
def test_a_flag_that_a_family_pays_no_heed_to_changes_nothing(families: list[str], flags: dict[str, Any]) -> None:
    for family in families:
        assert same(family_plan(family, flags), family_plan(family, {}))


@pytest.mark.parametrize("alias", OUTPUT_KERNELS[1:])
def test_the_kernels_of_the_output_projection_are_laid_out_alike(alias: str) -> None:
    for family in FAMILIES:
        kernel = {"qkv_kernel_enabled": True, **({CASCADED: True} if family == "qwen3_moe" else {})}
        aliased = family_plan(family, {alias: True, **kernel})
        assert same(aliased, family_plan(family, {"out_proj_kernel_enabled": True, "qkv_kernel_enabled": True}))
        assert not same(aliased, family_plan(family, {"qkv_kernel_enabled": True}))


def test_float32_throughout_is_the_same_however_it_is_cast() -> None:
    float32 = {"torch_dtype": "float32"}
    assert same(family_plan("llama", {**float32, "cast_type": "as-declared"}), family_plan("llama", float32))


def same(one: StreamedPlan, other: StreamedPlan) -> bool:
    """Whether both make the same shards, which their keys must say too."""
    bytes_ = (one.targets, one.rank_tensors, one.ranks) == (other.targets, other.rank_tensors, other.ranks)
    assert bytes_ == (one.layout_inputs() == other.layout_inputs())
    return bytes_


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_shards_are_refused_exactly_when_a_rule_says_so(family: str, data: st.DataObject) -> None:
    case = data.draw(cases(family, misfits=True))
    broken = refusals(case)
    sentence = refusal_of(case)
    if not broken:
        assert sentence is None
        return
    assert sentence
    assert any(all(word in sentence for word in words) for words in broken), sentence
    assert_sentence(sentence)


def refusal_of(case: dict[str, Any]) -> str | None:
    try:
        plan = make_plan(headers(case), case["neuron_config"])
    except BadInput as failure:
        return str(failure)
    assert plan.targets
    return None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_one_key_is_of_one_content(data: st.DataObject) -> None:
    case = data.draw(cases(data.draw(st.sampled_from(FAMILIES))))
    flags = case["neuron_config"]
    toggled = data.draw(st.sampled_from([*KNOWN_SWITCHES, "cast_type", "torch_dtype"]))
    other = {**flags, toggled: not flags.get(toggled)}
    if toggled == "cast_type":
        other[toggled] = "config" if flags.get(toggled) == "as-declared" else "as-declared"
    if toggled == "torch_dtype":
        other[toggled] = data.draw(TYPES)
    checkpoint = headers(case)
    try:
        plans = make_plan(checkpoint, flags), make_plan(checkpoint, other)
    except LayoutRefused:
        return
    if plans[0].layout_inputs() == plans[1].layout_inputs():
        assert same(*plans)


def test_a_saved_configuration_of_defaults_is_as_good_as_an_empty_one() -> None:
    defaults: dict[str, Any] = dict.fromkeys(NO_LAYOUT) | dict.fromkeys(UNKNOWN_EFFECT)
    defaults |= {"glu_type": "glu", "quantization_scale_dtype": "f32", "seq_len": 256, "pa_block_size": 256}
    assert same(family_plan("llama", defaults), family_plan("llama", {}))


ABSURD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=300)
    | st.sampled_from(["bfloat16", "torch.bfloat16", "auto", "128", "true", [], {}, 10**300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["model_type", "head_dim", "num_key_value_heads", "dtype", "torch_dtype", "mlp_only_layers"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_absurd_configurations_end_in_a_sentence(data: st.DataObject) -> None:
    model = MODELS[data.draw(st.sampled_from(FAMILIES))]
    config = {**model, **data.draw(st.dictionaries(st.sampled_from([*model, *FIELDS]), ABSURD, max_size=3))}
    for name in data.draw(st.sets(st.sampled_from([*model]), max_size=2)):
        config.pop(name, None)
    names = st.sampled_from([*KNOWN_SWITCHES, *CHOICES, *NO_LAYOUT, *UNKNOWN_EFFECT, *NO_EFFECT]) | st.text(
        max_size=200
    )
    flags = {"tp_degree": 2, **data.draw(st.dictionaries(names, ABSURD, max_size=3))}
    case = {"hf_config": config, "neuron_config": flags, "tensors": decoder_tensors(model), "dtype": "bfloat16"}
    sentence = refusal_of(case)
    if sentence:
        assert_sentence(sentence)


def assert_sentence(text: str) -> None:
    assert text.endswith(".")
    assert len(text) < 1000
    assert "Traceback" not in text
    assert "Error" not in text


@pytest.mark.parametrize("family", FAMILIES)
def test_absent_sizes_are_what_transformers_takes(family: str) -> None:
    # Slow to import, and needed here alone.
    from transformers import CONFIG_MAPPING

    theirs = CONFIG_MAPPING[family]()
    ours = FAMILY_LAYOUTS[family].config()
    for name in type(ours).model_fields.keys() & theirs.to_dict().keys() - {"dtype", "torch_dtype"}:
        own = ours.key_value_heads if name == "num_key_value_heads" else getattr(ours, name)
        divided = family == "llama" and name == "head_dim"
        assert (own or None) == (getattr(theirs, name) or None) or (divided and own is None), name


def test_absent_sizes_are_warned_of(tmp_path: Path) -> None:
    config = {**CONFIG, "model_type": "mistral", "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8}
    absent = {name: value for name, value in config.items() if name != "num_key_value_heads"}
    case = {"hf_config": absent, "tensors": decoder_tensors(config), "dtype": "bfloat16"}
    (warning,) = small_plan(write_checkpoint(tmp_path, case)).warnings
    assert "num_key_value_heads 8" in warning


def test_layers_and_biases_that_are_left_out_are_warned_of() -> None:
    model = {**MODELS["qwen3"], "attention_bias": True, "mlp_bias": True, "num_hidden_layers": 2}
    config = {**model, "mlp_bias": False, "num_hidden_layers": 1}
    plan = make_plan(headers({"hf_config": config, "tensors": decoder_tensors(model), "dtype": "float16"}), {})
    *_, biases, layers = plan.warnings
    assert "self_attn.q_proj" in biases
    assert "mlp.gate_proj" in biases
    assert "more than the 1 layers" in layers


def test_names_without_the_prefix_are_the_same_tensors() -> None:
    model, tensors = MODELS["llama"], decoder_tensors(MODELS["llama"])
    bare = [(name.removeprefix("model."), shape) for name, shape in tensors]
    plan = make_plan(headers({"hf_config": model, "tensors": bare, "dtype": "bfloat16"}), {})
    assert [target.name for target in plan.targets] == [target.name for target in family_plan("llama", {}).targets]
    both = {"hf_config": model, "tensors": [*tensors, *bare], "dtype": "bfloat16"}
    with pytest.raises(LayoutRefused, match="the same tensor"):
        make_plan(headers(both), {})


def test_a_type_that_yields_leaves_the_shards_to_that_of_the_checkpoint() -> None:
    yielding = family_plan("llama", {"torch_dtype": "float32", "overrides_torch_dtype": False})
    assert same(yielding, family_plan("llama", {"torch_dtype": "bfloat16"}))
    assert not same(yielding, family_plan("llama", {"torch_dtype": "float32"}))


def test_the_reference_names_every_family_and_flag_that_is_not_neutral() -> None:
    page = (PROJECT / "docs" / "reference" / "layouts.md").read_text()
    names = {*FAMILY_LAYOUTS, *KNOWN_SWITCHES, *CHOICES, *NO_LAYOUT, *QWEN3_MOE_NO_LAYOUT, "overrides_torch_dtype"}
    assert not [name for name in names if f"`{name}" not in page]


def test_degrees_that_are_reported_to_fit_do() -> None:
    model = {**MODELS["mixtral"], "vocab_size": 96, "hidden_size": 48, "intermediate_size": 72}
    model |= {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8}
    checkpoint = headers({"hf_config": model, "tensors": decoder_tensors(model), "dtype": "bfloat16"})
    with pytest.raises(LayoutRefused, match=r"Degrees that fit: 1, 3, 6, 12, 24\.$"):
        make_plan(checkpoint, {"tp_degree": 7})
    for degree in range(1, 25):
        try:
            make_plan(checkpoint, {"tp_degree": degree})
        except LayoutRefused:
            assert degree not in (1, 3, 6, 12, 24)
        else:
            assert degree in (1, 3, 6, 12, 24)


MODELS: dict[str, dict[str, Any]] = {
    family: {
        "model_type": family,
        "hidden_size": 16,
        "intermediate_size": 12,
        "moe_intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "vocab_size": 20,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "num_experts": 2,
        "num_local_experts": 2,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
    }
    for family in FAMILIES
}


CASCADED = "attn_block_tkg_nki_kernel_cascaded_attention"


def family_plan(family: str, flags: dict[str, Any]) -> StreamedPlan:
    model = MODELS[family]
    case = {"hf_config": model, "tensors": decoder_tensors(model), "dtype": "bfloat16"}
    return make_plan(headers(case), {"tp_degree": 2, **flags})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tp_degree", 2),
        ("torch_dtype", "float32"),
        ("cast_type", "as-declared"),
        ("fused_qkv", True),
        ("vocab_parallel", True),
        ("mlp_kernel_enabled", True),
        ("out_proj_kernel_enabled", True),
        ("local_ranks_size", 2),
    ],
)
def test_a_flag_that_changes_shards_changes_what_the_key_is_made_from(name: str, value: Any, source: Path) -> None:
    plain, flagged = small_plan(source), small_plan(source, **{name: value})
    assert flagged.layout_inputs() != plain.layout_inputs()
    assert flagged.layout_inputs()["layout_version"] == LAYOUT_VERSION


def test_an_unknown_model_type_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelTypeWithoutLayout, match=r"'gpt2'.*llama"):
        small_plan(small_source(tmp_path, model_type="gpt2"))


def test_the_spec_may_say_the_model_type(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(small_source(tmp_path, model_type="my-llama"))
    assert make_plan(checkpoint, {"tp_degree": 1}, model_type="llama").layout.family == "llama"


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_that_lacks_a_size_is_refused_by_field(field: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=field):
        small_plan(without(tmp_path, field))


def without(directory: Path, field: str) -> Path:
    config = {name: value for name, value in CONFIG.items() if name != field}
    case = {"hf_config": config, "tensors": decoder_tensors(CONFIG), "dtype": "bfloat16"}
    return write_checkpoint(directory, case)


def test_a_tensor_that_the_checkpoint_lacks_is_named(tmp_path: Path) -> None:
    tensors = [each for each in decoder_tensors(CONFIG) if each[0] != "model.layers.1.mlp.up_proj.weight"]
    write_checkpoint(tmp_path, {"hf_config": CONFIG, "tensors": tensors, "dtype": "bfloat16"})
    with pytest.raises(TensorMissing, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        small_plan(tmp_path)


def test_a_tensor_of_another_shape_than_the_config_says_is_named(tmp_path: Path) -> None:
    tensors = [(name, [7, 64] if name == "lm_head.weight" else shape) for name, shape in decoder_tensors(CONFIG)]
    write_checkpoint(tmp_path, {"hf_config": CONFIG, "tensors": tensors, "dtype": "bfloat16"})
    with pytest.raises(TensorShapeMismatch, match=r"lm_head\.weight has shape \[7, 64\].*\[128, 64\]"):
        small_plan(tmp_path)


def test_layers_and_tensors_beyond_the_model_are_left_out(tmp_path: Path) -> None:
    tensors = [
        *decoder_tensors({**CONFIG, "num_hidden_layers": 3}),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", [8]),
    ]
    write_checkpoint(tmp_path, {"hf_config": CONFIG, "tensors": tensors, "dtype": "bfloat16"})
    plan = small_plan(tmp_path)
    assert not [tensor.name for tensor in plan.tensors if "layers.2" in tensor.name or "inv_freq" in tensor.name]
    assert plan.source_bytes == sum(
        source.nbytes for name, source in plan.checkpoint.tensors.items() if name in plan.reads
    )


def test_the_sentence_about_heads_names_degrees_that_fit() -> None:
    with pytest.raises(LayoutRefused, match=r"Degrees that fit: 1, 3, 6, 9, 12,") as refusal:
        place_heads(12, 3, 4)
    for degree in (1, 3, 6, 9, 12):
        place_heads(12, 3, degree)
    assert "3 key/value heads do not fit tensor parallel degree 4" in str(refusal.value)


def test_key_value_heads_are_repeated_in_place_and_query_heads_padded_after_each_group() -> None:
    plan = place_heads(query=6, key_value=2, degree=4)
    assert plan.key_value == (0, 0, 1, 1)
    assert plan.query == (0, 1, 2, None, 3, 4, 5, None)


def test_heads_of_plain_attention_are_padded_at_the_end() -> None:
    plan = place_heads(query=4, key_value=4, degree=3)
    assert plan.query == plan.key_value == (0, 1, 2, 3, None, None)


def test_the_same_weights_with_other_heads_have_another_key(tmp_path: Path) -> None:
    """A corrected config.json changes no weight, and so no content, but what is cut where."""
    plain = small_plan(small_source(tmp_path / "plain"))
    halved = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    other = small_plan(small_source(tmp_path / "other", **halved))
    assert plain.targets != other.targets
    assert plain.layout_inputs() != other.layout_inputs()
    tied = small_plan(small_source(tmp_path / "tied", tie_word_embeddings=True))
    assert plain.layout_inputs() != tied.layout_inputs()


def test_what_config_json_leaves_out_and_says_alike_has_one_key(tmp_path: Path) -> None:
    """Notes, names, and what transformers takes by itself."""
    source = small_source(tmp_path)
    plain, config = small_plan(source), json.loads((source / "config.json").read_text())
    assert config.pop("head_dim") == 16
    (source / "config.json").write_text(json.dumps({**config, "mlp_bias": None, "torch_dtype": "bfloat16", "note": 1}))
    assert small_plan(source).layout_inputs() == plain.layout_inputs()


UNUSED = [
    ("llama", "model.layers.0.self_attn.q_norm.weight"),
    ("llama", "model.layers.0.self_attn.sinks"),
    ("llama", "model.layers.0.post_feedforward_layernorm.weight"),
    ("llama", "model.layers.0.input_layernorm.bias"),
    ("llama", "lm_head.bias"),
    ("qwen3_moe", "model.layers.0.mlp.shared_expert.gate_proj.weight"),
    ("qwen3_moe", "model.layers.0.mlp.gate.e_score_correction_bias"),
]


def warnings_with(family: str, *names: str, **fields: Any) -> tuple[str, ...]:
    """Of a checkpoint that holds tensors of these names, too."""
    model = {**MODELS[family], **fields}
    tensors = [*decoder_tensors({**model, "tie_word_embeddings": False}), *([name, [8]] for name in names)]
    return make_plan(headers({"hf_config": model, "tensors": tensors, "dtype": "bfloat16"}), {}).warnings


@pytest.mark.parametrize(("family", "name"), UNUSED)
def test_a_tensor_that_the_model_does_not_have_is_warned_of(family: str, name: str) -> None:
    warning = next(each for each in warnings_with(family, name) if name in each)
    assert "holds a tensor that" in warning
    assert "left out" in warning


def test_tensors_that_are_left_out_are_one_warning() -> None:
    names = ["model.layers.0.extra.weight", *(f"extra.{number}" for number in range(1234))]
    (warning,) = (each for each in warnings_with("llama", *names) if "left out" in each)
    assert "1,235 tensors" in warning
    assert "extra.0, extra.1, extra.10 and 1,232 more" in warning


def test_what_is_without_effect_is_not_warned_of() -> None:
    layer = "model.layers.0.self_attn."
    names = [f"{layer}rotary_emb.inv_freq", f"{layer}masked_bias", f"{layer}bias", "model.embeddings.position_ids"]
    assert warnings_with("llama", *names, "model.rotary_emb.inv_freq") == warnings_with("llama")


def test_a_bias_of_any_layer_is_warned_of() -> None:
    *_, warning = warnings_with("llama", "model.layers.1.self_attn.q_proj.bias", num_hidden_layers=2)
    assert warning.startswith("The biases of self_attn.q_proj are left out")


def test_a_head_next_to_tied_embeddings_is_warned_of() -> None:
    *_, warning = warnings_with("llama", tie_word_embeddings=True)
    assert "lm_head.weight" in warning
    assert "transformers 5 would use it" in warning
    assert "if it differs" in warning
    model = {**MODELS["llama"], "tie_word_embeddings": True}
    case = {"hf_config": model, "tensors": decoder_tensors(model), "dtype": "bfloat16"}
    shorter = {**case, "tensors": [*decoder_tensors(model), ["lm_head.weight", [8]]]}
    assert not any("lm_head" in each for each in make_plan(headers(case), {}).warnings)
    assert "Its shape is not that" in make_plan(headers(shorter), {}).warnings[-1]
