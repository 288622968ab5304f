"""NxD Inference reads a checkpoint of transformers 5 in the form of transformers 4, and computes the same."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from neuronmodel_api import names
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.engines import Sampling
from neuronmodel_worker.failures import BadInput, ConfigInvalid, LayoutRefused
from neuronmodel_worker.plan.native import make_native_plan
from neuronmodel_worker.plan.streamed import make_plan
from tests.unit.worker.engines.models import edit_config, shard, write_model
from tests.unit.worker.engines.nxdi.conftest import SMALL, Calls, MakeEngine, no_progress
from tests.unit.worker.engines.test_config_forms import LINEAR, LLAMA_THREE, in_new_form

PROMPT = [5, 6, 7, 8, 9]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def tokens(make_engine: MakeEngine, source: Path, compiled: Path) -> list[int]:
    plan, ranks = shard(source, SMALL)
    engine = make_engine(source, SMALL, generation_config={"pad_token_id": 2})
    compiled.mkdir()
    engine.compile(plan, SMALL, compiled, no_progress)
    answer = engine.open(compiled).load(ranks).generate(PROMPT, Sampling(temperature=0.0))
    return [token for token, _ in zip(answer, range(12), strict=False)]


def expected(model: LlamaForCausalLM, prompt: Sequence[int]) -> list[int]:
    ids = torch.tensor([list(prompt)])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=-1)
    found: list[int] = made[0, len(prompt) :].tolist()
    return found


@pytest.mark.usefixtures("in_process", "devices")
@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA_THREE])
def test_answers_are_those_of_the_older_form(
    make_engine: MakeEngine, source: Path, tmp_path: Path, scaling: dict[str, Any] | None
) -> None:
    model = write_model(source, rope_theta=500.0, rope_scaling=scaling)
    in_new_form(source, {"rope_theta": 500.0, **(scaling or {})}, dtype="float32")
    assert tokens(make_engine, source, tmp_path / "compiled") == expected(model, PROMPT)


@pytest.mark.usefixtures("in_process", "devices")
def test_the_library_is_given_a_folder_with_links_and_the_older_form(
    make_engine: MakeEngine, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: Calls
) -> None:
    monkeypatch.setenv(names.ENV_POD_UID, "pod-1")
    write_model(source)
    in_new_form(source, {"rope_theta": 500.0, **LLAMA_THREE})
    tokens(make_engine, source, tmp_path / "compiled")
    read = tmp_path / "scratch" / "view" / "pod-1" / "checkpoint"
    assert {file.name for file in read.iterdir()} == {file.name for file in source.iterdir()}
    assert (read / "model.safetensors").resolve() == source / "model.safetensors"
    config = json.loads((read / "config.json").read_bytes())
    assert (config["rope_theta"], config["rope_scaling"]) == (500.0, LLAMA_THREE)
    assert "rope_parameters" not in config
    assert json.loads((read.parent / "neuron_config.json").read_bytes())["_name_or_path"] == str(read)
    paths = {Path(call["model_path"]) for call in called("application")}
    assert read in paths
    assert source not in paths
    assert [folder.name for folder in (tmp_path / "scratch").glob("**/checkpoint")] == ["checkpoint"]  # children's went
    compiled = (tmp_path / "compiled" / "neuron_config.json").read_text()
    assert str(tmp_path) not in compiled


@pytest.mark.usefixtures("in_process", "devices")
def test_the_older_form_is_read_where_it_lies(
    make_engine: MakeEngine, source: Path, tmp_path: Path, called: Calls
) -> None:
    write_model(source, rope_theta=500.0)
    tokens(make_engine, source, tmp_path / "compiled")
    assert {Path(call["model_path"]) for call in called("application")} == {source}
    assert not list((tmp_path / "scratch").glob("**/checkpoint"))


def test_both_forms_have_the_same_graph_and_the_same_native_shards(make_engine: MakeEngine, source: Path) -> None:
    write_model(source, rope_theta=500.0, rope_scaling=LLAMA_THREE)
    edit_config(source, dtype="float32")

    def inputs() -> tuple[object, object]:
        checkpoint = open_checkpoint(source)
        native = make_native_plan(checkpoint, SMALL).layout_inputs()
        return make_engine(source, SMALL).graph_inputs(make_plan(checkpoint, SMALL), SMALL), native

    old = inputs()
    in_new_form(source, {"rope_theta": 500, **LLAMA_THREE})
    assert inputs() == old


def native(source: Path, **changes: Any) -> object:
    write_model(source)
    edit_config(source, **changes)
    return make_native_plan(open_checkpoint(source), SMALL).layout_inputs()["config"]


def test_native_weights_of_any_type_are_read_in_the_older_form(source: Path) -> None:
    config = native(source, model_type="gemma3", rope_theta=None, rope_parameters={"rope_theta": 5e5})
    assert isinstance(config, dict)
    assert config["rope_theta"] == 5e5
    assert "rope_parameters" not in config


@pytest.mark.parametrize(
    ("changes", "kind", "what"),
    [
        ({"model_type": "gemma3", "rope_parameters": {"rope_theta": 5e5}}, ConfigInvalid, "rope_theta"),
        (
            {
                "model_type": "gemma3",
                "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
            },
            LayoutRefused,
            "'full_attention' and 'sliding_attention'",
        ),
        ({"attention_multiplier": 0.5}, LayoutRefused, "attention_multiplier"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 32}, BadInput, "dyn"),
    ],
)
def test_native_weights_that_the_library_would_compute_differently_are_refused(
    source: Path, changes: dict[str, Any], kind: type[BadInput], what: str
) -> None:
    with pytest.raises(kind, match=what):
        native(source, **changes)


def test_native_weights_are_warned_of_too(source: Path) -> None:
    write_model(source)
    edit_config(source, our_own_field=3)
    (warning,) = make_native_plan(open_checkpoint(source), SMALL).warnings
    assert "our_own_field=3" in warning


def test_folders_of_runs_do_not_meet(source: Path, tmp_path: Path) -> None:
    from neuronmodel_worker.engines.nxdi.load_directory import readable

    write_model(source)
    in_new_form(source, {"rope_theta": 500.0})
    (tmp_path / "scratch").mkdir()
    with readable(source, tmp_path / "scratch") as one, readable(source, tmp_path / "scratch") as other:
        assert one != other
        assert list(one.iterdir())
    assert not one.exists()
