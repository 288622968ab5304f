"""config.json in the form of transformers 5 is computed as transformers computes it, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.engines.llama_shape import llama_shape
from neuronmodel_worker.failures import BadInput, ConfigInvalid
from neuronmodel_worker.layouts.legacy_config import to_legacy
from neuronmodel_worker.plan.streamed import make_plan
from tests.unit.worker.engines.models import write_model
from tests.unit.worker.engines.test_cpu import logits_of, reference

LLAMA_THREE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0}
FLAGS = {"tp_degree": 3, "torch_dtype": "float32"}


def rewrite(source: Path, without: tuple[str, ...] = (), **changes: Any) -> None:
    """As another release of transformers writes it."""
    file = source / "config.json"
    config = {name: value for name, value in json.loads(file.read_bytes()).items() if name not in without}
    file.write_text(json.dumps({**config, **changes}))


def in_new_form(source: Path, rope_parameters: Any, **others: Any) -> None:
    rewrite(source, ("rope_theta", "rope_scaling", "torch_dtype"), rope_parameters=rope_parameters, **others)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 500000.0}, {"rope_theta": 500000.0, "rope_type": "default"}),
        ({"rope_theta": 500000.0}, {"rope_theta": 500000}),
        ({}, {}),
        ({}, None),
        ({}, {"rope_type": "default"}),
        ({"rope_theta": 20000.0, "rope_scaling": LINEAR}, {"rope_theta": 20000.0, **LINEAR}),
        ({"rope_scaling": LINEAR}, {"type": "linear", "rope_type": "linear", "factor": 4}),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA_THREE}, {"rope_theta": 5e5, **LLAMA_THREE}),
        (
            {"rope_theta": 5e5, "rope_scaling": LLAMA_THREE},
            {key: {"rope_theta": 5e5, **LLAMA_THREE} for key in ("full_attention", "sliding_attention")},
        ),
        ({"rope_theta": 5e5}, {"rope_theta": 5e5, "partial_rotary_factor": 1.0, "factor": None}),
    ],
)
def test_what_transformers_5_writes_is_computed(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any] | None
) -> None:
    model = write_model(tmp_path / "source", **old)
    in_new_form(tmp_path / "source", new)
    assert torch.allclose(logits_of(tmp_path / "source", {"tp_degree": 3}, tmp_path), reference(model), atol=1e-4)


def test_the_trained_length_outside_the_rope_settings_says_nothing(tmp_path: Path) -> None:
    """As in transformers 5; 4 fails without the one within."""
    within = {name: value for name, value in LLAMA_THREE.items() if name != "original_max_position_embeddings"}
    scaling = {**LLAMA_THREE, "original_max_position_embeddings": 256}
    model = write_model(tmp_path / "source", rope_scaling=scaling)
    in_new_form(tmp_path / "source", within, original_max_position_embeddings=16)
    assert torch.allclose(logits_of(tmp_path / "source", {"tp_degree": 3}, tmp_path), reference(model), atol=1e-4)


def test_without_it_the_length_is_that_of_all_positions(tmp_path: Path) -> None:
    """As in transformers 5; 4 fails."""
    within = {name: value for name, value in LLAMA_THREE.items() if name != "original_max_position_embeddings"}
    scaling = {**LLAMA_THREE, "original_max_position_embeddings": 256}
    model = write_model(tmp_path / "source", rope_scaling=scaling)
    in_new_form(tmp_path / "source", within)
    assert torch.allclose(logits_of(tmp_path / "source", {"tp_degree": 3}, tmp_path), reference(model), atol=1e-4)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_type_is_read_by_either_name(tmp_path: Path, name: str, dtype: str) -> None:
    write_model(tmp_path / "source", dtype=getattr(torch, dtype))
    rewrite(tmp_path / "source", ("dtype", "torch_dtype"), **{name: dtype})
    exact = LlamaForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32)
    found = logits_of(tmp_path / "source", {"tp_degree": 1, "torch_dtype": None}, tmp_path)
    assert torch.allclose(found, reference(exact), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4}, ("rope_theta", "rope_parameters.rope_theta")),
        ({"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": LINEAR}, ("rope_parameters", "rope_scaling")),
        ({"rope_parameters": {"type": "linear", "rope_type": "llama3"}}, ("rope_type", "type", "linear", "llama3")),
        ({"rope_scaling": {**LINEAR, "type": "dynamic"}}, ("rope_scaling.rope_type", "rope_scaling.type")),
        (
            {
                "rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 16},
                "original_max_position_embeddings": 32,
            },
            ("original_max_position_embeddings=32", "rope_scaling.original_max_position_embeddings=16"),
        ),
        ({"rope_parameters": []}, ("rope_parameters=[]",)),
        ({"rope_parameters": "default"}, ("rope_parameters='default'",)),
        ({"rope_parameters": {"rope_type": 3}}, ("rope_type=3",)),
        ({"rope_parameters": {"rope_theta": None}}, ("rope_theta=None",)),
        ({"rope_parameters": {"rope_theta": "10000"}}, ("rope_theta='10000'",)),
        ({"rope_parameters": {"rope_theta": float("nan")}}, ("rope_theta=nan",)),
        ({"rope_parameters": {"rope_theta": float("inf")}}, ("rope_theta=inf",)),
        ({"rope_parameters": {"rope_theta": True}}, ("rope_theta=True",)),
        ({"rope_parameters": {"rope_type": "linear"}}, ("linear", "factor")),
        ({"rope_parameters": {**LINEAR, "factor": "4"}}, ("linear", "factor='4'")),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5e5}, "rope_theta": 1e4}}, ("rope_theta",)),
        ({"rms_norm_eps": "1e-05"}, ("rms_norm_eps",)),
        ({"rms_norm_eps": float("nan")}, ("rms_norm_eps",)),
        ({"max_position_embeddings": 256.5}, ("max_position_embeddings",)),
        ({"num_hidden_layers": 2.0}, ("num_hidden_layers",)),
    ],
)
def test_what_contradicts_itself_or_is_no_number_is_reported_by_name(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    write_model(tmp_path / "source")
    rewrite(tmp_path / "source", ("rope_theta", "rope_scaling"), **changes)
    with pytest.raises(ConfigInvalid) as refused:
        make_plan(open_checkpoint(tmp_path / "source"), FLAGS)
    assert all(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.parametrize(
    ("rope_parameters", "words"),
    [
        ({"rope_type": "yarn", "factor": 2.0}, ("yarn",)),
        ({"rope_type": "dynamic", "factor": 2.0}, ("dynamic",)),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}, ("longrope",)),
        ({"rope_type": "proportional"}, ("proportional",)),
        ({"rope_theta": 5e5, "partial_rotary_factor": 0.5}, ("partial_rotary_factor=0.5",)),
        (
            {"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 1e4}},
            ("full_attention", "sliding_attention"),
        ),
        ({"full_attention": None, "sliding_attention": {"rope_theta": 5e5}}, ("full_attention",)),
    ],
)
def test_positions_that_the_engine_does_not_compute_are_refused_by_name(
    tmp_path: Path, rope_parameters: dict[str, Any], words: tuple[str, ...]
) -> None:
    write_model(tmp_path / "source")
    in_new_form(tmp_path / "source", rope_parameters)
    with pytest.raises(BadInput) as refused:
        llama_shape(make_plan(open_checkpoint(tmp_path / "source"), FLAGS), FLAGS)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_types_of_layers_that_are_not_used_say_nothing(tmp_path: Path) -> None:
    by_type = {"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 1e4}}
    write_model(tmp_path / "source")
    in_new_form(tmp_path / "source", by_type, layer_types=["full_attention"] * 2)
    assert llama_shape(make_plan(open_checkpoint(tmp_path / "source"), FLAGS), FLAGS).rope_theta == 5e5


def test_both_forms_have_the_same_keys(tmp_path: Path) -> None:
    write_model(tmp_path / "source", rope_theta=5e5, rope_scaling=LLAMA_THREE)
    old = make_plan(open_checkpoint(tmp_path / "source"), FLAGS)
    in_new_form(tmp_path / "source", {"rope_theta": 500000, **LLAMA_THREE})
    new = make_plan(open_checkpoint(tmp_path / "source"), FLAGS)
    assert old.layout_inputs() == new.layout_inputs()
    assert llama_shape(old, FLAGS) == llama_shape(new, FLAGS)


@pytest.mark.parametrize(
    "config",
    [
        {}, {"rope_theta": 1e4}, {"rope_scaling": None}, {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {**LLAMA_THREE, "extra": None}}, {"dtype": "float16"}, {"torch_dtype": "float16"},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "max_position_embeddings": 64},
        {"model_type": "mixtral", "num_local_experts": 8}, {"model_type": "qwen3_moe", "num_experts": 8},
        {"text_config": {"rope_theta": 1e4}},
    ],
)  # fmt: skip
def test_the_older_form_stays_as_it_is(config: dict[str, Any]) -> None:
    assert to_legacy(config, "config.json") is config


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ({"model_type": "qwen3_moe", "num_local_experts": 4}, {"model_type": "qwen3_moe", "num_experts": 4}),
        ({"rope_scaling": {}}, {"rope_scaling": None}),
        ({"rope_parameters": None}, {}),
        ({"rope_scaling": {"rope_theta": 5e5, **LINEAR}}, {"rope_theta": 5e5, "rope_scaling": LINEAR}),
        (
            {"rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}},
            {"rope_theta": 1e6, "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}},
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, {"partial_rotary_factor": 0.5}),
        (
            {"text_config": {"rope_parameters": {"rope_theta": 1e6}, "hidden_size": 8}},
            {"text_config": {"rope_theta": 1e6, "hidden_size": 8}},
        ),
    ],
)
def test_the_newer_form_says_the_same_in_the_older_one(new: dict[str, Any], old: dict[str, Any]) -> None:
    found = dict(to_legacy(new, "config.json"))
    found.pop("num_local_experts", None)
    assert found == old
