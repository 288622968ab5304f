"""Refusals that no golden case holds, and what a plan says of itself."""

from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.failures import (
    ConfigInvalid,
    LayoutRefused,
    TensorMissing,
    TensorShapeMismatch,
    UnknownModelType,
)
from neuronmodel_worker.layouts.flags import LAYOUT_VERSION
from neuronmodel_worker.layouts.heads import place_heads
from neuronmodel_worker.plan import make_plan
from tests.generated import write_checkpoint
from tests.unit.worker.sharding import CONFIG, small_plan, small_source
from tests.unit.worker.test_stream_property import decoder_tensors


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_source(tmp_path_factory.mktemp("source"))


REFUSED: list[tuple[str, Any]] = [
    ("cp_degree", 2),
    ("mlp_cp_degree", 2),
    ("attention_dp_degree", 2),
    ("pp_degree", 2),
    ("ep_degree", 2),
    ("world_size", 8),
    ("lora_config", {"max_loras": 1}),
    ("quantized", True),
    ("quantized_checkpoints_path", "/x"),
    ("quantized_mlp_kernel_enabled", True),
    ("activation_quantization_type", "dynamic"),
    ("is_medusa", True),
    ("enable_fused_speculation", True),
    ("enable_eagle_speculation", True),
    ("is_eagle_draft", True),
    ("padded_hidden_size", 128),
    ("attn_block_cte_nki_kernel_enabled", True),
    ("a_flag_of_tomorrow", 1),
    ("torch_dtype", "torch.bfloat16"),
    ("cast_type", "never"),
    ("fused_qkv", 1),
    ("tp_degree", 0),
    ("tp_degree", True),
    ("start_rank_id", 1),
    ("local_ranks_size", 5),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_flag_without_a_layout_is_refused_by_name(name: str, value: Any, source: Path) -> None:
    with pytest.raises(LayoutRefused, match=name):
        small_plan(source, **{name: value})


OFF: list[tuple[str, Any]] = [
    ("cp_degree", 1),
    ("world_size", 4),
    ("lora_config", None),
    ("quantized", False),
    ("a_flag_of_tomorrow", None),
    ("batch_size", 8),
    ("on_device_sampling_config", {"top_k": 1}),
    ("attn_kernel_enabled", True),
    ("qkv_kernel_enabled", True),
    ("torch_dtype", "bfloat16"),
]


@pytest.mark.parametrize(("name", "value"), OFF)
def test_a_flag_that_changes_nothing_changes_nothing(name: str, value: Any, source: Path) -> None:
    plain, flagged = small_plan(source), small_plan(source, **{name: value})
    assert flagged.targets == plain.targets
    assert flagged.layout_inputs() == plain.layout_inputs()


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
    with pytest.raises(UnknownModelType, match=r"'gpt2'.*llama"):
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
