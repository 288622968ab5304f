"""The plan of shards that NxD Inference makes itself: estimates that are near, keys that never say too little, remedies
that name the way."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hack.bench.cases import COMMAND_OF_405B, LLAMA_405B
from hack.bench.checkpoints import write_headers
from neuronmodel_api.config import Engine, Weights, WorkerConfig
from neuronmodel_worker.artifact_keys import plan_for
from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.failures import BadInput, LayoutRefused, ModelTypeWithoutLayout
from neuronmodel_worker.layouts.flag_support import NEUTRAL
from neuronmodel_worker.layouts.geometry import row_bytes
from neuronmodel_worker.plan.native import PADDING, RUNTIME, STRATEGY, FlagNamesNothing, NativePlan, make_native_plan
from neuronmodel_worker.plan.streamed import make_plan
from tests.model_cases import headers
from tests.nxdi_flags import NO_EFFECT, NO_LAYOUT, UNKNOWN_EFFECT
from tests.paths import GOLDEN
from tests.unit.worker.sharding import small_source

CASES = [path for path in sorted(GOLDEN.glob("*/*.json")) if path.name != "errors.json"]
OTHER_FLAGS = {**NO_EFFECT, **NO_LAYOUT, **UNKNOWN_EFFECT, "fused_qkv": True, "torch_dtype": "float32"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_source(tmp_path_factory.mktemp("native") / "source")


def native(source: Path | Checkpoint, **flags: Any) -> NativePlan:
    checkpoint = open_checkpoint(source) if isinstance(source, Path) else source
    return make_native_plan(checkpoint, {"tp_degree": 4, **flags})


def config_of(flags: dict[str, Any], **changes: Any) -> WorkerConfig:
    return WorkerConfig(namespace="", name="", uid="", spec_hash="", neuron_config=flags, **changes)


# Estimates


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_an_estimate_is_enough_for_what_is_known_and_not_half_as_much_again(path: Path) -> None:
    case = json.loads(path.read_text())
    known = make_plan(headers(case), case["neuron_config"])
    estimated = make_native_plan(headers(case), case["neuron_config"])
    assert estimated.ranks == known.ranks
    assert known.output_bytes <= estimated.output_bytes < 1.5 * known.output_bytes


def test_405b_is_estimated_as_what_its_shards_have(tmp_path: Path) -> None:
    write_headers(tmp_path, LLAMA_405B)
    checkpoint = open_checkpoint(tmp_path)
    known = make_plan(checkpoint, COMMAND_OF_405B)
    estimated = make_native_plan(checkpoint, COMMAND_OF_405B)
    assert estimated.source_bytes == known.source_bytes
    assert estimated.output_bytes == pytest.approx(PADDING * known.output_bytes, rel=1e-5)


def test_context_parallelism_repeats_attention(source: Path) -> None:
    alone, doubled = native(source), native(source, cp_degree=2)
    checkpoint = open_checkpoint(source)
    attention = sum(each.nbytes for name, each in checkpoint.tensors.items() if "_proj" in name and "self_attn" in name)
    assert attention
    added = doubled.rank_bytes - alone.rank_bytes
    assert PADDING * attention / 4 * 0.99 < added < PADDING * attention / 4 * 1.6


def test_all_tensors_count_as_read(source: Path) -> None:
    plan = native(source)
    assert plan.reads.keys() == plan.checkpoint.tensors.keys()
    assert plan.source_bytes == sum(len(read.rows) * row_bytes(read.source) for read in plan.reads.values())
    assert plan.source_bytes == sum(each.nbytes for each in plan.checkpoint.tensors.values())


# Ranks


@pytest.mark.parametrize(
    ("flags", "ranks", "whole"),
    [
        ({}, range(4), True),
        ({"start_rank_id": 1, "local_ranks_size": 2}, range(1, 3), False),
        ({"pp_degree": 2}, range(8), True),
        ({"ep_degree": 2, "pp_degree": 3, "local_ranks_size": 24}, range(24), True),
        ({"world_size": 8, "local_ranks_size": 4, "start_rank_id": 4}, range(4, 8), False),
    ],
)
def test_ranks_are_those_of_the_whole_world(source: Path, flags: dict[str, Any], ranks: range, whole: bool) -> None:
    plan = native(source, **flags)
    assert (plan.ranks, plan.is_whole) == (ranks, whole)


def test_ranks_past_the_last_are_refused(source: Path) -> None:
    with pytest.raises(LayoutRefused, match=r"Ranks 6 to 9 .* world_size=8 has ranks 0 to 7"):
        native(source, pp_degree=2, start_rank_id=6, local_ranks_size=4)


# Keys


def key(plan: NativePlan) -> str:
    """As the store makes one: two are the same where their JSON is."""
    return json.dumps(plan.layout_inputs(), sort_keys=True)


@pytest.mark.parametrize(("name", "value"), OTHER_FLAGS.items())
def test_a_flag_is_left_out_of_a_key_only_where_it_is_known_to_change_nothing(
    source: Path, tmp_path: Path, name: str, value: Any
) -> None:
    value = json.loads(json.dumps(value).replace('"/', f'"{source}/../'))  # paths have to lead somewhere
    for path in ("x", "quantized"):
        (source.parent / path).touch()
    alike = key(native(source, **{name: value})) == key(native(source))
    assert alike == (name in RUNTIME | STRATEGY)
    unknown = small_source(tmp_path, model_type="wizard")
    alike = key(native(unknown, **{name: value})) == key(native(unknown))
    assert alike == (name in STRATEGY)


def test_what_is_left_out_changes_no_shard_of_ours_either() -> None:
    assert RUNTIME - {"sequence_parallel_enabled"} <= NEUTRAL
    assert STRATEGY - {"start_rank_id", "local_ranks_size"} <= NEUTRAL


def test_a_flag_counts_where_another_one_makes_it_matter(source: Path) -> None:
    skipping = {"fused_rmsnorm_skip_gamma": True}
    assert key(native(source, sequence_parallel_enabled=True)) == key(native(source))
    assert key(native(source, **skipping, sequence_parallel_enabled=True)) != key(native(source, **skipping))


def test_other_ranks_are_another_set(source: Path) -> None:
    assert key(native(source, start_rank_id=0, local_ranks_size=2)) != key(native(source, local_ranks_size=4))
    assert key(native(source, start_rank_id=0, local_ranks_size=4)) == key(native(source))


def test_all_of_the_configuration_counts_but_for_a_checkpoints_name(tmp_path: Path) -> None:
    plain = small_source(tmp_path / "plain")
    named = small_source(tmp_path / "named", _name_or_path="elsewhere", transformers_version="4.51.0")
    other = small_source(tmp_path / "other", rope_scaling={"factor": 2.0})
    assert key(native(plain)) == key(native(named)) != key(native(other))


def test_files_that_flags_name_count_with_their_times(source: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    (quantized / "model.pt").write_bytes(b"one")
    before = native(source, quantized_checkpoints_path=str(quantized))
    assert key(before) == key(native(source, quantized_checkpoints_path=str(quantized)))
    os.utime(quantized / "model.pt", ns=(0, 7))
    assert key(before) != key(native(source, quantized_checkpoints_path=str(quantized)))
    adapter = {"lora_ckpt_paths": {"one": str(quantized / "model.pt")}}
    in_an_object = key(native(source, lora_config=adapter))
    (quantized / "model.pt").write_bytes(b"two more")
    assert key(native(source, lora_config=adapter)) != in_an_object


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("/nowhere/quantized", "names /nowhere/quantized, and there is nothing"), ("quantized.pt", "Name it from /")],
)
def test_a_path_that_leads_nowhere_is_refused(source: Path, path: str, sentence: str) -> None:
    with pytest.raises(FlagNamesNothing, match=sentence) as refused:
        native(source, quantized_checkpoints_path=path)
    assert refused.value.reason == "FlagsRefused"


def test_heads_next_to_the_checkpoint_count(tmp_path: Path) -> None:
    source = small_source(tmp_path)
    before = key(native(source))
    (source / "medusa_heads.pt").write_bytes(b"heads")
    assert key(native(source)) != before


# Remedies


def refusal(flags: dict[str, Any], checkpoint: Checkpoint, **changes: Any) -> BadInput:
    with pytest.raises(BadInput) as refused:
        plan_for(config_of(flags, **changes), checkpoint)
    return refused.value


@pytest.mark.parametrize("flags", [{"cp_degree": 2}, {"newest_flag": 3}, {"world_size": 8}])
def test_the_refusal_of_what_has_no_layout_says_how_to_use_the_librarys_own(
    source: Path, flags: dict[str, Any]
) -> None:
    checkpoint, degree = open_checkpoint(source), {"tp_degree": 4}
    in_a_pod = str(refusal({**degree, **flags}, checkpoint))
    assert in_a_pod.startswith(("There is no layout for ", "It is not known what "))
    assert in_a_pod.endswith(
        ", or set spec.sharding.weights: Native, with which NxD Inference shards the model itself."
    )
    on_processors = str(refusal({**degree, **flags}, checkpoint, engine=Engine.CPU))
    assert on_processors.endswith(("Remove it.", "Remove world_size."))
    with pytest.raises(LayoutRefused) as refused:
        make_plan(checkpoint, {**degree, **flags})
    assert str(refused.value).endswith(
        "or let NxD Inference shard the model itself, as a NeuronModel does with spec.sharding.weights: Native."
    )
    assert isinstance(plan_for(config_of({**degree, **flags}, weights=Weights.NATIVE), checkpoint), NativePlan)


def test_an_unknown_family_gets_the_same_advice(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(small_source(tmp_path, model_type="gemma3"))
    refused = refusal({"tp_degree": 4}, checkpoint)
    assert isinstance(refused, ModelTypeWithoutLayout)
    assert str(refused) == (
        "No layout is known for model type 'gemma3'; there are layouts for llama, mistral, mixtral, qwen2, qwen3, "
        "qwen3_moe. Use a checkpoint of one of these families, or set spec.sharding.weights: Native, with which NxD "
        "Inference shards the model itself."
    )
    plan = plan_for(config_of({"tp_degree": 4}, weights=Weights.NATIVE), checkpoint)
    assert plan.family == "gemma3"
    named = config_of({"tp_degree": 4}, weights=Weights.NATIVE, model_type="llama")
    assert plan_for(named, checkpoint).family == "llama"


@pytest.mark.parametrize("name", ["is_medusa", "enable_fused_speculation", "enable_eagle_speculation"])
def test_what_wants_a_second_model_names_no_way_around(source: Path, name: str) -> None:
    refused = refusal({"tp_degree": 4, name: True}, open_checkpoint(source))
    assert str(refused).startswith(f"{name}=True wants a second model")
    assert str(refused).endswith("Remove it.")


def test_what_the_library_refuses_too_names_no_way_around(source: Path) -> None:
    refused = refusal({"tp_degree": 5}, open_checkpoint(source))
    assert "Native" not in str(refused)
