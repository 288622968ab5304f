"""The Neuron engine as the worker uses it: keys, the view, failures while loading, what a start is given."""

import json
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_api.config import Server
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.engines import DevicesInUse, open_engine
from neuronmodel_worker.engines.neuron import NeuronEngine
from neuronmodel_worker.engines.nxdi.neuron_failures import (
    DeviceFailed,
    DeviceMemoryExhausted,
    HostMemoryExhausted,
    LogicalCoreMismatch,
    NeuronRuntimeFailed,
    NeuronVersionMismatch,
    NoNeuronDevice,
)
from neuronmodel_worker.failures import ArtifactDamaged, FlagsRefused, WorkerFailure
from neuronmodel_worker.plan.native import make_native_plan
from neuronmodel_worker.plan.streamed import make_plan
from tests.unit.standins.conftest import Importer
from tests.unit.worker.engines.models import edit_config, shard, write_model
from tests.unit.worker.engines.nxdi.conftest import SMALL, Calls, MakeEngine, no_progress, worker_config


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_model(tmp_path / "source")
    return tmp_path / "source"


def inputs(make_engine: MakeEngine, source: Path, flags: Mapping[str, Any], **settings: Any) -> dict[str, object]:
    return make_engine(source, flags, **settings).graph_inputs(make_plan(open_checkpoint(source), flags), flags)


# Keys.


def test_the_version_is_that_of_every_package(make_engine: MakeEngine, source: Path) -> None:
    parts = make_engine(source, SMALL).version().split()
    packages = ("libneuronxla", "neuronx-cc", "neuronx-distributed", "neuronx-distributed-inference", "torch-neuronx")
    assert parts[1:] == [f"{name}-{metadata.version(name)}" for name in packages]


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 128}, {"batch_size": 4}, {"tp_degree": 1}, {"torch_dtype": "bfloat16"}, {"fused_qkv": True},
        {"attn_kernel_enabled": True}, {"cc_pipeline_tiling_factor": 1}, {"logical_nc_config": 1},
        {"on_device_sampling_config": {"top_k": 1}}, {"start_rank_id": 1, "local_ranks_size": 2},
    ],
)  # fmt: skip
def test_flags_that_shape_the_graph_are_in_its_inputs(
    make_engine: MakeEngine, source: Path, change: dict[str, Any]
) -> None:
    assert inputs(make_engine, source, {**SMALL, **change}) != inputs(make_engine, source, SMALL)


def test_a_strategy_is_not_in_them(make_engine: MakeEngine, source: Path) -> None:
    strategy = {"save_sharded_checkpoint": True, "skip_sharding": True, "skip_warmup": True}
    assert inputs(make_engine, source, {**SMALL, **strategy}) == inputs(make_engine, source, SMALL)


def test_neither_are_weights_and_paths(make_engine: MakeEngine, source: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "other", seed=1)
    edit_config(tmp_path / "other", _name_or_path="/models/other", transformers_version="4.0", eos_token_id=7)
    one, other = inputs(make_engine, source, SMALL), inputs(make_engine, tmp_path / "other", SMALL)
    assert one == other
    assert str(tmp_path) not in json.dumps(one)


def test_the_architecture_and_the_compilers_environment_are(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = inputs(make_engine, source, SMALL)
    edit_config(source, rope_theta=500000.0)
    changed = inputs(make_engine, source, SMALL)
    assert changed != before
    monkeypatch.setenv("NEURON_CC_FLAGS", "-O3")
    assert inputs(make_engine, source, SMALL) != changed


def test_the_platform_is_that_of_the_machine(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE")
    assert inputs(make_engine, source, SMALL)["platform"] == "trn2"
    flags = {**SMALL, "logical_nc_config": 1}
    assert inputs(make_engine, source, flags, instance_type="trn1.32xlarge")["platform"] == "trn1"


def test_logical_cores_that_the_machine_does_not_make_are_refused_before_the_compiler_runs(
    make_engine: MakeEngine, source: Path
) -> None:
    with pytest.raises(LogicalCoreMismatch, match=r"trn1\.32xlarge makes logical cores of 1"):
        inputs(make_engine, source, SMALL, instance_type="trn1.32xlarge")


def test_shards_of_the_librarys_own_are_unchecked(make_engine: MakeEngine, source: Path) -> None:
    plan = make_native_plan(open_checkpoint(source), SMALL, None)
    assert make_engine(source, SMALL).graph_inputs(plan, SMALL)["tensors"] == "unchecked"


def test_wrong_flags_are_refused_before_anything_is_imported(make_engine: MakeEngine, source: Path) -> None:
    for name in [name for name in sys.modules if name.startswith("neuronx_distributed_inference")]:
        del sys.modules[name]
    with pytest.raises(FlagsRefused, match="max_context_length=256"):
        inputs(make_engine, source, {**SMALL, "max_context_length": 256})
    assert not [name for name in sys.modules if name.startswith("neuronx_distributed_inference")]


def test_a_flag_for_vllm_alone_is_taken_with_vllm(make_engine: MakeEngine, source: Path) -> None:
    of_blocks = {
        "is_prefix_caching": True,
        "is_block_kv_layout": True,
        "pa_block_size": SMALL["seq_len"],
        "pa_num_blocks": 3,
    }
    flags = {**SMALL, **of_blocks, "is_continuous_batching": True, "ctx_batch_size": 1}
    plan = make_native_plan(open_checkpoint(source), flags, None)
    make_engine(source, flags, server=Server.VLLM).graph_inputs(plan, flags)
    with pytest.raises(FlagsRefused, match="VLLM"):
        make_engine(source, flags).graph_inputs(plan, flags)


# Starts.


def compiled_model(engine: NeuronEngine, source: Path, flags: Mapping[str, Any] = SMALL) -> Path:
    directory = source.parent / "compiled"
    directory.mkdir()
    engine.compile(make_plan(open_checkpoint(source), flags), flags, directory, no_progress)
    return directory


@pytest.mark.usefixtures("in_process", "devices")
def test_a_start_reads_through_a_view_of_its_own(
    make_engine: MakeEngine, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: Calls
) -> None:
    monkeypatch.setenv(names.ENV_POD_UID, "pod-1")
    (tmp_path / "shards" / "weights").mkdir(parents=True)
    engine = make_engine(source, SMALL)
    directory = compiled_model(engine, source)
    view = engine.open(directory, tmp_path / "shards").view
    assert view == tmp_path / "scratch" / "view" / "pod-1"
    assert (view / "model.pt").resolve() == directory / "model.pt"
    assert (view / "weights").resolve() == tmp_path / "shards" / "weights"
    config = json.loads((view / "neuron_config.json").read_text())
    assert config["_name_or_path"] == str(source)
    flags = config["neuron_config"]
    assert (flags["save_sharded_checkpoint"], flags["skip_sharding"]) == (True, True)
    assert (flags["start_rank_id"], flags["local_ranks_size"]) == (0, 3)
    again = json.loads((engine.open(directory).view / "neuron_config.json").read_text())["neuron_config"]
    assert (again["save_sharded_checkpoint"], again["skip_sharding"]) == (False, False)
    assert not (view / "weights").exists()


@pytest.mark.usefixtures("in_process", "devices")
def test_the_library_takes_back_what_the_view_says_of_the_platforms_own_logical_cores(
    make_engine: MakeEngine, source: Path, neuron: Importer
) -> None:
    """It saves them as an enumeration's member, which is an object in JSON, and reads a number."""
    flags = {name: value for name, value in SMALL.items() if name != "logical_nc_config"}
    engine = make_engine(source, flags)
    view = engine.open(compiled_model(engine, source, flags)).view
    application = neuron("neuronx_distributed_inference.utils.constants").MODEL_TYPES["llama"]["causal-lm"]
    assert application(str(view)).neuron_config.logical_nc_config == 2


@pytest.mark.usefixtures("in_process", "devices")
def test_the_library_is_loaded_as_its_own_command_loads_it_but_for_the_warm_up(
    make_engine: MakeEngine, source: Path, called: Calls
) -> None:
    engine = make_engine(source, SMALL)
    compiled = engine.open(compiled_model(engine, source))
    compiled.load(shard(source, SMALL)[1])
    (load,) = called("load")
    assert load["path"] == f"{compiled.view}/"
    assert (load["start_rank_id"], load["local_ranks_size"], load["skip_warmup"]) == (0, 3, True)
    assert called("load_weights") == []
    variables = {"NEURON_RT_VIRTUAL_CORE_SIZE": "2", "NEURON_RT_NUM_CORES": "3", "NEURON_RT_EXEC_TIMEOUT": "600"}
    assert variables.items() <= os.environ.items()


@pytest.mark.usefixtures("in_process", "devices")
@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("no-device", NoNeuronDevice),
        ("cores-busy", DevicesInUse),
        ("device-memory", DeviceMemoryExhausted),
        ("host-memory", HostMemoryExhausted),
        ("hardware", DeviceFailed),
        ("neff-version", NeuronVersionMismatch),
        ("logical-cores", LogicalCoreMismatch),
        ("runtime-unknown", NeuronRuntimeFailed),
    ],
)
def test_failures_of_a_load_are_distinguished_also_by_what_was_only_logged(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch, what: str, kind: type[WorkerFailure]
) -> None:
    engine = make_engine(source, SMALL)
    compiled = engine.open(compiled_model(engine, source))
    monkeypatch.setenv("NEURON_STANDIN_FAIL", what)
    with pytest.raises(kind) as failure:
        compiled.load(shard(source, SMALL)[1])
    assert type(failure.value) is kind


@pytest.mark.usefixtures("in_process", "devices")
def test_devices_that_were_in_use_take_the_same_tensors_later(
    make_engine: MakeEngine, source: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine(source, SMALL)
    compiled, ranks = engine.open(compiled_model(engine, source)), shard(source, SMALL)[1]
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "cores-busy:1")
    with pytest.raises(DevicesInUse):
        compiled.load(ranks)
    assert "not available - Requested:3 Available:0" in capfd.readouterr().err
    assert compiled.load(ranks).limits.sequence_length == 64


@pytest.mark.usefixtures("in_process", "devices")
def test_a_graph_for_checked_ranks_is_not_loaded_without_them(make_engine: MakeEngine, source: Path) -> None:
    engine = make_engine(source, SMALL)
    compiled = engine.open(compiled_model(engine, source))
    with pytest.raises(ArtifactDamaged, match="takes ranks, and none came"):
        compiled.load(None)


@pytest.mark.usefixtures("in_process", "devices")
@pytest.mark.parametrize("sealed", [True, False])
def test_the_librarys_own_shards_are_loaded_by_itself(
    make_engine: MakeEngine, source: Path, tmp_path: Path, called: Calls, sealed: bool
) -> None:
    engine, plan = make_engine(source, SMALL), make_native_plan(open_checkpoint(source), SMALL, None)
    directory, shards = tmp_path / "compiled", tmp_path / "shards"
    directory.mkdir()
    shards.mkdir()
    engine.compile(plan, SMALL, directory, no_progress)
    if sealed:
        engine.shard(plan, SMALL, shards, no_progress)
    engine.open(directory, shards if sealed else None).load(None)
    assert [call["from_files"] for call in called("load_weights")] == [sealed]
    assert len(called("shard_checkpoint")) == 1


@pytest.mark.parametrize("damage", ["model.pt", "neuron_config.json", "neuronmodel.json"])
@pytest.mark.usefixtures("in_process", "devices")
def test_a_compiled_model_that_is_not_whole_is_damaged(make_engine: MakeEngine, source: Path, damage: str) -> None:
    engine = make_engine(source, SMALL)
    directory = compiled_model(engine, source)
    (directory / damage).unlink()
    with pytest.raises(ArtifactDamaged, match="no compiled model of the Neuron engine"):
        engine.open(directory)


def test_the_worker_opens_it_by_its_name(neuron: Importer, source: Path, tmp_path: Path) -> None:
    assert isinstance(open_engine(worker_config(source, SMALL, tmp_path)), NeuronEngine)
