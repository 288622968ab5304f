"""What a start takes: true of what the layout makes, of what engines and tiers do, and of Llama 3.1 405B."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hack.bench.cases import COMMAND_OF_405B, LLAMA_405B
from hack.bench.checkpoints import write_headers
from neuronmodel_api.config import Engine, Seal, Server, Strategy, Weights, WorkerConfig
from neuronmodel_api.machines import GIB, MACHINES, Machine
from neuronmodel_api.report import Sizing
from neuronmodel_worker.artifact_keys import shard_bytes
from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.engines.llama_graph import empty_cache
from neuronmodel_worker.engines.llama_shape import llama_shape
from neuronmodel_worker.plan.native import make_native_plan
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.scratch_cache.capacity import VolumeSpace
from neuronmodel_worker.sizing import DoesNotFit, check, misfits, require_fit, size
from neuronmodel_worker.sizing.allowances import MIB, VLLM_BYTES, VLLM_BYTES_A_RANK
from neuronmodel_worker.sizing.keyvalue import cache_bytes, cache_shape
from neuronmodel_worker.sizing.needs import ANY_KEY, logical_core_config
from neuronmodel_worker.stream import most_streaming_threads, streaming_threads
from tests.model_cases import FAMILIES, cases, headers
from tests.unit.worker.plan.test_streamed import ANYTHING
from tests.unit.worker.sharding import small_plan, small_source

ON_COMPILE, ON_LOAD = Strategy.SHARD_ON_COMPILE, Strategy.SHARD_ON_LOAD
TRN2, SMALL_TRN2 = MACHINES["trn2.48xlarge"], MACHINES["trn2.3xlarge"]
COUNTS = ("batch_size", "seq_len", "max_length", "kv_cache_batch_size", "kv_cache_padding_size", "tp_degree")
KINDS = ("kv_cache_quant", "kv_quant_config", "attention_dtype", "torch_dtype", "apply_seq_ids_mask")
BLOCKS = ("is_block_kv_layout", "is_prefix_caching", "pa_num_blocks", "pa_block_size", "flash_decoding_enabled")
CORES = ("logical_nc_config", "logical_neuron_cores", "scratchpad_page_size")
SIZES = (*COUNTS, *KINDS, *BLOCKS, *CORES)


def config_of(fields: Mapping[str, Any], **changes: Any) -> WorkerConfig:
    return WorkerConfig(namespace="", name="", uid="", spec_hash="", neuron_config=dict(fields), **changes)


def refusal(plan: Any, config: WorkerConfig) -> str:
    with pytest.raises(DoesNotFit) as refused:
        require_fit(plan, config)
    return str(refused.value)


@pytest.fixture(scope="module")
def llama_405b(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Its headers."""
    directory = tmp_path_factory.mktemp("405b")
    write_headers(directory, LLAMA_405B)
    return open_checkpoint(directory)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_source(tmp_path_factory.mktemp("small"), files=2)


# Llama 3.1 405B by the command of AWS's weights sharding guide.


def test_405b_fits_a_trn2_at_64_ranks_with_figures_of_the_guide(llama_405b: Checkpoint) -> None:
    plan, config = make_plan(llama_405b, COMMAND_OF_405B), config_of(COMMAND_OF_405B)
    require_fit(plan, config)
    sizing = size(plan, config, ON_LOAD)
    assert (sizing.rank_bytes, sizing.cache_bytes) == (13_615_923_708, 126 * 2 * 2048 * 128 * 2)
    assert sizing.core_bytes == 24 * GIB
    assert sizing.reserve_bytes == 2 * 96 * MIB + 512 * MIB + GIB
    assert 871e9 < sizing.host_memory_bytes - 12 * GIB < 871e9 + 1.5 * GIB
    assert not sizing.estimated


def test_405b_does_not_fit_with_64_ranks_on_single_cores(llama_405b: Checkpoint) -> None:
    fields = {**COMMAND_OF_405B, "logical_nc_config": 1}
    message = refusal(make_plan(llama_405b, fields), config_of(fields))
    assert "does not fit a trn2.48xlarge. A rank takes 15.5 GB of device memory" in message
    assert "a logical core has 12.9 GB (12 GiB)" in message
    assert "logical cores, and it has" not in message


def test_405b_fits_all_128_single_cores(llama_405b: Checkpoint) -> None:
    """Of 8 key/value heads every rank has one, so there is more of them in all."""
    fields = {**COMMAND_OF_405B, "logical_nc_config": 1, "tp_degree": 128, "local_ranks_size": 128}
    plan, config = make_plan(llama_405b, fields), config_of(fields)
    require_fit(plan, config)
    sizing = size(plan, config, ON_COMPILE)
    assert 7.3e9 < sizing.rank_bytes < 7.4e9
    assert plan.output_bytes > 930e9
    assert sizing.core_bytes == 12 * GIB


def test_405b_finds_too_few_cores_on_a_small_trn2(llama_405b: Checkpoint) -> None:
    message = refusal(make_plan(llama_405b, COMMAND_OF_405B), config_of(COMMAND_OF_405B, instance_type="trn2.3xlarge"))
    assert "64 ranks need as many logical cores, and it has 4 (1 device of 8 cores, 2 to a logical one)" in message
    assert "host memory" not in message  # how much it has is not known


def test_405b_on_the_four_cores_of_a_small_trn2_is_too_much_for_each(llama_405b: Checkpoint) -> None:
    fields = {**COMMAND_OF_405B, "tp_degree": 4, "local_ranks_size": 4}
    message = refusal(make_plan(llama_405b, fields), config_of(fields, instance_type="trn2.3xlarge"))
    assert "a logical core has 25.8 GB (24 GiB)" in message
    assert "logical cores, and it has" not in message


def test_everything_that_does_not_fit_is_reported_at_once(llama_405b: Checkpoint) -> None:
    fields = {**COMMAND_OF_405B, "seq_len": 1 << 16}
    message = refusal(make_plan(llama_405b, fields), config_of(fields, instance_type="trn1.32xlarge"))
    assert "64 ranks need as many logical cores, and it has 32" in message
    assert "a logical core has 17.2 GB (16 GiB)" in message
    assert "of host memory, and the machine has 550 GB (512 GiB)" in message


def test_405b_sharded_by_the_library_is_an_estimate_near_the_plan(llama_405b: Checkpoint) -> None:
    planned = size(make_plan(llama_405b, COMMAND_OF_405B), config_of(COMMAND_OF_405B), ON_COMPILE)
    config = config_of(COMMAND_OF_405B, weights=Weights.NATIVE)
    plan = make_native_plan(llama_405b, COMMAND_OF_405B)
    on_compile, on_load = size(plan, config, ON_COMPILE), size(plan, config, ON_LOAD)
    assert on_compile.estimated
    assert planned.rank_bytes <= on_compile.rank_bytes < 1.1 * planned.rank_bytes
    assert on_compile.cache_bytes == planned.cache_bytes
    assert on_load.host_memory_bytes - on_compile.host_memory_bytes == plan.source_bytes
    require_fit(plan, config)


# The key/value cache.


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(FAMILIES).flatmap(cases))
def test_a_rank_caches_the_heads_whose_weights_it_has(case: dict[str, Any]) -> None:
    plan = make_plan(headers(case), case["neuron_config"])
    cache, targets = plan.layout.cache, {target.name: target for target in plan.targets}
    assert cache is not None
    assert cache.layers == case["hf_config"].get("num_hidden_layers", cache.layers)
    prefix = f"layers.{cache.layers - 1}.self_attn.qkv_proj."
    assert f"layers.{cache.layers}.input_layernorm.weight" not in targets
    if key := targets.get(f"{prefix}k_proj.weight"):
        rows = key.blocks[0].rows
    else:
        rows = targets[f"{prefix}Wqkv.weight"].blocks[0].parts[1].split.rows
    assert cache.heads * cache.head_size == rows


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_without_a_layout_heads_are_dealt_out_by_the_same_rules(small: Path, degree: int) -> None:
    checkpoint, fields = open_checkpoint(small), {"tp_degree": degree}
    native = cache_shape(make_native_plan(checkpoint, fields), fields)
    assert native == cache_shape(make_plan(checkpoint, fields), fields)


def test_the_language_model_of_a_multimodal_one_is_what_caches(small: Path) -> None:
    checkpoint = open_checkpoint(small)
    nested = Checkpoint(
        checkpoint.source,
        {"model_type": "llama4", "text_config": dict(checkpoint.config)},
        checkpoint.tensors,
        checkpoint.files,
    )
    fields = {"tp_degree": 2}
    shape = cache_shape(make_native_plan(nested, fields), fields)
    assert shape == cache_shape(make_plan(checkpoint, fields), fields)
    unknown = Checkpoint(checkpoint.source, {"model_type": "other"}, checkpoint.tensors, checkpoint.files)
    assert cache_bytes(make_native_plan(unknown, fields), fields) == 0


@given(batch=st.integers(1, 64), length=st.integers(1, 1 << 20))
def test_the_cache_grows_with_batch_and_length(cached: StreamedPlan, batch: int, length: int) -> None:
    one = cache_bytes(cached, {"batch_size": 1, "seq_len": 1})
    assert one > 0
    assert cache_bytes(cached, {"batch_size": batch, "seq_len": length}) == one * batch * length


@pytest.fixture(scope="module")
def cached(small: Path) -> StreamedPlan:
    return small_plan(small)


@pytest.mark.parametrize(
    ("fields", "positions", "element"),
    [
        ({}, 128, 2),
        ({"batch_size": 4, "seq_len": 1000}, 4000, 2),
        ({"seq_len": 1000, "max_length": 2000}, 2000, 2),
        ({"batch_size": 4, "kv_cache_batch_size": 8, "kv_cache_padding_size": 1}, 9 * 128, 2),
        ({"seq_len": 1000, "apply_seq_ids_mask": True}, 1128, 2),
        ({"is_block_kv_layout": True, "pa_num_blocks": 7, "pa_block_size": 32}, 7 * 32, 2),
        ({"is_block_kv_layout": True, "is_prefix_caching": True, "pa_num_blocks": 7, "pa_block_size": 32}, 8 * 32, 2),
        ({"seq_len": 1000, "kv_cache_quant": True}, 1000, 1),
        ({"seq_len": 1000, "flash_decoding_enabled": True, "tp_degree": 4}, 500 + 128, 2),
        ({"attention_dp_degree": 2, "batch_size": 8}, (4 + 1) * 128, 2),
        (
            {
                "attention_dp_degree": 2,
                "batch_size": 8,
                "attn_block_tkg_nki_kernel_cascaded_attention": True,
            },
            4 * 128,
            2,
        ),
    ],
)
def test_the_cache_is_as_large_as_the_library_makes_it(
    cached: StreamedPlan, fields: dict[str, Any], positions: int, element: int
) -> None:
    shape = cached.layout.cache
    assert shape is not None
    each = 2 * shape.layers * shape.heads * shape.head_size * element
    assert cache_bytes(cached, fields) == positions * each


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_cpu_engine_caches_as_many_numbers_in_float32(small: Path, dtype: str) -> None:
    fields = {"tp_degree": 4, "torch_dtype": dtype, "seq_len": 96, "batch_size": 3}
    plan = make_plan(open_checkpoint(small), fields)
    cache = empty_cache(llama_shape(plan, fields))
    keys = sum(each.element_size() * each.numel() for each in cache)
    assert cache_bytes(plan, fields, Engine.CPU) * 4 == 2 * keys


@settings(max_examples=300, deadline=None)
@given(
    fields=st.dictionaries(st.sampled_from(SIZES), ANYTHING, max_size=6),
    strategy=st.sampled_from(Strategy),
)
def test_whatever_the_flags_are_there_is_a_size(
    cached: StreamedPlan, fields: dict[str, Any], strategy: Strategy
) -> None:
    sizing = size(cached, config_of(fields), strategy)
    assert sizing.host_memory_bytes >= cached.output_bytes
    assert Sizing.model_validate(sizing.model_dump()) == sizing


SIZES_OF_A_MODEL = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size")


@settings(max_examples=300, deadline=None)
@given(
    config=st.fixed_dictionaries({}, optional=dict.fromkeys([*SIZES_OF_A_MODEL, "text_config"], ANYTHING)),
    degree=st.one_of(st.sampled_from([1, 2, 3, 8, 64, 10**9]), ANYTHING),
)
@example(config={"num_hidden_layers": 2, "head_dim": 4}, degree=1)
@example(config={"num_hidden_layers": 2, "head_dim": 4, "num_attention_heads": 10**12}, degree=1)
@example(config={"num_hidden_layers": 2, "head_dim": 4, "num_attention_heads": 5, "num_key_value_heads": 2}, degree=1)
def test_whatever_config_json_says_a_cache_is_guessed_or_not(
    cached: StreamedPlan, config: dict[str, Any], degree: Any
) -> None:
    known = cached.checkpoint
    plan = replace(make_native_plan(known, {}), checkpoint=Checkpoint(known.source, config, known.tensors, known.files))
    fields = {"tp_degree": degree}
    sizing = size(plan, config_of(fields, weights=Weights.NATIVE), ON_LOAD)
    assert sizing.cache_bytes == min(cache_bytes(plan, fields), (1 << 63) - 1)
    assert (sizing.cache_bytes > 0) == (cache_shape(plan, fields) is not None)


# Host memory and scratch.


def test_a_start_that_shards_holds_its_buffers_in_addition_to_the_tensors(cached: StreamedPlan) -> None:
    config = config_of({})
    read, shard = (size(cached, config, strategy).host_memory_bytes for strategy in (ON_COMPILE, ON_LOAD))
    behind = size(cached, config.model_copy(update={"seal": Seal.BEHIND}), ON_COMPILE).host_memory_bytes
    assert cached.output_bytes < read < shard
    assert shard <= behind


def test_copies_take_host_memory_and_disk_of_volumes_that_the_spec_names(cached: StreamedPlan) -> None:
    without, with_tier = (size(cached, config_of({}, scratch_tier=tier), ON_LOAD) for tier in (False, True))
    assert (without.copy_bytes, without.scratch_bytes) == (0, with_tier.scratch_bytes)
    assert with_tier.copy_bytes > 0
    assert with_tier.host_memory_bytes >= without.host_memory_bytes + 192 * MIB
    native = config_of({}, scratch_tier=True, weights=Weights.NATIVE)
    assert size(make_native_plan(cached.checkpoint, {}), native, ON_LOAD).copy_bytes == 0


@pytest.mark.parametrize("strategy", [ON_COMPILE, ON_LOAD])
@pytest.mark.parametrize("engine", list(Engine))
def test_the_least_volume_that_keeps_a_copy(cached: StreamedPlan, engine: Engine, strategy: Strategy) -> None:
    sizing = size(cached, config_of({}, scratch_tier=True, engine=engine), strategy)
    copy = (
        shard_bytes(cached, ANY_KEY) if strategy is ON_COMPILE else sum(file.nbytes for file in cached.checkpoint.files)
    )
    limit, used = sizing.scratch_bytes + sizing.copy_bytes, sizing.scratch_bytes
    assert VolumeSpace(1 << 50, 1 << 50, limit, used).writable_bytes >= copy
    assert VolumeSpace(1 << 50, 1 << 50, limit - limit // 100 - 2, used).writable_bytes < copy


def test_vllm_takes_shared_memory_that_counts_as_the_pods_memory(cached: StreamedPlan) -> None:
    alone, served = (size(cached, config_of({}, server=server), ON_COMPILE) for server in (Server.OPENAI, Server.VLLM))
    assert (alone.shared_memory_bytes, served.shared_memory_bytes) == (0, 2 * GIB)
    assert served.host_memory_bytes - alone.host_memory_bytes == VLLM_BYTES + served.shared_memory_bytes


def test_vllm_on_processors_holds_the_tensors_twice_and_a_process_for_each_rank(cached: StreamedPlan) -> None:
    alone, served = (
        size(cached, config_of({"tp_degree": 4}, engine=Engine.CPU, server=server), ON_COMPILE)
        for server in (Server.OPENAI, Server.VLLM)
    )
    processes = VLLM_BYTES + 4 * VLLM_BYTES_A_RANK + served.shared_memory_bytes
    assert served.host_memory_bytes - alone.host_memory_bytes == cached.output_bytes + processes


def test_the_cpu_engine_holds_its_cache_in_host_memory_and_needs_no_core(cached: StreamedPlan) -> None:
    short, long = (config_of({"tp_degree": 4, "seq_len": n}, engine=Engine.CPU) for n in (128, 4096))
    more = size(cached, long, ON_COMPILE).host_memory_bytes - size(cached, short, ON_COMPILE).host_memory_bytes
    assert more == 4 * (4096 - 128) * cache_bytes(cached, {"seq_len": 1}, Engine.CPU)
    assert (size(cached, short, ON_COMPILE).core_bytes, size(cached, short, ON_COMPILE).reserve_bytes) == (None, 0)


def test_no_start_reads_with_more_threads() -> None:
    assert streaming_threads() <= most_streaming_threads()


# Machines.


NEEDED = Sizing(
    host_memory_bytes=100 * GIB, scratch_bytes=2 * GIB, copy_bytes=1 << 50, rank_bytes=3 * GIB, core_bytes=4 * GIB,
    cache_bytes=GIB // 2, reserve_bytes=GIB // 2,
)  # fmt: skip
JUST = Machine("just", 1, 4, 8 * GIB, "trn2", (2,), 100 * GIB, 2 * GIB)
ON_NODE = config_of({}, scratch_on_node=True)


def test_what_just_fits_fits() -> None:
    assert misfits(NEEDED, ON_NODE, 2, JUST) == ()


@pytest.mark.parametrize(
    ("sizing", "machine", "ranks", "message"),
    [
        (NEEDED, JUST, 3, "3 ranks need as many logical cores"),
        (NEEDED, replace(JUST, logical_core_configs=(1,)), 2, "made of 2 physical ones, and a just makes one of 1"),
        (NEEDED.model_copy(update={"cache_bytes": GIB}), JUST, 2, "of device memory (weights 3.22 GB, key/value cache"),
        (NEEDED, replace(JUST, memory_bytes=100 * GIB - 1), 2, "of host memory"),
        (NEEDED, replace(JUST, nvme_bytes=2 * GIB - 1), 2, "NVMe"),
    ],
)
def test_what_just_does_not_fit_is_reported(sizing: Sizing, machine: Machine, ranks: int, message: str) -> None:
    (sentence,) = misfits(sizing, ON_NODE, ranks, machine)
    assert message in sentence


def test_a_volume_that_is_not_the_nodes_needs_no_nvme() -> None:
    assert misfits(NEEDED, config_of({}, scratch_on_node=False), 2, replace(JUST, nvme_bytes=1)) == ()


def test_what_a_machine_has_and_nobody_knows_refuses_nothing() -> None:
    lacking = replace(JUST, memory_bytes=1, nvme_bytes=1)
    assert len(misfits(NEEDED, ON_NODE, 2, lacking)) == 2
    assert len(misfits(NEEDED, ON_NODE, 2, replace(lacking, memory_bytes=None))) == 1
    assert misfits(NEEDED, ON_NODE, 2, replace(lacking, memory_bytes=None, nvme_bytes=None)) == ()


@pytest.mark.parametrize("instance_type", ["", "m7i.large", "trn9.96xlarge"])
def test_an_unknown_machine_refuses_nothing(instance_type: str) -> None:
    check(NEEDED, config_of({}, instance_type=instance_type), 10_000)


def test_the_cpu_engine_is_refused_by_no_machine() -> None:
    check(NEEDED, config_of({}, engine=Engine.CPU, instance_type="trn2.3xlarge"), 10_000)


def test_estimates_refuse_nothing_and_missing_cores_do() -> None:
    guessed = NEEDED.model_copy(update={"estimated": True, "rank_bytes": 1 << 50, "host_memory_bytes": 1 << 50})
    assert misfits(guessed, ON_NODE, 2, JUST) == ()
    assert len(misfits(guessed, ON_NODE, 3, JUST)) == 1


AMOUNTS = st.integers(0, 64).map(lambda count: count * GIB)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    memory, nvme = draw(st.none() | AMOUNTS), draw(st.none() | AMOUNTS)
    return Machine("drawn", draw(st.integers(1, 4)), 8, draw(AMOUNTS), "trn2", (1, 2), memory, nvme)


@given(machine=machines(), ranks=st.integers(1, 32), needed=AMOUNTS, each=st.sampled_from([1, 2]))
def test_a_larger_machine_takes_what_a_smaller_one_does(machine: Machine, ranks: int, needed: int, each: int) -> None:
    config = config_of({"logical_nc_config": each}, scratch_on_node=True)

    def refused(on: Machine) -> int:
        sizing = Sizing(host_memory_bytes=needed, rank_bytes=needed, core_bytes=on.core_bytes(each, ranks))
        return len(misfits(sizing, config, ranks, on))

    larger = replace(
        machine,
        devices=2 * machine.devices,
        device_bytes=2 * machine.device_bytes,
        memory_bytes=machine.memory_bytes and 2 * machine.memory_bytes,
    )
    assert refused(larger) <= refused(machine)


def test_a_core_alone_on_its_bank_may_fill_it() -> None:
    """As in the report of AWS's page on device memory, where one of two has 20 GB at LNC 1."""
    assert [TRN2.core_bytes(1, ranks) // GIB for ranks in (1, 2, 128)] == [24, 12, 12]
    assert [TRN2.core_bytes(2, ranks) // GIB for ranks in (1, 64)] == [24, 24]
    assert [MACHINES["trn1.32xlarge"].core_bytes(1, ranks) // GIB for ranks in (1, 32)] == [16, 16]


@pytest.mark.parametrize(
    ("fields", "machine", "expected"),
    [
        ({}, "trn2.48xlarge", 2),
        ({}, "trn1.32xlarge", 1),
        ({}, "unheard.of", 2),
        ({"logical_nc_config": 1}, "trn2.48xlarge", 1),
        ({"logical_neuron_cores": 1}, "trn2.48xlarge", 1),
    ],
)
def test_a_logical_core_is_what_the_flag_or_the_machine_says(
    fields: dict[str, Any], machine: str, expected: int
) -> None:
    assert logical_core_config(config_of(fields, instance_type=machine)) == expected


def test_a_larger_scratchpad_page_is_reserved(cached: StreamedPlan) -> None:
    usual, larger = (size(cached, config_of(fields), ON_LOAD) for fields in ({}, {"scratchpad_page_size": 2048}))
    assert larger.reserve_bytes - usual.reserve_bytes == 1536 * MIB


@pytest.fixture
def narrow(cached: StreamedPlan, monkeypatch: pytest.MonkeyPatch) -> WorkerConfig:
    """A machine with memory for one strategy alone."""
    config = config_of({}, instance_type="narrow")
    enough = size(cached, config, ON_COMPILE).host_memory_bytes
    monkeypatch.setitem(MACHINES, "narrow", replace(SMALL_TRN2, name="narrow", memory_bytes=enough))
    return config


def test_auto_is_refused_where_neither_strategy_fits(cached: StreamedPlan, narrow: WorkerConfig) -> None:
    auto = narrow.model_copy(update={"strategy": Strategy.AUTO})
    require_fit(cached, auto)
    assert "of host memory" in refusal(cached, narrow.model_copy(update={"strategy": ON_LOAD}))
    MACHINES["narrow"] = replace(MACHINES["narrow"], memory_bytes=GIB)
    assert "of host memory" in refusal(cached, auto)
